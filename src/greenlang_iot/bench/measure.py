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
WARM_MESSAGES = 8_000_000
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
    bursts: list[float] = field(
        default_factory=list
    )  # of each: the mean of the unit before and after
    rates: list[float] = field(default_factory=list)

    @property
    def cpu_ns_per_message(self) -> float:
        return self.cpu_ns / max(self.messages, 1)

    @property
    def paired(self) -> float:
        """Median over the segments of their cost in units of their own bursts: a machine that changes its speed
        within the run has changed both."""
        return self.paired_at(50)

    def paired_at(self, percentile: float) -> float:
        """Of the segments' costs in units of their own bursts."""
        return float(np.percentile(np.array(self.segments) / np.array(self.bursts), percentile))

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
        "ratio_paired": round(measured.paired, 3),
        "ratio_paired_p10": round(measured.paired_at(10), 3),
        "ratio_paired_p90": round(measured.paired_at(90), 3),
        "messages_per_s": round(measured.messages_per_s),
        "rss_mb": round(measured.rss / 1e6, 1),
        "verified": verified,
        "spread": round(unit.spread, 3),
        "messages": measured.messages,
        "seconds": round(measured.seconds, 2),
        "cpu_ns_p10": round(float(low), 1),
        "cpu_ns_p90": round(float(high), 1),
    }


def warm_up(stage: Stage, gateway: Child, changes: dict[str, Any]) -> None:
    """Until every series has left its learning phase and the second stage is loaded."""
    _until_quiet(gateway)  # it imports the second stage in the background
    wanted = min(WARM_LAPS * stage.setup.devices * stage.setup.metrics, WARM_MESSAGES)
    detect = changes.get("detect", {})
    second = detect.get("enabled", True) and detect.get("second_stage", {}).get("enabled", True)
    deadline = time.monotonic() + WARM_AT_MOST
    stage.loader.ask("go")
    while time.monotonic() < deadline:
        sent = stage.loader.ask()["acked" if stage.setup.acked_here else "sent"]
        if sent >= wanted and (not second or stage.metric("second_stage_scores") > 0):
            break
        time.sleep(0.1)
    _pause(stage, changes)


def _pause(stage: Stage, changes: dict[str, Any]) -> dict[str, Any]:
    """Stop the load; returns the loader's counts when all is acknowledged, or has arrived where the loader
    does not see that."""
    counts = stage.loader.ask("pause")
    if not stage.setup.acked_here:
        deadline = time.monotonic() + WARM_AT_MOST
        while stage.received(changes) < counts["sent"] and time.monotonic() < deadline:
            time.sleep(0.005)
        counts["acked"], counts["time"] = stage.received(changes), time.monotonic()
    return counts


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


def measure(
    stage: Stage, gateway: Child, unit: Unit, seconds: float, changes: dict[str, Any]
) -> Measured:
    """SEGMENTS stretches of load that end when all is acknowledged, a burst of the unit before and after
    each."""
    result = Measured()
    pids = family(gateway.process.pid)
    for _ in range(SEGMENTS):
        unit.burst()
        cpu = cpu_ns(pids)
        before = stage.loader.ask()
        before["acked"] = before["acked"] if stage.setup.acked_here else stage.received(changes)
        before["time"] = stage.loader.ask("go")["time"]
        time.sleep(seconds / SEGMENTS)
        after = _pause(stage, changes)
        used = cpu_ns(pids) - cpu
        unit.burst()
        messages = int(after["acked"] - before["acked"])
        elapsed = after["time"] - before["time"]
        result.messages += messages
        result.seconds += elapsed
        result.cpu_ns += used
        result.loader_cpu += after["cpu_s"] - before["cpu_s"]
        result.segments.append(used / max(messages, 1))
        result.bursts.append(sum(unit.bursts[-2:]) / 2)
        result.rates.append(messages / elapsed)
    result.rss = rss_bytes(pids)
    return result


def sustain(stage: Stage, seconds: float, changes: dict[str, Any]) -> dict[str, Any]:
    """The rate over so many seconds without a pause, and the lowest of any five of them."""
    key = "acked" if stage.setup.acked_here else "sent"
    first = last = stage.loader.ask("go")
    acked = [first[key]]
    while last["time"] - first["time"] < seconds:
        time.sleep(min(1.0, seconds))
        last = stage.loader.ask()
        acked.append(last[key])
    _pause(stage, changes)
    window = min(5, len(acked) - 1)
    taken = last["time"] - first["time"]
    per_second = taken / (len(acked) - 1)
    lowest = min(b - a for a, b in zip(acked, acked[window:], strict=False)) / window / per_second
    return {
        "seconds": round(taken, 1),
        "messages_per_s": round((last[key] - first[key]) / taken),
        "lowest_of_5_s": round(lowest),
    }
