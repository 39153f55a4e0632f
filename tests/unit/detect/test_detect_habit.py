"""What a series does at the same time of every day is told, not news."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings
from tests.reference.detect import Habit

from greenlang_iot.detect import kernels_habit, state
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model import flags as f
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

HOUR = 60 * MINUTE
DAY = 24 * HOUR
EVERY = 10
"""Minutes between readings."""
A_DAY = 1440 // EVERY
SETTINGS = DetectSettings(second_stage=SecondStageSettings(enabled=False))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 11, 12, 23, 24, 24, 24, 25, 48, 168, 200, -3]),  # hours later
            st.integers(-70, 70),  # and minutes
            st.sampled_from([5.0, 5.1, 6.0, 6.2, 7.5, 30.0]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_kernel_is_its_twin(anomalies: list[tuple[int, int, float]]) -> None:
    rows, twin = state.fresh(1), Habit()
    ts = 20_000 * DAY
    for hours, minutes, score in anomalies:
        ts += hours * HOUR + minutes * MINUTE
        assert kernels_habit.is_habit(rows[0], ts, score) == twin.has(ts, score)
        fields = [int(rows[0][name]) for name in HABIT]
        assert fields == [twin.minute, twin.days, twin.peak, twin.hour]


HABIT = ("habit_minute", "habit_days", "habit_peak", "habit_hour")


def told(when: list[int], scores: list[float] | None = None) -> list[bool]:
    """Is each anomaly, at so many ns, told as a habit? All of score 6 unless given."""
    rows = state.fresh(1)
    scores = scores or [6.0] * len(when)
    return [
        bool(kernels_habit.is_habit(rows[0], 20_000 * DAY + ts, score))
        for ts, score in zip(when, scores, strict=True)
    ]


def test_it_takes_three_days_before() -> None:
    assert told([day * DAY for day in range(6)]) == [False, False, False, True, True, True]


def test_around_midnight_is_one_time_of_day() -> None:
    minutes = [5, -10, 0, 15, -5]
    when = [day * DAY + m * MINUTE for day, m in enumerate(minutes)]
    assert told(when) == [False, False, False, True, True]


def test_another_time_is_news_and_makes_the_habit_doubtful() -> None:
    daily = [day * DAY for day in range(4)]
    assert told([*daily, 4 * DAY + 3 * HOUR]) == [False, False, False, True, False]
    others = [4 * DAY + (3 + 2 * k) * HOUR for k in range(2)]
    assert told([*daily, *others, 5 * DAY])[-1] is False


def test_what_is_stronger_by_more_than_a_decade_is_news() -> None:
    daily = [day * DAY for day in range(5)]
    assert told(daily, [6.0, 6.0, 6.0, 7.0, 7.0])[-2:] == [True, True]
    assert told(daily, [6.0, 6.0, 6.0, 8.0, 8.0])[-2:] == [False, True]


def test_several_of_one_day_are_one() -> None:
    assert not any(told([k * 5 * MINUTE for k in range(10)]))


def test_a_habit_is_forgotten_after_a_week_without_it() -> None:
    daily = [day * DAY for day in range(4)]
    assert told([*daily, 10 * DAY])[-1] is True
    assert told([*daily, 11 * DAY])[-1] is False


def test_a_nightly_job_is_told_from_the_fourth_night_on() -> None:
    """A series of noise 1 with a burst of 20 minutes; later its own tail knows bursts."""
    days = 8
    x = 50 + np.random.default_rng(8).normal(size=days * A_DAY)
    starts = np.arange(3, days) * A_DAY + 100
    x[starts] += 200
    x[starts + 1] += 200
    ts = (np.arange(len(x)) + 1) * EVERY * MINUTE
    detector = Detector(directory(1, ("m",), units=("Cel",), low=-1e4, high=1e4), SETTINGS)
    scores = detector.score(readings([0] * len(x), ts, x))
    verdict = scores.verdict[starts[:4]]
    assert (verdict & f.SUSPECT).all()
    assert (verdict & f.TOLD != 0).tolist() == [False, False, False, True]
    # told like the rest of an anomaly: it keeps an alert open and opens none
    assert 0.7 * SETTINGS.threshold <= scores.score[starts[3]] < SETTINGS.threshold


@pytest.mark.parametrize("score", [0.0, 30.0, 1e9, math.inf])
def test_any_score_fits(score: float) -> None:
    rows = state.fresh(1)
    assert not kernels_habit.is_habit(rows[0], -5 * DAY, score)
    assert rows[0]["habit_peak"] == min(8 * score, 255)
