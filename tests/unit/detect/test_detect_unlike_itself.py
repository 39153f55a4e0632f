"""What is found because it is unusual for this hour, or for this series, though no value of it is far from its level."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, SECOND, readings

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model import flags as f
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

pytestmark = pytest.mark.skipif(
    JIT_DISABLED,
    reason="200,000 readings a test take minutes without the JIT; the bits are the same",
)

SERIES = 50
SETTINGS = DetectSettings(second_stage=SecondStageSettings(enabled=False))
HOUR = 60 * MINUTE
Matrix = npt.NDArray[np.float64]


def verdicts(x: Matrix, interval: int) -> npt.NDArray[np.uint8]:
    """Of the readings of SERIES sensors, `interval` ns apart, shaped like `x`."""
    n = len(x)
    detector = Detector(directory(SERIES, ("m",), units=("Cel",), low=-1000, high=1000), SETTINGS)
    ts = np.repeat((np.arange(n) + 1) * interval, SERIES)
    scores = detector.score(readings(np.tile(np.arange(SERIES), n), ts, x.ravel()))
    return scores.verdict.reshape(x.shape)


def news(x: Matrix, interval: int) -> npt.NDArray[np.bool_]:
    """Which of them opened an alert."""
    return (verdicts(x, interval) & (f.SUSPECT | f.TOLD)) == f.SUSPECT


def hourly(days: int, amplitude: float, seed: int) -> Matrix:
    """A reading an hour with noise of 1 and a daily season."""
    at = np.arange(24 * days)[:, None] + np.arange(SERIES)
    noise = np.random.default_rng(seed).normal(size=(24 * days, SERIES))
    return 20.0 + amplitude * np.sin(math.tau * at / 24) + noise


def test_a_spike_that_is_within_the_season_is_one_for_its_hour() -> None:
    x = hourly(60, 10.0, 51)
    clean = news(x, HOUR)
    assert np.count_nonzero(clean) <= 10  # of 72,000
    x[1_200] += np.where(x[1_200] > 20.0, -12.0, 12.0)
    assert news(x, HOUR)[1_200].mean() >= 0.6  # 0.04 against the level alone


def test_a_trend_under_the_season_hides_no_spike() -> None:
    """One deviation a day: hours that are met once a day must follow it."""
    x = hourly(60, 10.0, 58) + np.arange(60 * 24)[:, None] / 24
    x[1_200] += np.where(x[1_200] > 70.0, -16.0, 16.0)
    assert news(x, HOUR)[1_200].mean() >= 0.8


def test_a_season_that_grows_is_found_though_the_first_day_knew_none() -> None:
    x = hourly(60, 8.0, 52)
    x[1_200:] += hourly(60, 8.0, 53)[1_200:] - 20.0
    assert news(x, HOUR)[1_200:1_236].any(axis=0).mean() >= 0.9


@pytest.mark.parametrize("job", [10.0, 30.0])
def test_a_nightly_job_does_not_hide_what_comes_hours_later(job: float) -> None:
    """A job of one reading at two every night; on the ninth day a shift of eight deviations at eight."""
    at = np.arange(9 * 288)
    x = 20.0 + np.random.default_rng(54).normal(size=(len(at), SERIES))
    x[at % 288 == 24] += job
    faults = slice(8 * 288 + 96, 8 * 288 + 116)
    x[faults] += 8.0
    found = news(x, 5 * MINUTE)
    assert found[at % 288 == 24][5:].mean() <= 0.1  # the job itself is known
    assert found[faults].any(axis=0).mean() >= 0.9


def test_what_is_much_farther_than_ever_is_found_whatever_the_spread() -> None:
    """A machine that draws 30 or 2 for an hour or so at a time, for twenty days; then 100."""
    rng = np.random.default_rng(55)
    n = 20 * 288
    changes = rng.random((n, SERIES)) < 1 / 15
    x = np.where(np.cumsum(changes, axis=0) % 2, 30.0, 2.0) + rng.normal(size=(n, SERIES))
    assert np.count_nonzero(news(x, 5 * MINUTE)) <= 80  # of 288,000
    x[-1] = 100.0
    assert ((verdicts(x, 5 * MINUTE)[-1] & f.SUSPECT) != 0).mean() >= 0.9


def test_a_series_read_every_second_is_judged_within_the_hour() -> None:
    """Twice the noise for three minutes, half an hour after the first reading."""
    x = np.random.default_rng(56).normal(size=(2_000, SERIES))
    assert np.count_nonzero(news(20.0 + x, SECOND)) <= 5
    x[1_800:1_980] *= 2.5
    assert news(20.0 + x, SECOND)[1_800:1_980].any(axis=0).mean() >= 0.9


def test_a_day_that_is_not_known_holds_no_records() -> None:
    """Ten seconds apart, for a day and a half: both halves of the day are new once."""
    at = np.arange(6_000)[:, None] * 20
    x = 20.0 + 10.0 * np.sin(math.tau * at / 86_400 + np.arange(SERIES))
    x = x + np.random.default_rng(57).normal(size=(6_000, SERIES))
    assert np.count_nonzero(news(x, 4 * SECOND)) <= 15  # of 300,000


def waves(minutes: int, seed: int) -> Matrix:
    """A reading a minute of a wave of two hours or so, whose noise is a hundredth of it."""
    rng = np.random.default_rng(seed)
    period, phase = rng.uniform(100, 150, SERIES), rng.uniform(0, math.tau, SERIES)
    at = np.arange(minutes)[:, None]
    return (
        20.0
        + 10.0 * np.sin(math.tau * at / period + phase)
        + 0.1 * rng.normal(size=(minutes, SERIES))
    )


def test_a_series_that_is_rougher_than_ever_is_found_within_its_usual_range() -> None:
    """For half an hour a wave shakes by a fifth of its height, which it does not leave."""
    x = waves(6_000, 59)
    assert np.count_nonzero(news(x, MINUTE)) <= 20  # of 300,000, on the first day
    shaken = slice(5_000, 5_030)
    x[shaken] = np.clip(
        x[shaken] + 2.0 * np.random.default_rng(60).normal(size=(30, SERIES)), 10, 30
    )
    assert news(x, MINUTE)[shaken].any(axis=0).mean() >= 0.9


def test_a_season_of_three_days_is_no_news_at_a_reading_a_minute() -> None:
    """Hours of the day that follow every minute are wrong on the next day by all that it moved."""
    at = np.arange(6_000)[:, None]
    x = 20.0 + 10.0 * np.sin(math.tau * at / 4_320 + np.arange(SERIES))
    x = x + np.random.default_rng(57).normal(size=(6_000, SERIES))
    assert np.count_nonzero(news(x, MINUTE)) <= 15  # of 300,000


def test_nine_minutes_of_readings_a_second_apart_are_enough() -> None:
    """Then a slow rise over two minutes, of which no reading is a spike: a rig that is tried for twenty minutes."""
    x = 20.0 + np.random.default_rng(61).normal(size=(700, SERIES))
    x[550:670] += np.linspace(0.0, 6.0, 120)[:, None]
    found = news(x, SECOND)
    assert np.count_nonzero(found[:550]) <= 3
    assert found[550:670].any(axis=0).mean() >= 0.9


def by_command(seed: int) -> Matrix:
    """A reading a minute of a machine with levels −1 to 1, each kept for some hours."""
    rng = np.random.default_rng(seed)
    changes = rng.random((8_000, SERIES)) < 1 / 120
    levels = rng.uniform(-1.0, 1.0, (8_000, SERIES))
    kept = np.maximum.accumulate(np.where(changes, np.arange(8_000)[:, None], 0), axis=0)
    levels = np.take_along_axis(np.round(2.0 * levels) / 2.0, kept, axis=0)
    return 5.0 + levels + 0.02 * rng.normal(size=levels.shape)


def test_a_level_beyond_all_that_were_is_found_whatever_the_others() -> None:
    x = by_command(62)
    clean = news(x, MINUTE)
    assert clean[4_000:].sum() <= 100  # of 200,000
    x[7_000:7_100] = 6.5 + 0.02 * np.random.default_rng(63).normal(size=(100, SERIES))
    assert news(x, MINUTE)[7_000:7_010].any(axis=0).mean() >= 0.9


def test_what_leaves_its_range_slowly_is_found() -> None:
    """A temperature that follows loads of an hour each, to which 0.6 of their range is added within five hours: much of that stays within it."""
    rng = np.random.default_rng(64)
    load = np.repeat(rng.choice([0.0, 4.0, 10.0], (100, SERIES)), 60, axis=0)
    load[4_000:4_300] += np.linspace(0.0, 6.0, 300)[:, None]
    x = np.full_like(load, 5.0)
    for i in range(1, len(x)):
        x[i] = x[i - 1] + 0.03 * (load[i] - x[i - 1])
    found = news(x + 0.1 * rng.normal(size=x.shape), MINUTE)
    assert found[2_880:4_000].sum() <= 25  # of 56,000
    assert found[4_000:4_330].any(axis=0).mean() >= 0.55  # 0.4 without


def test_one_reading_outside_the_range_is_not_a_range_that_was_left() -> None:
    """A reading an hour, one in twenty of which jumps, now and then farther than ever."""
    rng = np.random.default_rng(65)
    x = rng.normal(size=(3_000, SERIES))
    x += np.where(rng.random(x.shape) < 0.05, 5.0 * rng.exponential(size=x.shape), 0.0)
    assert news(100.0 + x, HOUR)[600:].sum() <= 175  # of 120,000; 192 if one were enough


def test_jumps_that_were_no_news_hide_few_faults() -> None:
    """Four levels, three deviations apart, of some 200 readings each: their jumps are the tail of this series, and a spike of eight is not all of it."""
    rng = np.random.default_rng(81)
    changes = rng.random((8_000, SERIES)) < 1 / 200
    levels = 3.0 * (np.cumsum(np.where(changes, rng.choice([-1, 1], changes.shape), 0), 0) % 4)
    x = 20.0 + levels + rng.normal(size=levels.shape)
    x[7_900:7_904] += 8.0
    found = news(x, MINUTE)[7_900:7_904].any(axis=0).mean()
    assert found >= 0.36  # 0.3 where the tail is believed to the last
