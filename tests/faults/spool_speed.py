"""`python -m tests.faults.spool_speed [FOLDER]`: how fast the spool writes, beside the disk's own speed.

The disk's own: a plain file, write and fdatasync every 10 ms, a new file at the size of a segment. Both take
the same bytes, by turns; the best of each counts. The last line is one JSON object.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from greenlang_iot.settings.model import SpoolSettings
from greenlang_iot.spool.log import SegmentLog, SpoolFull

BODY = os.urandom(256 * 1024)
SETTINGS = SpoolSettings()
TURNS = 3
BAR = 200.0
"""MB/s, or what the disk does."""


async def spool(folder: Path, records: int) -> float:
    """Seconds until all records are durable, as a shard appends them."""
    log = SegmentLog(
        folder,
        segment_bytes=SETTINGS.segment_bytes,
        max_bytes=SETTINGS.max_bytes,
        fsync_every=SETTINGS.fsync_every,
    )
    begun = time.monotonic()
    number = 0
    for _ in range(records):
        while True:
            try:
                number = log.append(BODY, 1)
                break
            except SpoolFull:  # what waits in memory is bounded: the disk is the slower one
                await asyncio.sleep(0.001)
        await asyncio.sleep(0)
    await log.durable(number)
    seconds = time.monotonic() - begun
    await log.close()
    return seconds


def plain(folder: Path, records: int) -> float:
    """Seconds that the disk alone takes for the same."""
    folder.mkdir()
    begun = synced = time.monotonic()
    at_once = SETTINGS.segment_bytes // len(BODY)
    for first in range(0, records, at_once):
        with (folder / str(first)).open("wb", buffering=0) as file:
            for _ in range(min(at_once, records - first)):
                file.write(BODY)
                if time.monotonic() - synced >= SETTINGS.fsync_every:
                    os.fdatasync(file.fileno())
                    synced = time.monotonic()
            os.fdatasync(file.fileno())
    return time.monotonic() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("var"))
    parser.add_argument("--megabytes", type=int, default=512)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    records = given.megabytes * 1_000_000 // len(BODY)
    size = records * len(BODY) / 1e6
    found: dict[str, list[float]] = {"spool": [], "disk": []}
    for _ in range(TURNS):
        for name in found:
            folder = Path(tempfile.mkdtemp(prefix="spool-speed-", dir=given.folder))
            try:
                if name == "spool":
                    seconds = asyncio.run(spool(folder / "log", records))
                else:
                    seconds = plain(folder / "plain", records)
            finally:
                shutil.rmtree(folder)
            found[name].append(size / seconds)
    best = {name: max(speeds) for name, speeds in found.items()}
    passed = best["spool"] >= min(BAR, 0.9 * best["disk"])
    report = {
        "megabytes": round(size),
        "fsync_every_ms": SETTINGS.fsync_every * 1e3,
        **{f"{name}_mb_per_second": round(speed) for name, speed in best.items()},
        "all": {name: [round(speed) for speed in speeds] for name, speeds in found.items()},
        "passed": passed,
    }
    print(json.dumps(report), flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
