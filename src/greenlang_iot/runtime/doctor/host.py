"""The machine: clock, disk, open files."""

import ctypes
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from greenlang_iot.observe.health import enabled_sinks
from greenlang_iot.runtime.doctor.finding import Finding
from greenlang_iot.settings.model import Settings

LEAST_FREE: Final = 1 << 30
"""Bytes on the disk of data_dir below which a gateway should not be started."""
FILES_NEEDED: Final = 256
FILES_WISHED: Final = 4_096
_CLOCK_UNSYNCHRONISED = 5  # adjtimex: TIME_ERROR


def host(settings: Settings) -> Iterator[Finding]:
    """Look at this machine; changes nothing but a probe file that is removed."""
    yield _clock()
    yield from _disk(settings)
    yield _files(settings)


def _clock() -> Finding:
    subject = "clock"
    buffer = ctypes.create_string_buffer(512)  # struct timex, asked for without a change
    state = ctypes.CDLL(None).adjtimex(buffer)
    if state < 0:
        return Finding(subject, "skipped", "the kernel does not say whether it is synchronised")
    if state == _CLOCK_UNSYNCHRONISED:
        return Finding(
            subject,
            "warning",
            "the kernel says the clock is not synchronised",
            "run an NTP client (chrony, systemd-timesyncd) here or on the container's host: readings "
            "are rejected by their time stamps (limits.max_future, limits.max_age)",
        )
    return Finding(subject, "ok", "synchronised")


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    subject = f"disk: data_dir {folder}"
    above = _existing(folder)
    probe = above / f".doctor-{os.getpid()}"
    try:
        with probe.open("xb") as file:
            os.fsync(file.fileno())
        probe.unlink()
    except OSError as error:
        yield Finding(
            subject,
            "failed",
            f"cannot be written: {error.strerror}",
            f"make {above} writable for this user, or set data_dir",
        )
        return
    free = shutil.disk_usage(above).free
    spooled = sum(name != "lake" for name in enabled_sinks(settings))
    wanted = settings.spool.max_bytes * spooled * settings.runtime.shards
    if settings.sinks.lake.enabled:
        wanted += settings.sinks.lake.max_bytes
    if free < LEAST_FREE:
        yield Finding(
            subject,
            "failed",
            f"{free / 1e9:.1f} GB are free: spool and dead letters have no room",
            f"free at least {LEAST_FREE / 1e9:.0f} GB, or move data_dir",
        )
    elif free < wanted:
        yield Finding(
            subject,
            "warning",
            f"{free / 1e9:.1f} GB are free; spool and lake may grow to {wanted / 1e9:.1f} GB",
            "lower spool.max_bytes (per sink and shard) or sinks.lake.max_bytes, or use a larger disk",
        )
    else:
        yield Finding(subject, "ok", f"writable, {free / 1e9:.1f} GB free")


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _files(settings: Settings) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = sum(b.connections_per_shard for b in settings.mqtt.brokers)
    needed = max(FILES_NEEDED, 4 * connections + 128)
    subject = "open files"
    advice = (
        "raise it: `ulimit -n 65536`, LimitNOFILE= in a systemd unit, --ulimit nofile= for Docker"
    )
    said = f"{soft:,} allowed per process (at most {hard:,})"
    if soft < needed:
        return Finding(subject, "failed", f"{said}; a shard needs about {needed:,}", advice)
    if soft < FILES_WISHED:
        return Finding(subject, "warning", said, advice)
    return Finding(subject, "ok", said)
