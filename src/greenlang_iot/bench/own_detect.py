"""Our own detection benchmark: what NAB lacks, on a seeded fleet, through Detector and Alerter.

Every device has four metrics at one reading a minute: a daily season of 10 sigma with a second
harmonic, and noise of one kind, always with a standard deviation of 1 sigma:

gaussian         independent readings
ar 0.5, ar 0.9   each reading remembers that much of the one before
heavy            Student's t with three degrees of freedom: far readings are normal
coupled          the metrics of a device share 90 % of their variance

Two runs at default settings:

clean   no fault: every alert is false.
faulty  after three days every device goes through every kind of fault once, in an order of its own,
        hours apart ("decoupled" only where there is a coupling); an alert of the device from a fault's first minute until it is over (and a while
        longer) is its finding, any other alert is false. Late data is no fault: silence may be told,
        the burst that follows must not be.

A delay counts readings (for a dropout: expected intervals after the first missing one).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices import registry
from greenlang_iot.model.batches import F64
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.numbers import batch_of_numbers
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.settings.model import AlertSettings, DetectSettings

MINUTE_NS = 60_000_000_000
START_NS = 1_700_006_400_000_000_000
DAY = 1_440
METRICS = 4
SEASON = 10.0  # amplitude in sigma
LEVEL = 50.0

# Sizes: fixed before the first run. Devices are per kind of noise.
NOISES = ("gaussian", "ar 0.5", "ar 0.9", "heavy", "coupled")
CLEAN_DEVICES, CLEAN_DAYS = 30, 30
FAULTY_DEVICES, QUIET_DAYS = {"gaussian": 100}, 3
OTHER_FAULTY_DEVICES = 50
COUPLING = 0.9
HEAVY_FREEDOM = 3
SPACING = 480  # minutes from one fault of a device to the next
SEED = 20_240_601

WARN_HIGH = LEVEL + 40.0
STEP = 14.0 / 60.0  # sigma a second
AFTERMATH = 60
"""Minutes after a fault in which an alert still belongs to it (the return to normal)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: how long it lasts, and how soon it must be found."""

    minutes: int
    limit: int | None  # readings; None = before it is over


KINDS = {
    "spike": Kind(1, 5),  # 8 sigma, one reading
    "shift": Kind(60, 5),  # 6 sigma
    "range": Kind(10, 5),  # above the operating range
    "step": Kind(10, 5),  # 18 sigma within a minute; 14 are possible
    "drift": Kind(120, None),  # 0.1 sigma a minute
    "noise": Kind(60, None),  # four times the noise
    "stuck": Kind(60, None),  # one value
    "multivariate": Kind(60, None),  # 3 sigma in three of four metrics at once
    "decoupled": Kind(60, None),  # what the metrics share is turned around in one of them
    "dropout": Kind(20, 2),  # no reading of the device
    "late": Kind(30, None),  # 30 readings come at once, in a wrong order
}
SILENT = ("dropout", "late")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in the data: a kind of KINDS, in one device, from a minute on."""

    kind: str
    device: int
    minute: int  # its first


@dataclass(slots=True)
class Tally:
    """What became of the faults of a kind."""

    faults: int = 0
    found: int = 0
    in_time: int = 0
    delays: list[float] | None = None


@dataclass(slots=True)
class Part:
    """What came of the devices with one kind of noise."""

    kinds: dict[str, Tally]
    device_days: float
    clean_device_days: float
    alerts: int = 0  # opened in the faulty run
    false_alerts: int = 0
    clean_alerts: int = 0
    bursts: int = 0  # of late data
    burst_alerts: int = 0  # that were not of silence: false ones

    @property
    def precision(self) -> float:
        return 1.0 - self.false_alerts / self.alerts if self.alerts else 1.0

    @property
    def recall(self) -> float:
        faults = sum(tally.faults for tally in self.kinds.values())
        return sum(tally.found for tally in self.kinds.values()) / faults if faults else 1.0

    @property
    def false_per_device_day(self) -> float:
        return self.false_alerts / self.device_days

    @property
    def clean_per_device_month(self) -> float:
        return 30.0 * self.clean_alerts / self.clean_device_days


@dataclass(frozen=True, slots=True)
class Result:
    """What both runs came to. seconds: wall time."""

    parts: dict[str, Part]
    """By kind of noise."""
    readings: int
    observations: int
    """Of the second stage, in both runs."""
    seconds: float


def run(settings: DetectSettings | None = None) -> Result:
    """Both runs at `settings` (default: the defaults)."""
    settings = settings or DetectSettings()
    started = time.perf_counter()
    still = [noise for noise in NOISES for _ in range(CLEAN_DEVICES)]
    moved = [
        noise for noise in NOISES for _ in range(FAULTY_DEVICES.get(noise, OTHER_FAULTY_DEVICES))
    ]
    minutes = QUIET_DAYS * DAY + (len(KINDS) + 1) * SPACING
    clean = _simulate(still, CLEAN_DAYS * DAY, [], settings, SEED)
    faults = _plan(moved, np.random.default_rng(SEED + 1))
    faulty = _simulate(moved, minutes, faults, settings, SEED + 2)
    parts = _match(faults, faulty.opened, moved, minutes)
    for alert in clean.opened:
        parts[still[int(alert.device[1:])]].clean_alerts += 1
    return Result(
        parts,
        clean.readings + faulty.readings,
        clean.observations + faulty.observations,
        time.perf_counter() - started,
    )


def _plan(noises: list[str], rng: np.random.Generator) -> list[Fault]:
    faults = []
    for device, noise in enumerate(noises):
        at = QUIET_DAYS * DAY
        for kind in rng.permutation(list(KINDS)).tolist():
            minute = at + int(rng.integers(0, SPACING // 4))
            at += SPACING
            if kind != "decoupled" or noise == "coupled":
                faults.append(Fault(kind, device, minute))
    return faults


def _directory(devices: int) -> Directory:
    metric = {
        "unit": "Cel",
        "range": [-1000, 1000],
        "warn": [None, WARN_HIGH],
        "max_step": STEP,
        "interval": 60.0,
    }
    document = {
        "version": 1,
        "types": {"own": {"metrics": {f"m{i}": metric for i in range(METRICS)}}},
        "devices": [
            {"id": f"d{i:04d}", "org": "own", "site": "bench", "type": "own"}
            for i in range(devices)
        ],
    }
    return registry.parse(orjson.dumps(document))


def _noise(noises: list[str], minutes: int, rng: np.random.Generator) -> tuple[F64, F64]:
    """(noise by minute and series, what the metrics of a coupled device share by minute and device)."""
    x = rng.normal(size=(minutes, len(noises) * METRICS))
    shared = np.zeros((minutes, 0))
    for noise in dict.fromkeys(noises):
        mine = np.flatnonzero(np.repeat([n == noise for n in noises], METRICS))
        if noise.startswith("ar "):
            keep = float(noise[3:])
            for minute in range(1, minutes):
                fresh = math.sqrt(1.0 - keep * keep) * x[minute, mine]
                x[minute, mine] = keep * x[minute - 1, mine] + fresh
        elif noise == "heavy":
            drawn = rng.standard_t(HEAVY_FREEDOM, (minutes, len(mine)))
            x[:, mine] = drawn / math.sqrt(HEAVY_FREEDOM / (HEAVY_FREEDOM - 2))
        elif noise == "coupled":
            shared = rng.normal(size=(minutes, len(mine) // METRICS)) * math.sqrt(COUPLING)
            x[:, mine] *= math.sqrt(1.0 - COUPLING)
            x[:, mine] += np.repeat(shared, METRICS, axis=1)
    return x, shared


def _values(noises: list[str], minutes: int, faults: list[Fault], rng: np.random.Generator) -> F64:
    """Values by minute and series (device × metric), with the faults in them."""
    phase = rng.uniform(0.0, DAY, len(noises) * METRICS)
    angle = (np.arange(minutes)[:, None] + phase) * (math.tau / DAY)
    noise, shared = _noise(noises, minutes, rng)
    x = LEVEL + SEASON * (0.8 * np.sin(angle) + 0.2 * np.sin(2.0 * angle)) + noise
    del angle
    coupled = noises.index("coupled") if "coupled" in noises else 0
    for fault in faults:
        first, kind = fault.minute, fault.kind
        rows = slice(first, first + KINDS[kind].minutes)
        series = fault.device * METRICS + int(rng.integers(METRICS))
        sign = 1.0 if rng.random() < 0.5 else -1.0
        if kind == "spike":
            x[rows, series] += 8.0 * sign
        elif kind == "shift":
            x[rows, series] += 6.0 * sign
        elif kind == "range":
            x[rows, series] = WARN_HIGH + 1.0 + np.abs(noise[rows, series])
        elif kind == "step":
            x[rows, series] = x[first - 1, series] + sign * 18.0 + noise[rows, series]
        elif kind == "drift":
            x[rows, series] += 0.1 * sign * np.arange(KINDS[kind].minutes)
        elif kind == "noise":
            x[rows, series] += 3.0 * noise[rows, series]
        elif kind == "stuck":
            x[rows, series] = x[first - 1, series]
        elif kind == "multivariate":
            start = fault.device * METRICS
            x[rows, start : start + METRICS - 1] += 3.0 * sign
        elif kind == "decoupled":
            x[rows, series] -= 2.0 * shared[rows, fault.device - coupled]
    return np.round(x, 3)


@dataclass(frozen=True, slots=True)
class Simulated:
    """The openings of one run, and how many readings and second-stage observations it took."""

    opened: list[Transition]
    readings: int
    observations: int


def _simulate(
    noises: list[str], minutes: int, faults: list[Fault], settings: DetectSettings, seed: int
) -> Simulated:
    """Openings of alerts, minute by minute; one device per entry of `noises`."""
    rng = np.random.default_rng(seed)
    devices = len(noises)
    directory = _directory(devices)
    detector, alerter = Detector(directory, settings), Alerter(directory, AlertSettings())
    detector.load_second_stage()
    x = _values(noises, minutes, faults, rng)
    away = np.zeros((minutes, devices), bool)
    bursts: dict[int, list[Fault]] = {}
    for fault in faults:
        if fault.kind in SILENT:
            over = fault.minute + KINDS[fault.kind].minutes
            away[fault.minute : over, fault.device] = True
            if fault.kind == "late":
                bursts.setdefault(over, []).append(fault)
    opened: list[Transition] = []
    readings = 0
    for minute in range(minutes):
        series = np.flatnonzero(~np.repeat(away[minute], METRICS))
        when = np.full(len(series), minute)
        for fault in bursts.get(minute, ()):
            late = rng.permutation(np.arange(fault.minute, minute))
            mine = np.arange(fault.device * METRICS, (fault.device + 1) * METRICS)
            series = np.concatenate([np.tile(mine, len(late)), series])
            when = np.concatenate([np.repeat(late, METRICS), when])
        batch = batch_of_numbers(
            series.astype(np.int32),
            START_NS + when.astype(np.int64) * MINUTE_NS,
            x[when, series],
            received_ns=START_NS + minute * MINUTE_NS,
        )
        changes = alerter.evaluate(batch, detector.score(batch))
        now = START_NS + minute * MINUTE_NS + 1_000_000_000
        changes += alerter.evaluate_silence(detector.silent(now), now)
        opened += [change for change in changes if change.state == "open" and change.number == 1]
        readings += len(series)
    return Simulated(opened, readings, detector.observations)


def _match(
    faults: list[Fault], opened: list[Transition], noises: list[str], minutes: int
) -> dict[str, Part]:
    """Faults by what was found of them, and alerts that belong to no fault, by kind of noise."""
    by_device: dict[str, list[Transition]] = {}
    parts = {
        noise: Part({}, noises.count(noise) * minutes / DAY, float(CLEAN_DEVICES * CLEAN_DAYS))
        for noise in dict.fromkeys(noises)
    }
    for alert in opened:
        by_device.setdefault(alert.device, []).append(alert)
        part = parts[noises[int(alert.device[1:])]]
        part.alerts += 1
        part.false_alerts += 1  # until it belongs to a fault
    for fault in faults:
        part, kind = parts[noises[fault.device]], KINDS[fault.kind]
        first = START_NS + fault.minute * MINUTE_NS
        last = first + (kind.minutes + AFTERMATH) * MINUTE_NS
        mine = [a for a in by_device.get(f"d{fault.device:04d}", []) if first <= a.at_ns <= last]
        if fault.kind in SILENT:
            others = sum(a.rule != "silence" for a in mine)
            mine = [a for a in mine if a.rule == "silence"]
        part.false_alerts -= len(mine)
        if fault.kind == "late":
            part.bursts += 1
            part.burst_alerts += others
            continue
        tally = part.kinds.setdefault(fault.kind, Tally(delays=[]))
        _count(tally, kind, fault, [(a.at_ns - first) / MINUTE_NS for a in mine])
    return parts


def _count(tally: Tally, kind: Kind, fault: Fault, after: list[float]) -> None:
    tally.faults += 1
    if not after:
        return
    # a dropout is found some time after the first missing reading, a value with its own reading
    delay = after[0] if fault.kind == "dropout" else after[0] + 1.0
    limit = kind.limit if kind.limit is not None else kind.minutes
    if delay > kind.minutes + AFTERMATH:
        return
    tally.found += 1
    tally.in_time += delay <= limit + (0.1 if fault.kind == "dropout" else 0.0)
    if tally.delays is not None:
        tally.delays.append(delay)


def table(result: Result) -> str:
    """The result as a person reads it: the first kind of noise in full, the others beside it."""
    names = list(result.parts)
    lines = []
    for name in names[:1]:
        part = result.parts[name]
        lines.append(
            f"{name:14}{'faults':>8}{'found':>8}{'in time':>9}{'limit':>7}{'median':>8}{'p95':>7}"
        )
        lines += [_row(kind, part.kinds[kind]) for kind in KINDS if kind in part.kinds]
    lines += ["", f"{'found in time':20}" + "".join(f"{name:>10}" for name in names)]
    for kind in (kind for kind in KINDS if kind != "late"):
        tallies = [result.parts[name].kinds.get(kind) for name in names]
        cells = [f"{t.in_time / t.faults:.0%}" if t else "–" for t in tallies]
        lines.append(f"{kind:20}" + "".join(f"{cell:>10}" for cell in cells))
    figures: tuple[tuple[str, Callable[[Part], str]], ...] = (
        ("precision", lambda p: f"{p.precision:.3f}"),
        ("recall", lambda p: f"{p.recall:.3f}"),
        ("false / device-day", lambda p: f"{p.false_per_device_day:.4f}"),
        ("late: false / burst", lambda p: f"{p.burst_alerts / max(p.bursts, 1):.2f}"),
        ("clean / device-month", lambda p: f"{p.clean_per_device_month:.2f}"),
    )
    for title, text in figures:
        lines.append(f"{title:20}" + "".join(f"{text(result.parts[n]):>10}" for n in names))
    share = result.observations / result.readings
    lines.append(
        f"{result.readings:,} readings in {result.seconds:.0f} s; "
        f"the second stage looked at {share:.3%} of them"
    )
    return "\n".join(lines) + "\n"


def _row(name: str, tally: Tally) -> str:
    delays = np.array(tally.delays or [math.nan])
    limit = KINDS[name].limit or KINDS[name].minutes
    return (
        f"{name:14}{tally.faults:8}{tally.found / tally.faults:8.1%}"
        f"{tally.in_time / tally.faults:9.1%}{limit:7}{np.median(delays):8.1f}"
        f"{np.quantile(delays, 0.95):7.1f}"
    )


def summary(result: Result) -> dict[str, Any]:
    """The result as plain JSON types."""
    return {
        noise: {
            "precision": round(part.precision, 4),
            "recall": round(part.recall, 4),
            "false_per_device_day": round(part.false_per_device_day, 5),
            "clean_per_device_month": round(part.clean_per_device_month, 3),
            "burst_alerts": part.burst_alerts,
            "kinds": {
                kind: {
                    "faults": tally.faults,
                    "found": tally.found,
                    "in_time": tally.in_time,
                    "median_delay": float(np.median(tally.delays)) if tally.delays else None,
                }
                for kind, tally in part.kinds.items()
            },
        }
        for noise, part in result.parts.items()
    }
