"""What the console asks the shards, and what they answer; `runtime/looks.py` carries it.

A device is named by its index in the registry and its id: after a reload a shard's own index is
another one, and for a moment the parent's registry may be another one, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

Named = tuple[int, str]
"""A device: index in the registry (−1: not registered) and id."""


Point = tuple[int, float, float, float | None, float | None, bool]
"""ts (ns), value, score in [0, 1], expected, band, suspect."""


Guest = tuple[str, str, str]


@dataclass(slots=True, frozen=True)
class Presence:
    """Asks for every device at once: who has ever been heard, who is silent."""


@dataclass(slots=True, frozen=True)
class Present:
    """Bits in the registry's order (numpy.packbits); guests, who are not registered: (org, site, id)."""

    heard: bytes
    silent: bytes
    guests: tuple[Guest, ...] = ()


@dataclass(slots=True, frozen=True)
class Devices:
    """Asks how some devices stand. watch: and what came of them since the last such question; from now
    on their readings are kept."""

    devices: tuple[Named, ...]
    watch: bool = False


@dataclass(slots=True, frozen=True)
class SeriesNow:
    """One metric of a device. None: nothing to say. points: where it is watched."""

    metric: str
    last_ts: int | None
    last_value: float | None
    quiet_ns: int | None
    learning: bool
    expected: float | None
    band: float | None
    points: tuple[Point, ...] = ()


Question = Presence | Devices
Answer = Present | dict[str, list[SeriesNow]]


class Shards(Protocol):
    """The running shards: index → answer, without those that do not answer in time."""

    async def look(self, question: Question) -> dict[int, Answer]: ...


def newest(answers: Sequence[dict[str, list[SeriesNow]]]) -> dict[str, list[SeriesNow]]:
    """Of several shards' answers, per series that of the shard which heard it last, with all points."""
    every: dict[tuple[str, str], list[SeriesNow]] = {}
    for answer in answers:
        for name, series in answer.items():
            for item in series:
                every.setdefault((name, item.metric), []).append(item)
    found: dict[str, list[SeriesNow]] = {}
    for (name, _), items in every.items():
        points = sorted((p for item in items for p in item.points), key=lambda point: point[0])
        found.setdefault(name, []).append(replace(max(items, key=_freshness), points=tuple(points)))
    return found


def _freshness(item: SeriesNow) -> tuple[float, int]:
    quiet = math.inf if item.quiet_ns is None else item.quiet_ns
    return -quiet, item.last_ts or 0
