"""The second stage: its budget, what it sheds, what it may change."""

import itertools

import numpy as np
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.detect.river_bank import OPINION
from greenlang_iot.model import flags as f
from greenlang_iot.model.batches import ReadingBatch
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

SERIES = 20
N = 20_000


def stream(seed: int = 5) -> ReadingBatch:
    rng = np.random.default_rng(seed)
    x = 20 + rng.normal(size=N)
    x[rng.choice(np.arange(2_000, N), 60, replace=False)] += 15
    return readings(np.arange(N) % SERIES, np.arange(N) // SERIES * MINUTE, x)


def part(batch: ReadingBatch, rows: slice) -> ReadingBatch:
    return readings(batch.series[rows], batch.ts_ns[rows], batch.value[rows])


def new(**second: float) -> Detector:
    return Detector(
        directory(SERIES, ("m",), units=("Cel",)),
        DetectSettings(second_stage=SecondStageSettings(**second)),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def first_stage() -> dict[str, np.ndarray]:
    scores = new(enabled=False).score(stream())
    return {"score": scores.score, "verdict": scores.verdict, "detector": scores.detector}


def test_until_river_is_loaded_all_that_is_due_is_shed(first_stage: dict[str, np.ndarray]) -> None:
    scores = new(budget_per_1000=10).score(stream())
    suspect = (first_stage["verdict"] & f.SUSPECT) != 0
    assert ((scores.verdict[suspect] & f.SHED) != 0).all()
    assert not (scores.verdict & f.SECOND_STAGE).any()
    np.testing.assert_array_equal(scores.score, first_stage["score"])
    sampled = np.flatnonzero((scores.verdict & f.SHED) != 0)
    assert len(sampled) == pytest.approx(N * 10 / 2 / 1000 + suspect.sum(), abs=5)


@pytest.mark.parametrize("budget", [2.0, 20.0])
def test_budget_bounds_the_observations(budget: float) -> None:
    detector = new(budget_per_1000=budget)
    detector.load_second_stage()
    scores = detector.score(stream())
    looked = int(((scores.verdict & f.SECOND_STAGE) != 0).sum())
    assert looked == detector.observations
    assert 0.5 * budget * N / 1000 <= looked <= budget * N / 1000
    assert not ((scores.verdict & f.SECOND_STAGE != 0) & (scores.verdict & f.SHED != 0)).any()


def test_budget_is_carried_across_batches() -> None:
    whole, singly = new(budget_per_1000=20), new(budget_per_1000=20)
    whole.load_second_stage()
    singly.load_second_stage()
    batch = stream()
    want = whole.score(batch)
    cuts = np.random.default_rng(6).choice(N, 50, replace=False)
    edges = [0, *sorted(cuts.tolist()), N]
    got = [singly.score(part(batch, slice(a, b))) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate([s.score for s in got]), want.score)
    np.testing.assert_array_equal(np.concatenate([s.verdict for s in got]), want.verdict)


def test_an_opinion_moves_a_score_by_a_bounded_amount(first_stage: dict[str, np.ndarray]) -> None:
    detector = new(budget_per_1000=100)
    detector.load_second_stage()
    scores = detector.score(stream())
    moved = scores.score - first_stage["score"]
    assert (moved != 0).sum() > 100
    assert np.abs(moved).max() <= OPINION + 1e-6
    assert not moved[(scores.verdict & f.SECOND_STAGE) == 0].any()
    far = (first_stage["verdict"] & f.SUSPECT != 0) & (scores.verdict & f.SECOND_STAGE != 0)
    assert moved[far].mean() > 0  # it agrees that spikes of 15 sigma are strange


def test_models_are_bounded() -> None:
    d = directory(2, tuple(f"m{i}" for i in range(5)), units=("Cel",) * 5)
    second = SecondStageSettings(budget_per_1000=1000, models=3)
    detector = Detector(d, DetectSettings(warmup=2, second_stage=second))
    detector.load_second_stage()
    x = np.random.default_rng(7).normal(size=100)
    detector.score(readings(np.arange(100) % 10, np.arange(100) * MINUTE, x))
    assert detector.models == 3
