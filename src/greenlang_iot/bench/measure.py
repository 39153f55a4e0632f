"""Measuring a gateway under load: segments of load with a calibration burst after each."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from greenlang_iot.bench.processes import Child, cpu_ns, family, rss_bytes
from greenlang_iot.bench.stage import Stage
from greenlang_iot.bench.unit import Unit

SEGMENTS = 20
WARM_LAPS = 60
WARM_AT_MOST = 60.0
QUIET_FOR = 1.0
"""Seconds with less than a tenth of a core used, after which a gateway has started."""


@dataclass(slots=True)
class Measured:
    """What came of one run. cpu_ns: per message, all processes and threads of the gateway."""

    messages: int = 0
    seconds: float = 0.0
    cpu_ns: int = 0
    rss: int = 0
    loader_cpu: float = 0.0
    segments: list[float] = field(default_factory=list)  # CPU ns a message, one by one
    rates: list[float] = field(default_factory=list)

    @property
    def cpu_ns_per_message(self) -> float:
        return self.cpu_ns / max(self.messages, 1)

    @property
    def messages_per_s(self) -> float:
        return self.messages / self.seconds if self.seconds else 0.0


def report(measured: Measured, unit: Unit, verified: bool) -> dict[str, Any]:
    """The keys of the headline."""
    low, high = np.percentile(measured.segments, (10, 90))
    return {
        "cpu_ns_per_message": round(measured.cpu_ns_per_message, 1),
        "unit_ns": round(unit.ns, 1),
        "ratio": round(measured.cpu_ns_per_message / unit.ns, 3),
        "messages_per_s": round(measured.messages_per_s),
        "rss_mb": round(measured.rss / 1e6, 1),
        "verified": verified,
        "spread": round(unit.spread, 3),
        "messages": measured.messages,
        "seconds": round(measured.seconds, 2),
        "cpu_ns_p10": round(float(low), 1),
        "cpu_ns_p90": round(float(high), 1),
    }


def warm_up(stage: Stage, gateway: Child) -> None:
    """Until every series has left its learning phase and the second stage is loaded."""
    _until_quiet(gateway)  # it imports the second stage in the background
    wanted = WARM_LAPS * stage.devices
    deadline = time.monotonic() + WARM_AT_MOST
    stage.loader.ask("go")
    while time.monotonic() < deadline:
        if stage.loader.ask()["acked"] >= wanted and stage.metric("second_stage_scores") > 0:
            break
        time.sleep(0.1)
    stage.loader.ask("pause")


def wait_for_empty_spool(stage: Stage) -> None:
    """Until what a busy machine made the gateway spool is delivered."""
    deadline = time.monotonic() + WARM_AT_MOST
    while stage.metric("sink_spool_records") and time.monotonic() < deadline:
        time.sleep(0.2)


def _until_quiet(gateway: Child) -> None:
    deadline = time.monotonic() + WARM_AT_MOST
    while time.monotonic() < deadline:
        before = cpu_ns(family(gateway.process.pid))
        time.sleep(QUIET_FOR)
        if cpu_ns(family(gateway.process.pid)) - before < 0.1 * QUIET_FOR * 1e9:
            return


def measure(stage: Stage, gateway: Child, unit: Unit, seconds: float) -> Measured:
    """SEGMENTS stretches of load that end when all is acknowledged, a burst of the unit after each."""
    result = Measured()
    pids = family(gateway.process.pid)
    for _ in range(SEGMENTS):
        unit.burst()
        cpu = cpu_ns(pids)
        before = stage.loader.ask("go")
        time.sleep(seconds / SEGMENTS)
        after = stage.loader.ask("pause")
        used = cpu_ns(pids) - cpu
        messages = int(after["acked"] - before["acked"])
        elapsed = after["time"] - before["time"]
        result.messages += messages
        result.seconds += elapsed
        result.cpu_ns += used
        result.loader_cpu += after["cpu_s"] - before["cpu_s"]
        result.segments.append(used / max(messages, 1))
        result.rates.append(messages / elapsed)
    result.rss = rss_bytes(pids)
    return result
