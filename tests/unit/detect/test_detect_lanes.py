"""Blocks of lanes: nothing depends on where they end; logarithm and exponential are what they say."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings
from tests.reference import detect as twin

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.detect.kernels_lanes import LANES, MARKS
from greenlang_iot.model import kernels_log
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

SETTINGS = DetectSettings(warmup=5, second_stage=SecondStageSettings(enabled=False))


@given(st.floats(1e-300, 1e300))
def test_logarithm(x: float) -> None:
    assert kernels_log.log(x) == pytest.approx(math.log(x), rel=1e-9, abs=1e-12)
    assert kernels_log.log(x) == twin.log(x)


@given(st.floats(0.0, 600.0))
def test_exponential(x: float) -> None:
    assert kernels_log.exp(x) == pytest.approx(math.exp(x), rel=1e-9)
    assert kernels_log.exp(x) == twin.exp(x)


@given(st.floats(0.0, 690.0))
def test_exponential_below_one(x: float) -> None:
    assert kernels_log.exp_down(x) == pytest.approx(math.exp(-x), rel=1e-12)


@pytest.mark.parametrize(
    "series",
    [
        [0] * 8,  # of one series: a block each
        list(range(3 * LANES + 1)),
        [0, 1, 0, 2, 2, 1] * 7,
        [0, MARKS, 5, 2 * MARKS, MARKS, 0],  # of several that share a mark
    ],
    ids=["one", "many", "some again", "marks"],
)
def test_where_a_block_ends_changes_nothing(series: list[int]) -> None:
    d = directory(max(series) + 1)
    whole, single = Detector(d, SETTINGS), Detector(d, SETTINGS)
    rng = np.random.default_rng(2)
    last = 0.0
    for turn in range(40):
        x = 20.0 + rng.normal(size=len(series)) + 30.0 * (rng.random(len(series)) < 0.02)
        x[turn % len(series)] = (math.nan, math.inf, 20.0)[turn % 3]
        ts = (turn * len(series) + np.arange(len(series))) * MINUTE
        batch = readings(series, ts, x, seq=list(range(len(series))))
        got = whole.score(batch)
        for i in range(len(series)):
            one = readings([series[i]], [ts[i]], [x[i]], seq=[i])
            want = single.score(one)
            assert batch.flags[i] == one.flags[0]
            for column in ("score", "detector", "verdict", "expected", "band"):
                np.testing.assert_array_equal(
                    getattr(got, column)[i], getattr(want, column)[0], err_msg=column
                )
        last = max(last, float(got.score.max()))
    assert last > 2.0
    np.testing.assert_array_equal(whole._rows, single._rows)
