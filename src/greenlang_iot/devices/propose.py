"""A registry proposed from what devices were heard to send. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from greenlang_iot.devices.catalog import TYPES
from greenlang_iot.devices.metrics import MAX_INTERVAL
from greenlang_iot.devices.names import metric_problem, name_problem, unit_text_problem
from greenlang_iot.devices.units import intended
from greenlang_iot.formats.base import Reading

Document = dict[str, Any]

MAX_DEVICES = 100_000
MAX_METRICS = 64
"""Bounds on what is remembered: of a stranger's broker everything can be expected."""
MAX_STRANGE_NAMES = 100
KEPT_TIMES = 32
UNNAMED = "unnamed"
"""Stands for an org or site that the topic does not name."""
_NICE = (
    1,
    2,
    5,
    10,
    15,
    20,
    30,
    60,
    120,
    300,
    600,
    900,
    1_200,
    1_800,
    3_600,
    7_200,
    21_600,
    86_400,
)
_CLOSE = 0.2
_LARGEST = 1.7e308  # an integer may be beyond what a float holds
_USUAL_UNIT = {
    name: spec["unit"] for body in TYPES.values() for name, spec in body["metrics"].items()
}


@dataclass(slots=True)
class Series:
    """What was heard of one metric of one device. times: seconds, of the newest readings."""

    units: Counter[str] = field(default_factory=Counter)
    low: float = math.inf
    high: float = -math.inf
    times: list[float] = field(default_factory=list)

    def add(self, value: float, unit: str | None, at: float) -> None:
        if unit is not None and unit_text_problem(unit) is None:
            self.units[unit] += 1
        self.low, self.high = min(self.low, value), max(self.high, value)
        if at not in self.times:
            self.times = [*self.times[-KEPT_TIMES + 1 :], at]

    @property
    def unit(self) -> str | None:
        """The one that was said most often; None where none was."""
        return self.units.most_common(1)[0][0] if self.units else None

    @property
    def interval(self) -> float | None:
        """Seconds between readings, made round where that is close; None where nothing can be said."""
        times = sorted(self.times)
        steps = [b - a for a, b in pairwise(times) if b > a]
        if not steps:
            return None
        step = median(steps)
        if step > MAX_INTERVAL:
            return None
        nice = min(_NICE, key=lambda n: abs(n - step))
        return nice if abs(nice - step) <= _CLOSE * nice else float(f"{step:.3g}")


class Heard:
    """Collects readings; `proposal` makes a registry of them."""

    def __init__(self) -> None:
        self.messages = 0
        self.strange = 0
        """Messages that were no readings, or under names that a registry cannot hold."""
        self.devices: dict[tuple[str, str, str], dict[str, Series]] = {}
        self._strange_names: set[str] = set()

    def message(
        self, org: str, site: str, device: str, readings: Sequence[Reading], now: float
    ) -> None:
        """One message's readings (none: it could not be read), received at `now` (seconds).

        org, site: "" where the topic does not name them.
        """
        self.messages += 1
        place = (org or UNNAMED, site or UNNAMED, device)
        found = list(self._usable(readings, now))
        known = place in self.devices
        room = known or len(self.devices) < MAX_DEVICES
        if not found or not room or any(name_problem(name) for name in place):
            self.strange += 1
            return
        series = self.devices.setdefault(place, {})
        for metric, value, unit, at in found:
            if metric in series or len(series) < MAX_METRICS:
                series.setdefault(metric, Series()).add(value, unit, at)

    def _usable(
        self, readings: Sequence[Reading], now: float
    ) -> Iterator[tuple[str, float, str | None, float]]:
        """(metric, value, unit, time in seconds) of those that a registry could have let in."""
        for reading in readings:
            value = reading.value
            if type(value) not in (int, float) or not -_LARGEST <= value <= _LARGEST:
                continue
            if metric_problem(reading.metric) is None:
                at = now if type(reading.ts) is not int else reading.ts / 1e9
                yield reading.metric, float(value), reading.unit, at
            elif len(self._strange_names) < MAX_STRANGE_NAMES:
                self._strange_names.add(reading.metric)

    def proposal(self, known: Document | None = None) -> tuple[Document, list[str]]:
        """(a registry, what a person should look at). `known`: a registry that stays as it is, with
        the new devices after its own."""
        document: Document = {"version": 1, "types": {}, "devices": []}
        if known is not None:
            document = {**known, "types": dict(known["types"]), "devices": [*known["devices"]]}
        have = {entry["id"] for entry in document["devices"]}
        notes = [
            f"{name!r}: no name for a metric; give it one with `metrics` of its mqtt.formats"
            for name in sorted(self._strange_names)
        ]
        if any(UNNAMED in place[:2] for place in self.devices):
            notes.append(f"org or site {UNNAMED}: topics do not name it; put yours in its place")
        shapes: dict[tuple[tuple[str, str], ...], str] = {}
        for name, body in document["types"].items():
            shapes.setdefault(_shape(body["metrics"]), name)
        seen: set[str] = set()
        for (org, site, device), series in sorted(self.devices.items()):
            if device in seen:
                notes.append(f"{device}: heard at more than one place; ids must be unique")
                continue
            seen.add(device)
            if device in have:
                continue
            metrics = {name: _metric(heard) | _unit(name, heard) for name, heard in series.items()}
            for name, spec in metrics.items():
                said = series[name].unit
                if said is None:
                    notes.append(f"{device}: {name} came without a unit; {spec['unit']} is a guess")
                elif said != spec["unit"]:
                    notes.append(
                        f"{device}: {name} says {said!r}, which the gateway knows as {spec['unit']} only: "
                        "what says so is rejected"
                    )
            shape = _shape(metrics)
            if shape not in shapes:
                shapes[shape] = _type_name(metrics, document["types"])
                document["types"][shapes[shape]] = {
                    "description": "Proposed from what was heard: check units, add ranges",
                    "metrics": metrics,
                }
            entry: Document = {"id": device, "org": org, "site": site, "type": shapes[shape]}
            own = _overrides(metrics, document["types"][shapes[shape]]["metrics"])
            document["devices"].append(entry | ({"metrics": own} if own else {}))
        return document, notes


def _metric(heard: Series) -> Document:
    interval = heard.interval
    return {} if interval is None else {"interval": interval}


def _unit(name: str, heard: Series) -> Document:
    if heard.unit is None:
        return {"unit": _USUAL_UNIT.get(name, "1")}
    return {"unit": intended(heard.unit) or heard.unit}


def _shape(metrics: Document) -> tuple[tuple[str, str], ...]:
    """What makes two devices one type: the same metrics in the same units."""
    return tuple(sorted((name, spec.get("unit", "1")) for name, spec in metrics.items()))


def _overrides(metrics: Document, of_type: Document) -> Document:
    """Where a device's interval is not its type's."""
    return {
        name: {"interval": spec["interval"]}
        for name, spec in metrics.items()
        if "interval" in spec and spec["interval"] != of_type[name].get("interval")
    }


def _type_name(metrics: Iterable[str], taken: Iterable[str]) -> str:
    names = sorted(metrics)
    base = "-".join(names[:2]) + (f"-and-{len(names) - 2}-more" if len(names) > 2 else "")
    name, number = base[:100], 2
    while name in taken:
        name, number = f"{base[:100]}-{number}", number + 1
    return name
