"""What somebody at the console wants to know of a shard: asked by the parent, answered by the shard.

Nobody looks: nothing is done, but for one test per batch. Somebody looks: the shard answers from the
detector's rows, which only it can read without tearing them, and keeps the readings of the devices
that are being watched until the next question.

A device is named by its index in the registry and its id: after a reload the shard's own index is
another one, and for a moment the parent's registry may be another one, too.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from greenlang_iot.console.questions import (
    Answer,
    Point,
    Presence,
    Present,
    Question,
    SeriesNow,
)
from greenlang_iot.decode.guests import GUEST_TYPE
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model.batches import I64, Decoded, FrameBatch, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import DUPLICATE, LEARNING, SUSPECT
from greenlang_iot.observe.counters import Counters
from greenlang_iot.pipeline import StageSeconds
from greenlang_iot.runtime.meters import BatchMeter
from greenlang_iot.runtime.reload import Control

WATCH_FOR: Final = 15.0
"""Seconds after the last question that a device's readings are kept on."""
MAX_WATCHED: Final = 32
KEPT: Final = 2_000
"""Readings kept of a watched device between two questions; the oldest go first."""


@dataclass(slots=True)
class _Watched:
    until: float
    points: deque[tuple[int, Point]] = field(default_factory=lambda: deque(maxlen=KEPT))


class Looks:
    """The shard's side. live: the Directory that holds now; unknown devices make it grow."""

    def __init__(
        self, detector: Detector, registry: Directory, live: Callable[[], Directory]
    ) -> None:
        self._detector = detector
        self._newest = live
        self._live = registry
        self._watched: dict[int, _Watched] = {}
        self.follow(registry, np.arange(registry.n_devices))

    @property
    def watching(self) -> bool:
        """Is any device being watched?"""
        return bool(self._watched)

    def follow(self, live: Directory, entries: I64) -> None:
        """A registry was taken over; `entries`: index in `live` of each of its devices."""
        before, self._live = self._live, live
        self._entries = entries
        for entry in list(self._watched):  # a device at another entry has other series
            if live.device.raw(entry) != before.device.raw(entry):
                del self._watched[entry]
        self._mark()

    def _grow(self) -> Directory:
        """Known devices keep their index when unknown ones come."""
        live = self._newest()
        if live is not self._live:
            self._live = live
            self._mark()
        return live

    def _mark(self) -> None:
        self._is_watched = np.zeros(self._live.n_devices, np.bool_)
        self._is_watched[list(self._watched)] = True

    def note(self, readings: ReadingBatch, scores: ScoreBatch) -> None:
        """Keep what came of watched devices."""
        n, live = readings.n, self._grow()
        device = live.series_device[readings.series[:n]]
        hits = np.flatnonzero(self._is_watched[device])
        for i in hits.tolist():
            if readings.flags[i] & DUPLICATE:
                continue
            learning = bool(scores.verdict[i] & LEARNING)
            point = (
                int(readings.ts_ns[i]),
                float(readings.value[i]),
                1.0 - 10.0 ** -float(scores.score[i]),
                None if learning else _number(scores.expected[i]),
                None if learning else _number(scores.band[i]),
                bool(scores.verdict[i] & SUSPECT),
            )
            self._watched[int(device[i])].points.append((int(readings.series[i]), point))

    def answer(self, question: Question, now_ns: int, now: float) -> Answer:
        """Look it up. now: monotonic seconds."""
        self._grow()
        self._forget(now)
        if isinstance(question, Presence):
            return self._presence(now_ns)
        found = {}
        for index, name in question.devices:
            entry = self._entry(index, name)
            if entry is not None:
                if question.watch:
                    self._watch(entry, now)
                found[name] = self._device(entry, now_ns, take=question.watch)
        return found

    def _presence(self, now_ns: int) -> Present:
        heard, silent = self._detector.presence(now_ns)
        live = self._live
        guests = tuple(
            (
                live.org[int(live.org_of[d])],
                live.site[int(live.site_of[d])],
                live.device[d],
            )
            for d in self._guests()
        )
        registered = self._entries
        return Present(
            np.packbits(heard[registered]).tobytes(),
            np.packbits(silent[registered]).tobytes(),
            guests,
        )

    def _guests(self) -> list[int]:
        live = self._live
        names = [live.type[t] for t in range(len(live.type))]
        if GUEST_TYPE not in names:
            return []
        return np.flatnonzero(live.type_of == names.index(GUEST_TYPE)).tolist()

    def _entry(self, index: int, name: str) -> int | None:
        raw, live = name.encode(), self._live
        if 0 <= index < len(self._entries):
            entry = int(self._entries[index])
            if live.device.raw(entry) == raw:
                return entry
        return next((d for d in self._guests() if live.device.raw(d) == raw), None)

    def _device(self, entry: int, now_ns: int, *, take: bool) -> list[SeriesNow]:
        """take: hand out the readings that were kept; who only wants to know leaves them."""
        live = self._live
        series = np.arange(live.series_start[entry], live.series_start[entry + 1])
        series = series[live.series_enabled[series] != 0]
        now = self._detector.standing(series, now_ns)
        points: dict[int, list[Point]] = {}
        if take and (watched := self._watched.get(entry)) is not None:
            while watched.points:
                which, point = watched.points.popleft()
                points.setdefault(which, []).append(point)
        result = []
        for i, s in enumerate(series.tolist()):
            seen = bool(now.seen[i])
            quiet = int(now.quiet_ns[i])
            result.append(
                SeriesNow(
                    live.metric[int(live.series_metric[s])],
                    int(now.last_ts[i]) if seen else None,
                    _number(now.last_value[i]) if seen else None,
                    quiet if quiet >= 0 else None,
                    bool(now.learning[i]),
                    _number(now.expected[i]) if seen else None,
                    _number(now.band[i]) if seen else None,
                    tuple(points.get(s, ())),
                )
            )
        return result

    def _watch(self, entry: int, now: float) -> None:
        watched = self._watched.get(entry)
        if watched is None:
            if len(self._watched) >= MAX_WATCHED:
                return
            watched = self._watched[entry] = _Watched(now)
            self._is_watched[entry] = True
        watched.until = now + WATCH_FOR

    def _forget(self, now: float) -> None:
        for entry in [e for e, watched in self._watched.items() if watched.until < now]:
            del self._watched[entry]
            self._is_watched[entry] = False


class LookingMeter(BatchMeter):
    """The pipeline's meter, which also keeps what is being watched."""

    def __init__(self, counters: Counters, looks: Looks) -> None:
        super().__init__(counters)
        self._looks = looks

    def batch(
        self, frames: FrameBatch, decoded: Decoded, scores: ScoreBatch, seconds: StageSeconds
    ) -> None:
        super().batch(frames, decoded, scores, seconds)
        if self._looks.watching and decoded.readings.n:
            self._looks.note(decoded.readings, scores)


def answer_looks(looks: Looks, window: Control) -> None:
    """The shard's side of the pipe: between two batches. Pickles are those of our own parent."""
    loop = asyncio.get_running_loop()

    def asked() -> None:
        try:
            number, question = window.recv()
            window.send((number, looks.answer(question, time.time_ns(), time.monotonic())))
        except (OSError, EOFError):
            loop.remove_reader(window.fileno())  # the parent is gone; so are we, in a moment

    loop.add_reader(window.fileno(), asked)


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
