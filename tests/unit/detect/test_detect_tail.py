"""Scores against the tail of the series' own raw scores: what is usual here is no anomaly."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings
from tests.reference.detect import Tail

from greenlang_iot.detect import kernels_tail as tail
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.detect.kernels_lanes import USUAL_LIGHT
from greenlang_iot.model import flags as f
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

DAY = 1440
SERIES = 20
SETTINGS = DetectSettings(second_stage=SecondStageSettings(enabled=False))
Matrix = npt.NDArray[np.float64]

fast_only = pytest.mark.skipif(JIT_DISABLED, reason="700,000 readings take minutes without the JIT")


@given(
    st.floats(0.0, 30.0),
    st.floats(0.5, 8.0),
    st.floats(0.05, 5.0),
    st.sampled_from([1.0, 1.2]),
    st.floats(0.0, 1.0),
)
def test_lowered_is_its_twin_and_raised_its_inverse(
    raw: float, start: float, excess: float, light: float, belief: float
) -> None:
    twin = Tail(light, 0.0, start, excess)
    got = tail.lowered(raw, start, excess, light * tail.EXCESS, belief)
    assert got == pytest.approx(twin.lowered(raw, belief))
    assert got <= raw
    needed = tail.raised(raw, start, excess, light * tail.EXCESS, belief)
    assert needed == pytest.approx(twin.raised(raw, belief))
    assert tail.lowered(needed, start, excess, light * tail.EXCESS, belief) == pytest.approx(raw)


def test_decades_are_left_as_they_are() -> None:
    raw = np.linspace(0.0, 20.0, 50)
    got = [tail.lowered(float(x), tail.START, tail.EXCESS, USUAL_LIGHT, 1.0) for x in raw]
    np.testing.assert_allclose(got, raw)


@pytest.mark.parametrize("stretch", [1.0, 1.5, 3.0])
def test_a_score_is_the_share_of_readings_at_least_as_extreme(stretch: float) -> None:
    """Raw scores that are too high by a factor, as a heavy tail gives them."""
    raw = stretch * np.random.default_rng(3).exponential(tail.EXCESS, 100_000)
    start, excess = tail.START, tail.EXCESS
    for seen, one in enumerate(raw[:50_000].tolist()):
        start, excess = tail.beyond(one, start, excess, tail.pace(seen))
    judged = raw[50_000:].tolist()
    scores = np.array([tail.lowered(x, start, excess, tail.EXCESS, 1.0) for x in judged])
    assert -math.log10((scores >= 2.0).mean()) == pytest.approx(2.0, abs=0.1)
    assert -math.log10((scores >= 3.0).mean()) == pytest.approx(3.0, abs=0.2)


def news(noise: Matrix) -> npt.NDArray[np.bool_]:
    """Which readings open an alert: a minute apart, a daily season of 10 beside the noise."""
    n = len(noise)
    minute = np.arange(n)[:, None] + np.linspace(0, DAY, SERIES)
    x = 50 + 10 * np.sin(math.tau * minute / DAY) + noise
    detector = Detector(directory(SERIES, ("m",), units=("Cel",), low=-200, high=300), SETTINGS)
    verdict = np.zeros(x.shape, np.uint8)
    for day in range(0, n, DAY):
        part = x[day : day + DAY]
        ts = np.repeat((np.arange(day, day + len(part)) + 1) * MINUTE, SERIES)
        batch = readings(np.tile(np.arange(SERIES), len(part)), ts, part.ravel())
        verdict[day : day + len(part)] = detector.score(batch).verdict.reshape(part.shape)
    return ((verdict & f.SUSPECT) != 0) & ((verdict & f.TOLD) == 0)


def wandering(days: int, seed: int) -> Matrix:
    """Noise of deviation 1 that remembers 0.9 of what it was a minute before."""
    x = np.random.default_rng(seed).normal(size=(days * DAY, SERIES))
    for minute in range(1, len(x)):
        x[minute] = 0.9 * x[minute - 1] + math.sqrt(0.19) * x[minute]
    return x


@fast_only
def test_a_wandering_series_is_believed_to_wander() -> None:
    """Without its own tail such a series opens 50 alerts a device-month for ever."""
    opened = news(wandering(25, seed=5))
    device_days = SERIES / 4
    later = opened[10 * DAY :].sum() * 30 / (15 * device_days)
    assert later <= 4
    assert opened[: 5 * DAY].sum() * 30 / (5 * device_days) > 2 * later  # what it learns from


@fast_only
def test_faults_are_no_habit() -> None:
    """A shift of an hour every day for two weeks: the last is found like the first.

    Each day at another time: what comes at the same time of day is one, see test_detect_habit.
    """
    noise = np.random.default_rng(6).normal(size=(18 * DAY, SERIES))
    starts = [day * DAY + 300 * day % 1200 for day in range(3, 18)]
    for start in starts:
        noise[start : start + 60] += 8
    opened = news(noise)
    found = [opened[start : start + 5].any(axis=0).mean() for start in starts]
    assert min(found[:3]) >= 0.95
    assert min(found[-3:]) >= 0.95


@fast_only
def test_the_band_that_a_person_is_shown_is_the_one_that_is_judged_by() -> None:
    """Of a heavy tail that is believed as far as it ever is."""
    detector = Detector(directory(1, ("m",), units=("Cel",), low=-1e3, high=1e3), SETTINGS)
    x = 20.0 + np.random.default_rng(9).standard_t(3, 6_001)
    ts = (np.arange(len(x)) + 1) * MINUTE
    detector.score(readings([0] * 6_000, ts[:-1], x[:-1]))
    detector._rows["usual_start"], detector._rows["usual_excess"] = 2.5, 1.5
    shown = detector.standing(np.zeros(1, np.intp), int(ts[-1]))
    judged = detector.score(readings([0], ts[-1:], x[-1:]))
    assert shown.band[0] == pytest.approx(judged.band[0], rel=1e-3)
    assert shown.expected[0] == pytest.approx(judged.expected[0], rel=1e-5)
