"""What the detectors find and what they leave alone, at default settings; seeds are fixed."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.detect.kernels_baseline import ADOPT_AFTER
from greenlang_iot.model import flags as f
from greenlang_iot.model.directory import PROFILES
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

pytestmark = pytest.mark.skipif(
    JIT_DISABLED,
    reason="200,000 readings a test take minutes without the JIT; the bits are the same",
)

SERIES = 100
SETTINGS = DetectSettings(second_stage=SecondStageSettings(enabled=False))
Matrix = npt.NDArray[np.float64]


def fleet(n: int, amplitude: float, seed: int) -> Matrix:
    """Rows of readings, a minute apart, of SERIES sensors: a daily sine with Gaussian noise of 1."""
    rng = np.random.default_rng(seed)
    minute = np.arange(n)[:, None] + rng.uniform(0, 1440, SERIES)
    return 20 + amplitude * np.sin(math.tau * minute / 1440) + rng.normal(size=(n, SERIES))


def run(x: Matrix, profile: str = "default", **columns: float) -> tuple[Matrix, Matrix]:
    """Detector code of suspect readings (0 = not suspect), and the verdicts, shaped like `x`."""
    d = directory(SERIES, ("m",), units=("Cel",), low=-100, high=100)
    changed = {name: np.full(SERIES, value) for name, value in columns.items()}
    index = np.full(SERIES, PROFILES.index(profile), np.uint8)
    detector = Detector(dataclasses.replace(d, profile=index, **changed), SETTINGS)
    n = len(x)
    ts = np.repeat((np.arange(n) + 1) * MINUTE, SERIES)
    scores = detector.score(readings(np.tile(np.arange(SERIES), n), ts, x.ravel()))
    found = np.where(scores.verdict & f.SUSPECT, scores.detector, 0)
    return found.reshape(x.shape), scores.verdict.reshape(x.shape)


@pytest.mark.parametrize("amplitude", [0.0, 5.0, 10.0])
def test_clean_seasonal_series_are_left_alone(amplitude: float) -> None:
    found, _ = run(fleet(2_000, amplitude, seed=21))
    assert np.count_nonzero(found) <= 2_000 * SERIES / 10_000 / 2


@pytest.mark.parametrize("amplitude", [0.0, 5.0, 10.0])
def test_spikes_of_8_sigma_are_found_at_once(amplitude: float) -> None:
    x = fleet(1_000, amplitude, seed=22)
    x[900] += 8 * np.where(np.arange(SERIES) % 2, 1, -1)
    found, _ = run(x)
    assert np.count_nonzero(found[900]) >= 0.95 * SERIES
    assert np.count_nonzero(found[901:]) <= 1  # a spike does not poison the level


@pytest.mark.parametrize("amplitude", [0.0, 5.0, 10.0])
def test_shifts_of_6_sigma_are_found_within_5_readings(amplitude: float) -> None:
    x = fleet(1_000, amplitude, seed=23)
    x[900:] += 6 * np.where(np.arange(SERIES) % 2, 1, -1)
    found, _ = run(x)
    assert np.count_nonzero(found[900:905].any(axis=0)) >= 0.95 * SERIES


@pytest.mark.parametrize("size", [5.0, 8.0, 30.0, 1e4])
def test_a_lasting_change_becomes_normal(size: float) -> None:
    x = fleet(1_000, 0.0, seed=24)
    x[500:] += size
    found, _ = run(x)
    assert found[500:510].any(axis=0).mean() >= 0.95
    assert np.count_nonzero(found[500 + 2 * ADOPT_AFTER :]) <= 2


def test_a_stuck_sensor_is_found_and_a_coarse_one_is_not() -> None:
    x = fleet(1_000, 5.0, seed=25)
    x[900:940] = x[899]
    found, _ = run(x)
    assert (found[900:940] == f.DETECTOR_STUCK).any(axis=0).all()
    found, _ = run(np.round(fleet(2_000, 5.0, seed=26)))
    assert not (found == f.DETECTOR_STUCK).any()


def test_a_step_beyond_physics_is_certain_and_its_return_is_not_a_second_one() -> None:
    x = fleet(300, 0.0, seed=27)
    x[250] += 40
    found, _ = run(x, step=0.2)  # 12 a minute
    assert (found[250] == f.DETECTOR_RATE).all()
    assert not found[251].any()
    x[250] -= 32
    found, _ = run(x, step=0.2, profile="binary")
    assert not found.any()


def test_outside_the_operating_range() -> None:
    x = np.full((100, SERIES), 20.0) + fleet(100, 0.0, seed=28) * 0.01
    x[90:] = 25.0
    found, _ = run(x, warn_high=25.0)
    assert not (found == f.DETECTOR_RANGE).any()
    found, _ = run(x, warn_high=24.9)
    assert (found[90:] == f.DETECTOR_RANGE).all()


def test_warm_up_is_silent_and_a_long_gap_begins_a_new_one() -> None:
    x = fleet(100, 0.0, seed=29)
    x[10] += 100
    found, verdict = run(x)
    assert not found[:30].any()
    assert ((verdict[:30] & f.LEARNING) != 0).all()
    assert ((verdict[30:] & f.LEARNING) == 0).all()

    detector = Detector(directory(1, ("m",), units=("Cel",)), SETTINGS)
    detector.score(readings([0] * 50, np.arange(50) * MINUTE, x[50:, 0]))
    later = 49 * MINUTE + np.array([120, 241]) * MINUTE
    assert detector.score(readings([0, 0], later, [20.0, 20.1])).verdict.tolist() == [0, f.LEARNING]


def test_counters_are_judged_by_their_increase() -> None:
    rng = np.random.default_rng(30)
    steps = np.abs(60 + rng.normal(size=(600, SERIES)))
    steps[550] += 20
    x = np.cumsum(steps, axis=0)
    x[400:] -= x[400]  # restart
    found, _ = run(x, profile="counter")
    assert np.count_nonzero(found[:550]) <= 2
    assert (found[550] != 0).all()


def test_expected_and_band_are_what_the_verdict_says() -> None:
    rng = np.random.default_rng(31)
    d = directory(1, ("m",), units=("Cel",))
    detector = Detector(d, SETTINGS)
    x = 20 + rng.standard_t(4, 2_000)
    x[::150] += 60
    s = detector.score(readings([0] * 2_000, np.arange(2_000) * MINUTE, x))
    judged = (s.verdict & f.LEARNING) == 0
    spike = (s.detector == f.DETECTOR_SPIKE) & judged
    outside = np.abs(x - s.expected) > s.band
    agree = outside[spike] == ((s.verdict[spike] & f.SUSPECT) != 0)
    assert outside.any()
    assert agree.all()


def test_a_workday_like_a_weekend_is_news_and_a_weekend_is_not() -> None:
    """Seven weeks of a quarter of an hour each; 20 series with a bump on workdays, missing once on a Wednesday."""
    rng = np.random.default_rng(9)
    day, n, fleet_of = 96, 7 * 7 * 96, 20
    at = np.arange(n)
    weekday = at // day % 7  # 1970-01-01 was a Thursday: 2 and 3 are the weekend
    hour = at % day // 4
    bump = np.where((hour >= 9) & (hour < 17) & (weekday != 2) & (weekday != 3), 4.0, 0.0)
    missing = slice(6 * 7 * day + 6 * day, 6 * 7 * day + 7 * day)  # the last Wednesday
    bump[missing] = 0.0
    x = 20.0 + bump + rng.normal(size=(fleet_of, n))
    detector = Detector(directory(fleet_of, ("m",), units=("Cel",)), SETTINGS)
    ts = np.repeat((at + 1) * 15 * MINUTE, fleet_of)
    scores = detector.score(readings(np.tile(np.arange(fleet_of), n), ts, x.T.ravel()))
    news = ((scores.verdict & (f.SUSPECT | f.TOLD)) == f.SUSPECT).reshape(n, fleet_of)
    weekends = ((weekday == 2) | (weekday == 3)) & (at >= 4 * 7 * day)
    assert news[missing].any(axis=0).mean() >= 0.8
    assert news[weekends].any(axis=0).mean() <= 0.2


def news(x: Matrix) -> Matrix:
    """Readings that opened an alert, shaped like `x`: suspect and not told."""
    _, verdict = run(x)
    return (verdict & (f.SUSPECT | f.TOLD)) == f.SUSPECT


def test_noise_that_wanders_is_left_alone() -> None:
    """Each reading remembers 0.9 of the one before; after two days the context judges it, and does not know it yet."""
    rng = np.random.default_rng(31)
    x = rng.normal(size=(6 * 1440, SERIES))
    for minute in range(1, len(x)):
        x[minute] = 0.9 * x[minute - 1] + math.sqrt(1 - 0.9**2) * x[minute]
    assert (
        np.count_nonzero(news(20.0 + x)[2 * 1440 :]) <= 180
    )  # 277 before averages knew of seconds


def test_a_new_series_that_wanders_has_not_shifted() -> None:
    """Each reading remembers nearly all of the one before, as temperatures and loads do; 100 readings after warm-up."""
    rng = np.random.default_rng(41)
    x = rng.normal(size=(130, SERIES))
    for minute in range(1, len(x)):
        x[minute] = 0.95 * x[minute - 1] + math.sqrt(1 - 0.95**2) * x[minute]
    assert (
        news(20.0 + x).any(axis=0).mean() <= 0.05
    )  # 0.2 while runs of one side were learnt slowly


@pytest.mark.parametrize("at", [40, 60, 100])
def test_a_new_series_that_shifts_is_found(at: int) -> None:
    """Six deviations, some readings after warm-up: the shift must not be learnt while it is found."""
    x = np.random.default_rng(41).normal(size=(130, SERIES))
    x[at:] += 6.0
    assert news(20.0 + x)[at : at + 5].any(axis=0).mean() >= 0.9


def test_far_readings_of_a_new_series_prove_less() -> None:
    """Student's t with three degrees of freedom, for a quarter of a day."""
    x = np.random.default_rng(32).standard_t(3, (360, SERIES))
    assert np.count_nonzero(news(20.0 + x)) <= 60  # 104 without doubt
    x[300] += 60.0
    assert news(20.0 + x)[300].mean() >= 0.9


def test_a_profile_that_asks_for_more_is_not_doubted_as_well() -> None:
    """A spike of 15 deviations, 90 readings after a `spiky` series was first heard."""
    x = 20.0 + np.random.default_rng(36).normal(size=(91, SERIES))
    x[-1] = 35.0
    _, verdict = run(x, profile="spiky")
    assert np.mean((verdict[-1] & f.SUSPECT) != 0) >= 0.9  # 0.02 with the doubt of new series


def test_a_change_that_the_hour_expects_is_less_of_a_spike() -> None:
    """Six deviations more from eight to eleven every day: what comes on the fourth and fifth day is expected."""
    n = 5 * 1440
    at = np.arange(n) + 1
    hour = at % 1440 // 60
    bump = np.where((hour >= 8) & (hour < 11), 6.0, 0.0)
    x = 20.0 + bump[:, None] + np.random.default_rng(33).normal(size=(n, SERIES))
    found = news(x)
    begins = np.flatnonzero((at % 1440 == 480) & (at >= 3 * 1440))
    share = np.mean([found[start : start + 3].any(axis=0).mean() for start in begins])
    assert share <= 0.1  # 0.4 where every jump is judged alike


def test_farther_away_than_ever_is_found_sooner() -> None:
    """Eight scales off in noise with a heavy tail, after five days: as it is, and where much farther was seen before."""
    n = 5 * 288
    x = 20.0 + np.random.default_rng(35).standard_t(5, (n, SERIES))
    x[-1] += 8.0
    share = []
    for farthest in (None, 1e6):
        detector = Detector(directory(SERIES, ("m",), units=("Cel",)), SETTINGS)
        for part in (slice(0, n - 1), slice(n - 1, n)):
            ts = np.repeat((np.arange(n)[part] + 1) * 5 * MINUTE, SERIES)
            series = np.tile(np.arange(SERIES), len(ts) // SERIES)
            scores = detector.score(readings(series, ts, x[part].ravel()))
            if farthest is not None:
                detector._rows["night_farthest"] = detector._rows["day_farthest"] = farthest
        share.append(np.mean((scores.verdict & f.SUSPECT) != 0))
    assert share[0] >= share[1] + 0.1
