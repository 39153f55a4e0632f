"""What repeats, but not by the day: stays that last too long or are cut short, and turns at another height."""

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model import flags as f
from greenlang_iot.model.directory import PROFILES
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

pytestmark = pytest.mark.skipif(
    JIT_DISABLED,
    reason="200,000 readings a test take minutes without the JIT; the bits are the same",
)

SERIES = 40
SETTINGS = DetectSettings(second_stage=SecondStageSettings(enabled=False))
Matrix = npt.NDArray[np.float64]
CYCLES = 120
"""Of 20 to 30 minutes on and 30 to 50 off: five days."""


def pump(seed: int, **last: float) -> tuple[Matrix, int]:
    """Minutes of SERIES pumps, and where their last cycle begins: on for `on` minutes at `level`, then off for `off`."""
    rng = np.random.default_rng(seed)
    columns = []
    for _ in range(SERIES):
        on, off = rng.integers(20, 30), rng.integers(30, 50)
        parts = [np.zeros(off)]
        for _ in range(CYCLES):
            minutes = rng.normal((on, off), (1.0, 2.0)).astype(int)
            parts += [np.full(minutes[0], 8.0), np.zeros(minutes[1])]
        start = sum(len(part) for part in parts)
        last_on = int(on * last.get("on", 1.0))
        parts += [np.full(last_on, 8.0 * last.get("level", 1.0))]
        parts += [np.zeros(int(off * last.get("off", 1.0))), np.full(20, 8.0)]
        columns.append((np.concatenate(parts), start))
    n = max(len(column) for column, _ in columns)
    begins = n - min(len(column) - start for column, start in columns)
    x = np.zeros((n, SERIES))
    for k, (column, _) in enumerate(columns):
        x[n - len(column) :, k] = column
    first = min(n - len(column) + start for column, start in columns)
    assert first <= begins
    return x + rng.normal(0.0, 0.1, x.shape), first


def news(x: Matrix, by: int | None = None, profile: str = "default") -> npt.NDArray[np.bool_]:
    """Which readings opened an alert; by: of this detector only."""
    d = directory(SERIES, ("m",), units=("Cel",), low=-1000, high=1000)
    profiles = np.full(SERIES, PROFILES.index(profile), np.uint8)
    detector = Detector(dataclasses.replace(d, profile=profiles), SETTINGS)
    n = len(x)
    ts = np.repeat((np.arange(n) + 1) * MINUTE, SERIES)
    scores = detector.score(readings(np.tile(np.arange(SERIES), n), ts, x.ravel()))
    found = (scores.verdict & (f.SUSPECT | f.TOLD)) == f.SUSPECT
    if by is not None:
        found &= scores.detector == by
    return found.reshape(x.shape)


def test_a_pump_that_goes_on_and_off_is_no_news() -> None:
    x, _ = pump(61)
    assert np.count_nonzero(news(x)[3 * 1_440 :]) <= 8  # of some 200,000


@pytest.mark.parametrize(
    ("fault", "least"),
    [
        ({"on": 2.5}, 0.9),  # does not stop
        ({"off": 2.5}, 0.9),  # skips a cycle
        ({"on": 0.5}, 0.9),  # stops too soon
        ({"level": 0.6}, 0.9),  # delivers too little
        ({"level": 1.5}, 0.9),  # and too much
    ],
)
def test_a_cycle_unlike_the_others_is_found(fault: dict[str, float], least: float) -> None:
    x, first = pump(62, **fault)
    assert news(x)[first:].any(axis=0).mean() >= least
    assert news(x, f.DETECTOR_SWING)[first:].any()


def test_stays_of_no_length_are_judged_between_two_levels_only() -> None:
    """Exponential stays: nine usual ones in a row are normal once in 8,000, thirty are not."""
    rng = np.random.default_rng(63)
    turns = rng.random((8_000, SERIES)) < 1 / 20
    x = np.where(np.cumsum(turns, axis=0) % 2, 30.0, 2.0) + rng.normal(size=turns.shape)
    clean = news(x)
    assert np.count_nonzero(clean[4_000:]) <= 16  # of 160,000
    level = np.where(x[7_199] > 16.0, 30.0, 2.0)
    x[7_200:7_800] = level + rng.normal(size=(600, SERIES))
    assert news(x)[7_200:7_800].any(axis=0).mean() >= 0.8


def test_a_first_reading_far_away_leaves_no_turn_that_is_too_far() -> None:
    """Places are kept above the first reading in float32, which tells no more of them than 64 apart."""
    x, _ = pump(64)
    x[0] = 1e9
    detector = Detector(directory(SERIES, ("m",), units=("Cel",), low=-1e10, high=1e10), SETTINGS)
    n = len(x)
    ts = np.repeat((np.arange(n) + 1) * MINUTE, SERIES)
    scores = detector.score(readings(np.tile(np.arange(SERIES), n), ts, x.ravel()))
    assert scores.score[3 * 1_440 * SERIES :].max() < 30.0
    assert np.count_nonzero(scores.verdict[3 * 1_440 * SERIES :] == f.SUSPECT) <= 8


@pytest.mark.parametrize("fault", [{"on": 2.5}, {"on": 0.5}])
def test_what_is_only_on_or_off_is_judged_by_how_long(fault: dict[str, float]) -> None:
    """Profile `binary`: a door, a burner."""
    x, first = pump(66, **fault)
    found = news(np.where(x > 4.0, 1.0, 0.0), profile="binary")
    assert np.count_nonzero(found[:first]) <= 4  # of some 200,000
    assert found[first:].any(axis=0).mean() >= 0.9
