"""What every detector must hold, whatever it is: run over each profile and each kind of input."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model import flags as f
from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import PROFILES, Directory
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

WARMUP = 10
N = 160
RNG = np.random.default_rng(7)
ORDINARY = 20 + RNG.normal(size=N)


def ramp(n: int) -> npt.NDArray[np.int64]:
    return (np.arange(n, dtype=np.int64) + 1) * MINUTE


INPUTS: dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]] = {
    "ordinary": (ramp(N), ORDINARY),
    "constant": (ramp(N), np.full(N, 20.0)),
    "zero": (ramp(N), np.zeros(N)),
    "nan": (ramp(N), np.where(np.arange(N) % 7 == 3, math.nan, ORDINARY)),
    "inf": (ramp(N), np.where(np.arange(N) % 7 == 3, -math.inf, ORDINARY)),
    "only nan": (ramp(N), np.full(N, math.nan)),
    "huge": (ramp(N), ORDINARY * 8e306),
    "huge signs": (ramp(N), np.where(np.arange(N) % 2, 1.7e308, -1.7e308)),
    "tiny": (ramp(N), ORDINARY * 1e-320),
    "one sample": (ramp(1), np.array([20.0])),
    "backwards": (ramp(N)[::-1].copy(), ORDINARY),
    "same time": (np.full(N, MINUTE), ORDINARY),
    "irregular": (np.cumsum(RNG.integers(1, 200 * MINUTE, N)), ORDINARY),
    "extreme times": (np.array([-(2**62), 0, 2**62]), np.array([1.0, 2.0, 3.0])),
    "two values": (ramp(N), np.where(RNG.random(N) < 0.5, 0.0, 1.0)),
    "counter": (ramp(N), np.cumsum(np.abs(ORDINARY))),
}


@pytest.fixture(scope="module", params=[False, True], ids=["kernels", "with river"])
def settings(request: pytest.FixtureRequest) -> DetectSettings:
    second = SecondStageSettings(enabled=request.param, budget_per_1000=200)
    return DetectSettings(warmup=WARMUP, second_stage=second)


def fleet(profile: str) -> Directory:
    d = directory(2, ("m",), units=("Cel",), low=-math.inf, high=math.inf, step=0.5)
    return dataclasses.replace(d, profile=np.full(2, PROFILES.index(profile), np.uint8))


def new(d: Directory, settings: DetectSettings) -> Detector:
    detector = Detector(d, settings)
    detector.load_second_stage()
    return detector


def columns(batch: ReadingBatch, scores: ScoreBatch) -> dict[str, npt.NDArray[np.generic]]:
    names = ("score", "detector", "verdict", "expected", "band")
    return {"flags": batch.flags, **{name: getattr(scores, name) for name in names}}


def assert_same(
    one: dict[str, npt.NDArray[np.generic]], other: dict[str, npt.NDArray[np.generic]]
) -> None:
    for name, column in one.items():
        np.testing.assert_array_equal(column, other[name], err_msg=name)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("kind", INPUTS)
def test_contract(profile: str, kind: str, settings: DetectSettings) -> None:
    ts, x = INPUTS[kind]
    n = len(ts)
    series = np.arange(n) % 2 if n > 1 else np.zeros(1, int)
    d = fleet(profile)

    whole = new(d, settings)
    batch = readings(series, ts, x)
    got = columns(batch, whole.score(batch))

    # in range, and silent where nothing can be said
    assert np.isfinite(got["score"]).all()
    assert (got["score"] >= 0).all()
    assert (got["score"] <= 30.5).all()
    suspect = (got["verdict"] & f.SUSPECT) != 0
    assert not suspect[(got["verdict"] & f.LEARNING) != 0].any()
    assert not suspect[(got["flags"] & f.NOT_LEARNT) != 0].any()
    assert not suspect[~np.isfinite(x)].any()
    assert (got["score"][~np.isfinite(x)] == 0).all()

    # deterministic, and the same in batches of one, across a checkpoint in the middle
    singly = new(d, settings)
    parts = []
    for i in range(n):
        if i == n // 2 and not settings.second_stage.enabled:
            blob = singly.checkpoint()
            singly = new(d, settings)
            assert singly.restore(blob) == len({int(s) for s in series[:i][np.isfinite(x[:i])]})
            assert singly.checkpoint() == blob
        one = readings(series[i : i + 1], ts[i : i + 1], x[i : i + 1])
        parts.append(columns(one, singly.score(one)))
    joined = {name: np.concatenate([part[name] for part in parts]) for name in got}
    # what was first seen before the checkpoint is REPLAYED after it, and DUPLICATE without it
    for flags in (got["flags"], joined["flags"]):
        flags[(flags & f.REPLAYED) != 0] ^= f.REPLAYED | f.DUPLICATE
    assert_same(joined, got)


@pytest.mark.parametrize("profile", PROFILES)
def test_constant_values_are_never_suspect(profile: str, settings: DetectSettings) -> None:
    detector = new(fleet(profile), settings)
    scores = detector.score(readings([0] * N, ramp(N), [20.0] * N))
    assert not (scores.verdict & f.SUSPECT).any()
