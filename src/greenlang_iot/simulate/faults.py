"""Which device goes wrong when, and which alert must follow: planned before anything is sent."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from greenlang_iot.model.batches import F64
from greenlang_iot.model.directory import Directory
from greenlang_iot.simulate.manifest import Expected
from greenlang_iot.simulate.payloads import BAD_PAYLOADS
from greenlang_iot.simulate.signals import Signals

SPIKE_SIZE = 15.0
"""Height of a spike, in standard deviations of the series' noise."""
DRIFT_SIZE = 25.0
DRIFT_STEPS = 30
"""A drift rises by DRIFT_SIZE within so many steps, and stays."""
STUCK_STEPS = 36
"""A stuck sensor repeats its value at least so often, or no alert is expected."""
AFTERMATH_STEPS = 10
"""A spike may still cause an alert so many steps later."""
DUPLICATE_AFTER = 0.3
"""Seconds after which the same bytes are published again."""


@dataclass(slots=True, frozen=True)
class FaultMix:
    """How many devices (bad: messages of each kind in BAD_PAYLOADS) go wrong in which way."""

    spikes: int = 0
    drifts: int = 0
    stuck: int = 0
    silent: int = 0
    bad: int = 0
    duplicates: int = 0
    late: int = 0
    collisions: int = 0
    gaps: int = 0  # devices that send nothing for a while
    skewed: int = 0  # devices whose clock is wrong

    @classmethod
    def usual(cls, devices: int) -> "FaultMix":
        """The mix for a fleet of that size; all but collisions, gaps and skewed clocks."""
        some = max(1, devices // 300)
        return cls(
            spikes=max(1, devices // 100),
            drifts=some,
            stuck=some,
            silent=some,
            bad=max(1, devices // 200),
            duplicates=max(3, devices // 20),
            late=max(2, devices // 50),
        )


@dataclass(slots=True)
class FaultPlan:
    """Steps are live steps, from 0."""

    spikes: dict[int, list[tuple[int, float]]] = field(default_factory=dict)  # step → series, Δ
    drifts: list[tuple[int, int, float]] = field(default_factory=list)  # series, step, Δ per step
    stuck: list[tuple[int, int]] = field(default_factory=list)  # series, step
    silent: dict[int, int] = field(default_factory=dict)  # device → first step without a message
    bad: dict[tuple[int, int], str] = field(default_factory=dict)  # (device, step) → kind
    duplicates: set[tuple[int, int]] = field(default_factory=set)
    late: set[tuple[int, int]] = field(default_factory=set)
    collisions: set[tuple[int, int]] = field(default_factory=set)
    expected: list[Expected] = field(default_factory=list)
    gaps: dict[int, range] = field(default_factory=dict)  # device → steps without a message
    skew_ms: dict[int, int] = field(default_factory=dict)  # device → how far its clock is ahead
    held: dict[int, float] = field(default_factory=dict)  # stuck series → its value

    def disturb(self, step: int, values: F64) -> F64:
        """The values of a live step with the anomalies in them; `values` is changed."""
        for series, delta in self.spikes.get(step, ()):
            values[series] += delta
        for series, start, slope in self.drifts:
            values[series] += slope * min(max(step - start, 0), DRIFT_STEPS)
        for series, start in self.stuck:
            if step >= start:
                values[series] = self.held.setdefault(series, float(values[series]))
        return values


@dataclass(slots=True, frozen=True)
class Run:
    """What a plan must fit into. ts_ns(device, step): event time of a live reading."""

    directory: Directory
    signals: Signals
    steps: int
    silence_steps: int  # steps after which a gateway must have noticed that a device is silent
    end_ns: int
    ts_ns: Callable[[int, int], int]


def plan(mix: FaultMix, run: Run, rng: np.random.Generator) -> FaultPlan:
    """Choose devices and steps. Anomalies get devices of their own, at most half of the fleet.

    What does not fit into the run (too short for a stuck sensor or a silence) is left out.
    """
    result = FaultPlan()
    devices = rng.permutation(run.directory.n_devices).tolist()
    kinds = ["spike"] * mix.spikes + ["drift"] * mix.drifts
    kinds += ["stuck"] * mix.stuck + ["silence"] * mix.silent
    if len(kinds) > len(devices) // 2:  # a small fleet still has some of each
        kinds = rng.permutation(kinds).tolist()[: len(devices) // 2]
    for kind in kinds:
        _ANOMALIES[kind](result, run, devices.pop(), rng)

    for _ in range(mix.gaps):
        first, length = run.steps // 4, max(run.steps // 3, 1)
        result.gaps[devices.pop()] = range(first, first + length)
    for _ in range(mix.skewed):
        result.skew_ms[devices.pop()] = int(rng.choice([-1, 1]) * rng.integers(2_000, 60_000))
    places = _places(
        devices, run, rng, len(BAD_PAYLOADS) * mix.bad + mix.duplicates + mix.late + mix.collisions
    )
    for kind in BAD_PAYLOADS:
        some = islice(places, mix.bad)
        result.bad.update(dict.fromkeys(_apart(some) if kind == "out_of_range" else some, kind))
    result.duplicates.update(islice(places, mix.duplicates))
    result.late.update(islice(places, mix.late))
    result.collisions.update(islice(places, mix.collisions))
    for (device, step), kind in result.bad.items():
        if kind == "out_of_range":
            metric = _metric(run.directory, int(run.directory.series_start[device]))
            window = run.ts_ns(device, step), run.ts_ns(device, step + 1)
            result.expected.append(Expected(_id(run, device), metric, "range", *window))
    return result


def _places(
    devices: list[int], run: Run, rng: np.random.Generator, count: int
) -> Iterator[tuple[int, int]]:
    """`count` different (device, step), or as many as the run has; not in its first tenth."""
    first, last = run.steps // 10, max(run.steps - 2, 0)
    room = len(devices) * max(last - first, 0)
    for drawn in rng.choice(room, min(count, room), replace=False).tolist() if room else ():
        yield devices[drawn % len(devices)], first + drawn // len(devices)


def _apart(places: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Those of different devices: of one device a second alert would come only after `alerts.cooldown`."""
    seen: set[int] = set()
    for device, step in places:
        if device not in seen:
            seen.add(device)
            yield device, step


def _spike(plan: FaultPlan, run: Run, device: int, rng: np.random.Generator) -> None:
    if run.steps < 8:
        return
    series = _steady_series(run, device, rng)
    step = int(rng.integers(run.steps // 4, run.steps - AFTERMATH_STEPS // 2))
    plan.spikes.setdefault(step, []).append((series, _delta(run, series, SPIKE_SIZE)))
    _expect(plan, run, series, "spike", step, run.ts_ns(device, step + AFTERMATH_STEPS))


def _drift(plan: FaultPlan, run: Run, device: int, rng: np.random.Generator) -> None:
    step = run.steps // 4
    if run.steps - step < DRIFT_STEPS // 2:
        return
    series = _steady_series(run, device, rng)
    plan.drifts.append((series, step, _delta(run, series, DRIFT_SIZE) / DRIFT_STEPS))
    _expect(plan, run, series, "drift", step, run.end_ns)


def _stuck(plan: FaultPlan, run: Run, device: int, rng: np.random.Generator) -> None:
    step = run.steps // 6
    if run.steps - step < STUCK_STEPS:
        return
    series = _steady_series(run, device, rng)
    plan.stuck.append((series, step))
    _expect(plan, run, series, "stuck", step, run.end_ns)


def _silence(plan: FaultPlan, run: Run, device: int, rng: np.random.Generator) -> None:
    step = run.steps // 3
    if run.steps - step < run.silence_steps:
        return
    plan.silent[device] = step
    window = run.ts_ns(device, step - 1), run.end_ns
    plan.expected.append(Expected(_id(run, device), "", "silence", *window))


_ANOMALIES = {"spike": _spike, "drift": _drift, "stuck": _stuck, "silence": _silence}


def _expect(plan: FaultPlan, run: Run, series: int, kind: str, step: int, to_ns: int) -> None:
    device = int(run.directory.series_device[series])
    metric = _metric(run.directory, series)
    window = run.ts_ns(device, step), to_ns
    plan.expected.append(Expected(_id(run, device), metric, kind, *window))


def _steady_series(run: Run, device: int, rng: np.random.Generator) -> int:
    start, end = run.directory.series_start[device : device + 2]
    return int(rng.choice(np.flatnonzero(run.signals.steady[start:end]) + start))


def _delta(run: Run, series: int, size: float) -> float:
    """`size` standard deviations, in the direction with more room."""
    delta = size * float(run.signals.noise[series])
    low, high = run.directory.low[series], run.directory.high[series]
    level = run.signals.level[series]
    return delta if high - level > level - low else -delta


def _id(run: Run, device: int) -> str:
    return run.directory.device[device]


def _metric(directory: Directory, series: int) -> str:
    return directory.metric[int(directory.series_metric[series])]
