"""Our own detection benchmark: what NAB lacks, on a seeded fleet, through Detector and Alerter.

Every device has four metrics at one reading a minute: a daily season of 10 sigma with a second
harmonic, and Gaussian noise. Two runs at default settings:

clean   no fault: every alert is false.
faulty  after three days every device goes through every kind of fault once, in an order of its own,
        hours apart; an alert of the device from a fault's first minute until it is over (and a while
        longer) is its finding, any other alert is false. Late data is no fault: silence may be told,
        the burst that follows must not be.

A delay counts readings (for a dropout: expected intervals after the first missing one).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import orjson

from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices import registry
from greenlang_iot.model.batches import F64, ReadingBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.settings.model import AlertSettings, DetectSettings

MINUTE_NS = 60_000_000_000
START_NS = 1_700_006_400_000_000_000
DAY = 1_440
METRICS = 4
SEASON = 10.0  # amplitude in sigma
LEVEL = 50.0

# Sizes: fixed before the first run.
CLEAN_DEVICES, CLEAN_DAYS = 30, 30
FAULTY_DEVICES, QUIET_DAYS = 100, 3
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
    "dropout": Kind(20, 2),  # no reading of the device
    "late": Kind(30, None),  # 30 readings come at once, in a wrong order
}
SILENT = ("dropout", "late")


@dataclass(frozen=True, slots=True)
class Fault:
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


@dataclass(frozen=True, slots=True)
class Result:
    kinds: dict[str, Tally]
    alerts: int  # opened in the faulty run
    false_alerts: int
    device_days: float
    clean_alerts: int
    clean_device_days: float

    @property
    def precision(self) -> float:
        return 1.0 - self.false_alerts / self.alerts if self.alerts else 1.0

    @property
    def clean_per_device_month(self) -> float:
        return 30.0 * self.clean_alerts / self.clean_device_days


def run(settings: DetectSettings | None = None) -> Result:
    """Both runs at `settings` (default: the defaults)."""
    settings = settings or DetectSettings()
    clean = _simulate(CLEAN_DEVICES, CLEAN_DAYS * DAY, [], settings, SEED)
    faults = _plan(FAULTY_DEVICES, np.random.default_rng(SEED + 1))
    minutes = QUIET_DAYS * DAY + (len(KINDS) + 1) * SPACING
    opened = _simulate(FAULTY_DEVICES, minutes, faults, settings, SEED + 2)
    kinds, false_alerts = _match(faults, opened)
    return Result(
        kinds,
        len(opened),
        false_alerts,
        FAULTY_DEVICES * minutes / DAY,
        len(clean),
        float(CLEAN_DEVICES * CLEAN_DAYS),
    )


def _plan(devices: int, rng: np.random.Generator) -> list[Fault]:
    faults = []
    for device in range(devices):
        at = QUIET_DAYS * DAY
        for kind in rng.permutation(list(KINDS)).tolist():
            faults.append(Fault(kind, device, at + int(rng.integers(0, SPACING // 4))))
            at += SPACING
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


def _values(devices: int, minutes: int, faults: list[Fault], rng: np.random.Generator) -> F64:
    """Values by minute and series (device × metric), with the faults in them."""
    width = devices * METRICS
    phase = rng.uniform(0.0, DAY, width)
    angle = (np.arange(minutes)[:, None] + phase) * (math.tau / DAY)
    noise = rng.normal(size=(minutes, width))
    x = LEVEL + SEASON * (0.8 * np.sin(angle) + 0.2 * np.sin(2.0 * angle)) + noise
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
    return np.round(x, 3)


def _simulate(
    devices: int, minutes: int, faults: list[Fault], settings: DetectSettings, seed: int
) -> list[Transition]:
    """Openings of alerts, minute by minute."""
    rng = np.random.default_rng(seed)
    directory = _directory(devices)
    detector, alerter = Detector(directory, settings), Alerter(directory, AlertSettings())
    detector.load_second_stage()
    x = _values(devices, minutes, faults, rng)
    away = np.zeros((minutes, devices), bool)
    bursts: dict[int, list[Fault]] = {}
    for fault in faults:
        if fault.kind in SILENT:
            over = fault.minute + KINDS[fault.kind].minutes
            away[fault.minute : over, fault.device] = True
            if fault.kind == "late":
                bursts.setdefault(over, []).append(fault)
    opened: list[Transition] = []
    for minute in range(minutes):
        series = np.flatnonzero(~np.repeat(away[minute], METRICS))
        when = np.full(len(series), minute)
        for fault in bursts.get(minute, ()):
            late = rng.permutation(np.arange(fault.minute, minute))
            mine = np.arange(fault.device * METRICS, (fault.device + 1) * METRICS)
            series = np.concatenate([np.tile(mine, len(late)), series])
            when = np.concatenate([np.repeat(late, METRICS), when])
        batch = _batch(series, when, x[when, series], minute)
        changes = alerter.evaluate(batch, detector.score(batch))
        now = START_NS + minute * MINUTE_NS + 1_000_000_000
        changes += alerter.evaluate_silence(detector.silent(now), now)
        opened += [change for change in changes if change.state == "open" and change.number == 1]
    return opened


def _batch(
    series: npt.NDArray[np.intp], when: npt.NDArray[np.intp], value: F64, minute: int
) -> ReadingBatch:
    n = len(series)
    nothing = np.zeros(0, np.uint8)
    return ReadingBatch(
        n=n,
        series=series.astype(np.int32),
        ts_ns=START_NS + when.astype(np.int64) * MINUTE_NS,
        value=value,
        seq=np.zeros(n, np.int64),
        flags=np.zeros(n, np.uint16),
        frame=np.zeros(n, np.int32),
        text_off=np.zeros(n, np.int32),
        text_len=np.zeros(n, np.int16),
        buffer=nothing,
        arena=nothing,
        connection=1,
        received_ns=START_NS + minute * MINUTE_NS,
    )


def _match(faults: list[Fault], opened: list[Transition]) -> tuple[dict[str, Tally], int]:
    """Faults by what was found of them; alerts that belong to no fault."""
    by_device: dict[str, list[Transition]] = {}
    for alert in opened:
        by_device.setdefault(alert.device, []).append(alert)
    kinds = {name: Tally(delays=[]) for name in KINDS if name != "late"}
    belongs = 0
    for fault in faults:
        kind = KINDS[fault.kind]
        first = START_NS + fault.minute * MINUTE_NS
        last = first + (kind.minutes + AFTERMATH) * MINUTE_NS
        mine = [a for a in by_device.get(f"d{fault.device:04d}", []) if first <= a.at_ns <= last]
        if fault.kind in SILENT:
            mine = [a for a in mine if a.rule == "silence"]
        belongs += len(mine)
        if fault.kind == "late":
            continue
        _count(kinds[fault.kind], kind, fault, [(a.at_ns - first) / MINUTE_NS for a in mine])
    return kinds, len(opened) - belongs


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
    """The result as a person reads it."""
    lines = [
        f"{'fault':14}{'faults':>8}{'found':>8}{'in time':>9}{'limit':>7}{'median':>8}{'p95':>7}"
    ]
    for name, tally in result.kinds.items():
        delays = np.array(tally.delays or [math.nan])
        limit = KINDS[name].limit or KINDS[name].minutes
        lines.append(
            f"{name:14}{tally.faults:8}{tally.found / tally.faults:8.1%}"
            f"{tally.in_time / tally.faults:9.1%}{limit:7}{np.median(delays):8.1f}"
            f"{np.quantile(delays, 0.95):7.1f}"
        )
    faults = sum(tally.faults for tally in result.kinds.values())
    found = sum(tally.found for tally in result.kinds.values())
    per_day = result.false_alerts / result.device_days
    lines += [
        f"precision {result.precision:.3f}, recall {found / faults:.3f}; "
        f"{result.false_alerts} of {result.alerts} alerts belong to no fault: "
        f"{per_day:.4f} a device-day",
        f"clean: {result.clean_alerts} alerts in {result.clean_device_days:.0f} device-days: "
        f"{result.clean_per_device_month:.2f} a device-month",
    ]
    return "\n".join(lines) + "\n"
