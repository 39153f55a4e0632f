"""`python -m tests.faults.scale overload|soak|flap|fleet`: what takes longer than a row of the matrix.

overload: InfluxDB takes a fraction of what comes; memory, backlog and acknowledgement times are sampled and
plotted. soak: half load; the slopes of memory, descriptors, threads, tasks and files must be zero within noise.
flap: a soak in which InfluxDB and Kafka go and come back all the time, the lake kept beside them.
fleet: many real TLS connections carry many more devices; then the broker restarts and all come back.
The last line is one JSON object.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tests.faults.__main__ import Result, problems_of
from tests.faults.rows import OVERLOAD, SLOW, Row
from tests.faults.site import Field, Site

PER_PROCESS = ("memory", "memory_supervisor", "descriptors", "threads")
ON_DISK = ("disk", "files")
"""Bytes and files below data_dir, but for what keeps readings and bad messages on purpose."""
KEPT_ON_PURPOSE = {"lake", "dead-letter"}
GAUGES = (
    "tasks",
    "ledger_bytes",
    "messages_unacked",
    "sink_queue_bytes",
    "sink_spool_bytes",
    "connections_paused",
)
SLOWER = {"chunk_rows": 200, "in_flight": 1}
"""With two shards InfluxDB takes 200 readings a second: a fifth of the load of `make overload-test`."""
KEPT_SHORT = {"settings": {"alerts": {"history": 50}}}
"""The book of alerts reaches its bound within the first minutes: what it keeps is no growth of a soak."""
NOISE = {
    "memory": 16e6,
    "descriptors": 4.0,
    "threads": 4.0,
    "tasks": 8.0,
    "disk": 2e6,
    "files": 8.0,
}
"""Largest growth over a soak that is noise: bytes, and counts, of all processes together."""
FLAPPING = KEPT_SHORT | {
    "influx": "2",
    "proxied": True,
    "settings": {
        **KEPT_SHORT["settings"],
        "sinks": {"lake": {"enabled": True, "segment_age": 5.0, "compact_every": 5.0}},
    },
}
AWAY, BACK = 4.0, 11.0
"""Seconds for which a sink is away, and then is there, in `flap`."""


class Sampler:
    """Once a second until `stop`: sums over the gateway's processes, and gauges summed over shards."""

    def __init__(self, f: Field) -> None:
        self.times: list[float] = []
        self.values: dict[str, list[float]] = {
            name: [] for name in (*PER_PROCESS, *ON_DISK, *GAUGES)
        }
        self._field = f
        self._stop = threading.Event()
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            gateway = self._field.gateway
            pids = [gateway._process.pid, *gateway.shard_pids()]
            now = {
                "memory": sum(memory := [_resident(pid) for pid in pids]),
                "memory_supervisor": memory[0],
                "descriptors": sum(len(list(Path(f"/proc/{p}/fd").iterdir())) for p in pids),
                "threads": sum(len(list(Path(f"/proc/{p}/task").iterdir())) for p in pids),
                **{name: self._field.count(name) for name in GAUGES},
            }
            now["disk"], now["files"] = _kept(self._field.data_dir)
            self.times.append(time.monotonic() - self._begun)
            for name, value in now.items():
                self.values[name].append(float(value))

    def growth(self, name: str, after: float = 0.3) -> float:
        """What the value's straight line gains over the run, its first share left out."""
        start = int(after * len(self.times))
        times, values = np.array(self.times[start:]), np.array(self.values[name][start:])
        slope = float(np.polyfit(times, values, 1)[0])
        return slope * float(times[-1] - times[0])


def _kept(data_dir: Path) -> tuple[int, int]:
    """(bytes, files); what goes while this looks counts nothing."""
    sizes = []
    for folder, folders, names in os.walk(data_dir):
        if folder == str(data_dir):
            folders[:] = sorted(set(folders) - KEPT_ON_PURPOSE)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes.append(os.stat(f"{folder}/{name}").st_size)
    return sum(sizes), len(sizes)


def _resident(pid: int) -> int:
    """Bytes of its own: what processes share is divided, what files hold (libraries) is left out, as
    that share grows when other programs on the machine end."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    return 0


def overload(seconds: float, rate: float, plot: Path) -> dict[str, Any]:
    """Far beyond capacity for so long, then until everything is acknowledged."""
    row = Row("overload", "", lambda f: None, bar=15.0)
    options = OVERLOAD | {"settings": OVERLOAD["settings"] | {"sinks": {"influxdb": SLOWER}}}

    def act(f: Field) -> dict[str, Any]:
        sampler = Sampler(f)
        f.run_for(5.0)
        before = f.count("sink_delivered_readings")
        f.site.stand_in.slow(SLOW)
        f.run_for(seconds)
        took = f.count("sink_delivered_readings") - before
        came = f.count("readings_decoded")
        f.site.stand_in.slow(0.0)
        recovery = f.recovered(timeout=900)
        assert f.load is not None
        f.load.stop()
        f.settled(900)
        sampler.stop()
        _plot(sampler, plot, seconds)
        return {
            "seconds": seconds,
            "delivered_readings_while_slow": int(took),
            "readings_decoded_by_then": int(came),
            "recovery": round(recovery, 1),
            "peak_memory_mib": round(max(sampler.values["memory"]) / 2**20),
            "memory_at_start_mib": round(sampler.values["memory"][0] / 2**20),
            "peak_spool_bytes": int(max(sampler.values["sink_spool_bytes"])),
            "peak_unacked": int(max(sampler.values["messages_unacked"])),
            "ack_seconds_p50": round(f.latency(0.5), 2),
            "ack_seconds_p99": round(f.latency(), 2),
            "ack_seconds_max": round(f.latency(1.0), 2),
            "disconnects": int(f.count("disconnects")),
        }

    return _run(row, act, rate=rate, options=options)


def soak(seconds: float, rate: float, *, flapping: bool = False) -> dict[str, Any]:
    """Steady load; what grows is reported, and fails where it is more than noise."""
    row = Row("flap" if flapping else "soak", "", lambda f: None)

    def act(f: Field) -> dict[str, Any]:
        sampler = Sampler(f)
        flaps = _flap(f, seconds) if flapping else f.run_for(seconds) or 0
        sampler.stop()
        growth = {name: sampler.growth(name) for name in NOISE}
        parent = sampler.growth("memory_supervisor")
        return {
            "seconds": seconds,
            "samples": len(sampler.times),
            "flaps": flaps,
            **{f"{name}_growth": round(value, 1) for name, value in growth.items()},
            "memory_growth_of_the_supervisor": round(parent, 1),
            "memory_mib": [
                round(v / 2**20)
                for v in sampler.values["memory"][:: max(1, len(sampler.times) // 12)]
            ],
            **{
                name: [int(v) for v in sampler.values[name][:: max(1, len(sampler.times) // 12)]]
                for name in ("descriptors", "threads", "tasks", *ON_DISK)
            },
            "ack_seconds_p99": round(f.latency(), 2),
            "problems": [name for name, value in growth.items() if value > NOISE[name]],
        }

    return _run(row, act, rate=rate, options=FLAPPING if flapping else KEPT_SHORT)


def _flap(f: Field, seconds: float) -> int:
    """InfluxDB and Kafka go by turns for so long; how often. Both are back when it ends."""
    until, flaps = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        f.site.stand_in.stop()
        f.run_for(AWAY)
        f.site.stand_in.start()
        f.run_for(BACK - AWAY)
        with f.kafka_cut():
            f.site.kafka_proxy.away = True
            f.site.kafka_proxy.cut()
            f.run_for(AWAY)
            f.site.kafka_proxy.away = False
        f.run_for(BACK - AWAY)
        flaps += 2
    f.recovered()
    return flaps


def fleet(seconds: float, connections: int, devices: int, rate: float) -> dict[str, Any]:
    """Every device once at least; then all connections at once."""
    row = Row("fleet", "", lambda f: None, loses_broker=True)

    def act(f: Field) -> dict[str, Any]:
        load = f.load
        assert load is not None
        begun = time.monotonic()
        f.wait(lambda: bool(load.sent), 600, "all connections made")
        connected = time.monotonic() - begun
        f.wait(lambda: len(load.topics) >= devices, 600, "every device heard")
        heard = time.monotonic() - begun
        f.run_for(seconds)
        before = load.publisher.progress.reconnects
        f.site.mosquitto.stop()
        stormed = time.monotonic()
        f.site.mosquitto.start()
        recovery = f.recovered(timeout=300)
        f.wait(
            lambda: load.publisher.progress.reconnects - before >= connections,
            300,
            "every connection back",
        )
        return {
            "seconds": seconds,
            "connections": connections,
            "devices": devices,
            "connect_seconds": round(connected, 1),
            "every_device_heard_seconds": round(heard, 1),
            "gateway_back_seconds": round(recovery, 1),
            "all_back_seconds": round(time.monotonic() - stormed, 1),
            "devices_heard": len(load.topics),
        }

    options = {"connections": connections}
    return _run(row, act, rate=rate, devices=devices, history=0, options=options)


def _run(
    row: Row,
    act: Callable[[Field], dict[str, Any]],
    *,
    rate: float,
    devices: int = 100,
    history: int = 20,
    options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        site = Site(Path(folder) / "site", devices, rate, history)
        try:
            f = Field(site, row.name, **(options or {}))
            try:
                f.gateway.wait_ready()
                load = f.publish(seconds=86_400.0)
                report = act(f)
                load.stop()
                f.settled(240, forgotten=row.loses_broker)
                f.gateway.stop()
                result = Result(row, f.verdict())
                reused = f.proxy.record.reused_ids
            finally:
                site.mend()
                f.close()
        finally:
            site.close()
    report |= {
        "acked": result.verdict.acked,
        "acked_lost": result.verdict.acked_lost,
        "unexplained_duplicates": result.verdict.unexplained_duplicates,
        "packet_ids_reused_by_the_broker": reused,
        "examples": result.verdict.examples,
    }
    report["problems"] = report.get("problems", []) + problems_of(result)
    return report


def _plot(sampler: Sampler, path: Path, seconds: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(8, 5), layout="constrained")
    top.plot(sampler.times, np.array(sampler.values["memory"]) / 2**20, label="gateway, MiB (PSS)")
    top.plot(
        sampler.times,
        np.array(sampler.values["sink_spool_bytes"]) / 2**20,
        label="spools on disk, MiB",
    )
    bottom.plot(sampler.times, sampler.values["messages_unacked"], label="messages unacknowledged")
    for axis in (top, bottom):
        axis.axvspan(5.0, 5.0 + seconds, alpha=0.1, label="InfluxDB slow")
        axis.set_ylim(bottom=0)
        axis.legend(loc="center right")
        axis.grid(alpha=0.3)
    bottom.set_xlabel("seconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.scale")
    parser.add_argument("what", choices=["overload", "soak", "flap", "fleet"])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=800.0, help="messages a second")
    parser.add_argument("--connections", type=int, default=5_000)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--plot", type=Path, default=Path("docs/images/overload.png"))
    given = parser.parse_args()
    if given.what == "overload":
        report = overload(given.seconds, given.rate, given.plot)
    elif given.what in ("soak", "flap"):
        report = soak(given.seconds, given.rate, flapping=given.what == "flap")
    else:
        report = fleet(given.seconds, given.connections, given.devices, given.rate)
    for name, value in report.items():
        print(f"{name:>32}  {value}")
    print(json.dumps(report), flush=True)
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
