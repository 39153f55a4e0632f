"""A metric that no longer follows the other metrics of its device."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings
from tests.reference.detect import Siblings

from greenlang_iot.detect import kernels_siblings, state
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model import flags as f
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

METRICS = ("a", "b", "c", "d")
DEVICES = 30
BUDGET = SecondStageSettings(enabled=True)
SETTINGS = DetectSettings(second_stage=BUDGET)
Matrix = npt.NDArray[np.float64]

fast_only = pytest.mark.skipif(JIT_DISABLED, reason="300,000 readings take minutes without the JIT")


def fleet(devices: int = DEVICES) -> Directory:
    return directory(devices, METRICS, units=("Cel",) * 4, low=-1e4, high=1e4)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 5),
    st.sampled_from([0.0, 0.6, 0.9, 1.0]),
    st.sampled_from([0.0, 0.1]),
)
@hypothesis_settings(max_examples=20, deadline=None)
def test_kernel_is_its_twin(seed: int, metrics: int, share: float, missing: float) -> None:
    """Sets with readings missing, twice there, and late."""
    rng = np.random.default_rng(seed)
    records, twin = state.strangers(metrics + 3), Siblings(metrics)
    first = 2  # other devices' records stand beside
    for minute in range(420):
        common = rng.normal()
        for at in rng.permutation(metrics).tolist():
            if rng.random() < missing:
                continue
            ts = (minute - 2 * int(rng.random() < missing / 3)) * MINUTE
            z = float(np.float32(share * common + (1 - share) * rng.normal()))
            z *= 30.0 if rng.random() < 0.01 else 1.0
            got = kernels_siblings.apart_score(records, first, metrics, first + at, ts, z)
            assert got == twin.read(at, ts, z)
    assert (records["sets"][[0, 1, -1]] == 0).all()


def coupled(n: int, seed: int, share: float = 0.9) -> tuple[Matrix, Matrix]:
    """(noise by minute, device and metric; what the metrics of a device share)."""
    rng = np.random.default_rng(seed)
    common = math.sqrt(share) * rng.normal(size=(n, DEVICES, 1))
    return common + math.sqrt(1 - share) * rng.normal(size=(n, DEVICES, 4)), common


def score(x: Matrix, settings: DetectSettings = SETTINGS) -> tuple[Matrix, Matrix]:
    """(news by river's number, verdicts), shaped like `x`."""
    detector = Detector(fleet(), settings)
    ts = np.repeat((np.arange(len(x)) + 1) * MINUTE, DEVICES * 4)
    scores = detector.score(readings(np.tile(np.arange(DEVICES * 4), len(x)), ts, x.ravel()))
    river = (scores.detector == f.DETECTOR_RIVER) & (scores.verdict & f.SUSPECT != 0)
    return river.reshape(x.shape), scores.verdict.reshape(x.shape)


@fast_only
def test_a_metric_that_goes_its_own_way_is_found() -> None:
    x, common = coupled(1_200, seed=1)
    x[1_000:1_060, :, 2] -= 2 * common[1_000:1_060, :, 0]  # no value is unusual
    river, verdict = score(20 + x)
    assert river[1_000:1_060, :, 2].any(axis=0).mean() >= 0.85
    assert river[:1_000].sum() == 0
    news = river & (verdict & f.TOLD == 0)
    assert news[1_000:1_060, :, 2].sum(axis=0).max() == 1  # once


@fast_only
def test_what_follows_nothing_is_left_alone() -> None:
    assert score(20 + coupled(2_000, seed=2, share=0.0)[0])[0].sum() == 0


@fast_only
def test_a_lasting_change_is_learnt() -> None:
    x, common = coupled(4_000, seed=3)
    x[1_000:, :, 2] -= 2 * common[1_000:, :, 0]
    river, _ = score(20 + x)
    assert river[1_000:1_100, :, 2].any(axis=0).mean() >= 0.85
    assert river[3_000:].sum() == 0


@fast_only
def test_one_spike_uncouples_nothing() -> None:
    x, _ = coupled(1_200, seed=4)
    x[1_000, :, 1] += 50
    river, _ = score(20 + x)
    assert river.sum() == 0


def test_it_belongs_to_the_second_stage() -> None:
    x, common = coupled(500, seed=5)
    x[420:480, :, 2] -= 2 * common[420:480, :, 0]
    off = DetectSettings(second_stage=SecondStageSettings(enabled=False))
    assert score(20 + x, off)[0].sum() == 0
    assert score(20 + x)[0].sum() > 0


def test_batches_of_one_a_restart_and_growth_change_nothing() -> None:
    x, common = coupled(500, seed=6)
    x, common = x[:, :2], common[:, :2]
    x[400:460, :, 2] -= 2 * common[400:460, :, 0]
    settings = DetectSettings(second_stage=SecondStageSettings(enabled=True, budget_per_1000=0.1))
    ts = np.repeat((np.arange(500) + 1) * MINUTE, 8)
    series = np.tile(np.arange(8), 500)
    d = fleet(2)
    whole = Detector(d, settings).score(readings(series, ts, x.ravel()))
    assert (whole.detector == f.DETECTOR_RIVER).any()
    detector = Detector(d, settings)
    got = []
    for row, part in enumerate(np.array_split(np.arange(4_000), 800)):
        if row == 300:  # between two sets, and within one
            blob = detector.checkpoint()
            detector = Detector(d, settings)
            assert detector.restore(blob) == 8
            assert detector.checkpoint() == blob
        if row == 500:  # another device comes first: every series gets another index
            newer = directory(
                3, METRICS, units=("Cel",) * 4, low=-1e4, high=1e4, names=["z", "d000", "d001"]
            )
            detector.grow(newer)
        moved = series[part] + (4 if row >= 500 else 0)
        got.append(detector.score(readings(moved, ts[part], x.ravel()[part])))
    for column in ("score", "detector"):
        joined = np.concatenate([getattr(scores, column) for scores in got])
        np.testing.assert_array_equal(joined, getattr(whole, column), err_msg=column)


def test_a_checkpoint_of_before_knows_no_siblings() -> None:
    d = fleet(1)
    off = Detector(d, DetectSettings(second_stage=SecondStageSettings(enabled=False)))
    off.score(readings([0, 1, 2, 3], [MINUTE] * 4, [1.0, 2.0, 3.0, 4.0]))
    detector = Detector(d, SETTINGS)
    assert detector.restore(off.checkpoint()) == 4
    assert detector._siblings.tolist() == state.strangers(4).tolist()


def test_a_device_with_one_metric_costs_nothing() -> None:
    alone = directory(3, ("m",), units=("Cel",))
    assert len(Detector(alone, SETTINGS)._siblings) == 0
    assert kernels_siblings.SIBLING.itemsize == 32
    both = dataclasses.replace(fleet(1))
    assert len(Detector(both, SETTINGS)._siblings) == 4
