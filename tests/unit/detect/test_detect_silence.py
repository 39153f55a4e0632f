"""Silence is found at the same moments as by a look at every series each time, with far fewer looks."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.readings import SECOND, readings

from greenlang_iot.detect import state
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.detect.silence import NextLook
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

SETTINGS = DetectSettings(second_stage=SecondStageSettings(enabled=False))
START = 1_700_000_000 * SECOND
DEVICES = 5
STEPS = st.lists(
    st.tuples(
        st.integers(1, 90),  # seconds that pass
        st.sets(st.integers(0, DEVICES - 1)),  # who speaks then
        st.sampled_from(["", "", "", "pause", "grow", "settings", "watched"]),
    ),
    min_size=1,
    max_size=25,
)


def made(scale: float) -> Detector:
    d = directory(DEVICES, ("m",), units=("Cel",))
    d.interval_ns[:] = np.array([5, 20, 60, 60, 0]) * SECOND
    return Detector(d, SETTINGS, scale)


def play(detector: Detector, steps: list[tuple[int, set[int], str]]) -> list[Any]:
    now, found, watched = START, [], np.ones(DEVICES, np.bool_)
    for seconds, who, what in steps:
        now += seconds * SECOND
        if who:
            batch = readings(sorted(who), [now] * len(who), [1.0] * len(who))
            batch.received_ns = now
            detector.score(batch)
        if what == "pause":
            detector.pause_clock(now - 3 * SECOND, now)
        elif what == "grow":
            detector.grow(detector._directory)
        elif what == "settings":
            detector.settings = SETTINGS.model_copy(update={"silence_intervals": 1.5})
        elif what == "watched":
            watched = np.arange(DEVICES) % 2 == 0
        silences = detector.silent(now, watched)
        found.append([column.tolist() for column in (
            silences.series, silences.last_seen_ns, silences.overdue_ns, silences.never
        )])  # fmt: skip
    return found


@given(STEPS, st.sampled_from([1.0, 3.0]))
def test_it_finds_what_a_look_at_all_finds(
    steps: list[tuple[int, set[int], str]], scale: float
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(state, "PIECE", 2)  # all series are several pieces
        got = play(made(scale), steps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NextLook, "few", lambda *_: None)
        assert got == play(made(scale), steps)


def test_a_fleet_that_speaks_is_looked_at_once_a_minute_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One device is dead: it is looked at each second, the others when they could be overdue."""
    d = directory(200, ("m",), units=("Cel",))
    detector, looked = Detector(d, SETTINGS), list[int]()
    genuine = NextLook.note

    def note(self: NextLook, clock: int, which: Any, *rest: Any) -> None:
        looked.append(len(which))
        genuine(self, clock, which, *rest)

    monkeypatch.setattr(NextLook, "note", note)
    for second in range(600):
        now = START + second * SECOND
        speaks = np.flatnonzero(np.arange(199) % 60 == second % 60)
        batch = readings(speaks, [now] * len(speaks), [1.0] * len(speaks))
        batch.received_ns = now
        detector.score(batch)
        silences = detector.silent(now)
        assert silences.series.tolist() == ([199] if second > 180 else [])
    assert looked.count(200) == 11  # and when the dead one was due
    assert set(looked) == {200, 0, 1}


def test_a_look_at_all_takes_less_memory_than_a_column() -> None:
    """Of four million series a column of int64 is 32 MB, and memory that was taken once is seldom given back."""
    d = directory(200_000, ("m",), units=("Cel",))
    detector, watched = Detector(d, SETTINGS), np.ones(d.n_devices, np.bool_)
    detector.silent(START, watched)
    detector._next_look.forget()
    tracemalloc.start()
    try:
        assert len(detector.silent(START + SECOND, watched).series) == 0
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * d.n_series
