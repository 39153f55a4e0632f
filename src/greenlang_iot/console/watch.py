"""Devices that somebody looks at: their readings come from the shards once a second, into rings here.

However many people look, each device is asked for once, and nobody takes another one's points.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

from greenlang_iot.console.fleet import as_json
from greenlang_iot.console.questions import (
    Answer,
    Devices,
    Named,
    Point,
    Present,
    SeriesNow,
    Shards,
    newest,
)

KEPT: Final = 1_800
"""Readings kept of each metric of a watched device."""
LOOKED_FOR: Final = 10.0
"""Seconds after the last look that a device is asked for."""
REMEMBERED_FOR: Final = 300.0
"""And that its ring stays: somebody may come back."""
MAX_DEVICES: Final = 32
"""Devices watched at a time; the one that was looked at longest ago makes room."""


class _Ring:
    def __init__(self, device: Named) -> None:
        self.device = device
        self.looked = self.asked = -math.inf
        self.series: list[dict[str, Any]] = []
        self.points: dict[str, deque[Point]] = {}
        self.numbers: dict[str, deque[int]] = {}


class Watch:
    """`look` at a device now and then; `poll` once a second."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._rings: OrderedDict[str, _Ring] = OrderedDict()
        self._count = 0  # points ever, of all devices: a ring given up does not begin anew

    async def look(self, device: Named) -> None:
        """Somebody looks at it now. What comes after the return is kept: no picture begins with a gap."""
        ring = self._rings.setdefault(device[1], _Ring(device))
        ring.device, ring.looked = device, time.monotonic()
        self._rings.move_to_end(device[1])
        while len(self._rings) > MAX_DEVICES:
            self._rings.popitem(last=False)
        if ring.looked - ring.asked > LOOKED_FOR:
            await self._ask((device,))

    async def poll(self) -> None:
        """Take what came since the last time."""
        now = time.monotonic()
        for name in [n for n, r in self._rings.items() if now - r.looked > REMEMBERED_FOR]:
            del self._rings[name]
        wanted = [r.device for r in self._rings.values() if now - r.looked <= LOOKED_FOR]
        if wanted:
            await self._ask(tuple(wanted))

    async def _ask(self, wanted: tuple[Named, ...]) -> None:
        answers = await self._shards.look(Devices(wanted, watch=True))
        now = time.monotonic()
        found = newest([a for a in answers.values() if not isinstance(a, Present)])
        for name, series in found.items():
            if (ring := self._rings.get(name)) is not None:
                ring.asked = now
                ring.series = [as_json(item) for item in series]
        self._keep(found)

    def late(self, answer: Answer) -> None:
        """A shard stood still and answers only now: its readings count, how it stands is told anew."""
        if not isinstance(answer, Present):
            self._keep(answer)

    def _keep(self, found: Mapping[str, Sequence[SeriesNow]]) -> None:
        for name, series in found.items():
            ring = self._rings.get(name)
            if ring is None:
                continue
            for item in series:
                points = ring.points.setdefault(item.metric, deque(maxlen=KEPT))
                numbers = ring.numbers.setdefault(item.metric, deque(maxlen=KEPT))
                for point in item.points:
                    self._count += 1
                    points.append(point)
                    numbers.append(self._count)

    def points(self, name: str, metric: str) -> list[Point]:
        """What is remembered of one metric, oldest first."""
        ring = self._rings.get(name)
        return list(ring.points.get(metric, ())) if ring is not None else []

    def since(self, name: str, number: int) -> tuple[int, dict[str, Any]]:
        """How it stands, what came after point `number`, and the newest number."""
        ring = self._rings.get(name)
        if ring is None:
            return number, {"series": [], "points": {}}
        fresh = {
            metric: [
                point_json(point)
                for at, point in zip(ring.numbers[metric], points, strict=True)
                if at > number
            ]
            for metric, points in ring.points.items()
        }
        return self._count, {
            "series": ring.series,
            "points": {metric: points for metric, points in fresh.items() if points},
        }


def point_json(point: Point) -> list[Any]:
    """[time in s, value, score, expected, band, suspect]"""
    ts, *rest = point
    return [ts / 1e9, *rest]
