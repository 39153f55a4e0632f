"""The second stage: its budget, what it sheds, what it may change."""

import dataclasses
import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory, texts
from tests.fakes.readings import MINUTE, readings
from tests.reference import bank

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.detect.kernels_bank import UNIT, adjust, choose
from greenlang_iot.detect.river_bank import OPINION, REMEMBERED
from greenlang_iot.model import flags as f
from greenlang_iot.model.batches import ReadingBatch
from greenlang_iot.settings.model import DetectSettings, RiverDetector, SecondStageSettings

SERIES = 20
N = 20_000
RIVER = get_args(RiverDetector)
SLOW = ("LODA", "KSWIN")
"""Milliseconds an observation."""
FORGETFUL = tuple(name for name in RIVER if name != "HalfSpaceTrees")
"""They also know what is longer ago than the observations that a checkpoint keeps."""


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


def test_there_is_a_model_per_device_type_and_they_are_bounded() -> None:
    d = dataclasses.replace(
        directory(10, ("m",), units=("Cel",)),
        type=texts([f"type-{i}" for i in range(5)]),
        type_of=(np.arange(10) % 5).astype(np.int32),
    )
    for most, held in ((3, 3), (64, 5)):
        second = SecondStageSettings(budget_per_1000=1000, models=most)
        detector = Detector(d, DetectSettings(warmup=2, second_stage=second))
        detector.load_second_stage()
        x = np.random.default_rng(7).normal(size=200)
        detector.score(readings(np.arange(200) % 10, np.arange(200) * MINUTE, x))
        assert detector.models == held


METRICS = ("a", "b", "c")


def together(rng: np.random.Generator, messages: int) -> np.ndarray:
    """Three metrics that always move together; by message and metric."""
    return np.repeat(rng.normal(size=(messages, 1)), 3, axis=1) + 0.05 * rng.normal(
        size=(messages, 3)
    )


def device_batch(x: np.ndarray, start: int = 0) -> ReadingBatch:
    messages = len(x)
    ts = np.repeat(start + np.arange(messages), 3) * MINUTE
    return readings(np.tile(np.arange(3), messages), ts, 20 + x.ravel())


def test_the_metrics_of_a_device_are_judged_together() -> None:
    """A message whose metrics disagree is stranger than one with the same values in agreement."""
    second = SecondStageSettings(budget_per_1000=1000)
    opinions = []
    for last in ([1.5, 1.5, 1.5], [1.5, -1.5, 1.5]):
        d = directory(1, METRICS, units=("Cel",) * 3)
        detector = Detector(d, DetectSettings(second_stage=second))
        detector.load_second_stage()
        detector.score(device_batch(together(np.random.default_rng(3), 3_000)))
        model = detector._bank._models["sensor"]
        assert model.columns == [*METRICS, "change of it", "time of day"]
        x = np.array([0.5 + 0.5 * z / (4.0 + abs(z)) for z in last] + [0.5, 0.5])
        opinions += model.opinions(x[None], np.array([1.5]), np.zeros(1, np.uint8)).tolist()
    assert opinions[1] > opinions[0]


@pytest.mark.parametrize("name", RIVER)
def test_each_of_rivers_detectors_holds_the_contract(name: str) -> None:
    """In range, deterministic, a batch of n = n batches of 1, and the same after a checkpoint."""
    second = SecondStageSettings(budget_per_1000=1000, detectors=(name,))
    few = 150 if name in SLOW else 350

    def fresh() -> Detector:
        d = directory(1, METRICS, units=("Cel",) * 3, low=-np.inf, high=np.inf)
        detector = Detector(d, DetectSettings(warmup=5, second_stage=second))
        detector.load_second_stage()
        return detector

    x = together(np.random.default_rng(9), few)
    x[40], x[60], x[61], x[70:90], x[100, 1] = 1e300, 1e-320, -1e300, 0.0, np.nan
    batch = device_batch(x)
    whole = fresh()
    want = whole.score(batch)
    assert np.isfinite(want.score).all()
    assert (want.score >= 0).all()
    assert (want.score <= 30.0 + OPINION).all()
    again = fresh().score(device_batch(x))
    np.testing.assert_array_equal(again.score, want.score)
    singly = fresh()
    parts = [singly.score(part(batch, slice(i, i + 1))) for i in range(batch.n)]
    np.testing.assert_array_equal(np.concatenate([p.score for p in parts]), want.score)
    np.testing.assert_array_equal(np.concatenate([p.verdict for p in parts]), want.verdict)
    # everything at once that is no number, backwards in time, or alone
    one = fresh().score(readings([0], [MINUTE], [20.0]))
    assert one.score.tolist() == [0.0]
    back = fresh().score(readings([0] * few, np.arange(few)[::-1] * MINUTE, 20 + x[:, 0]))
    assert np.isfinite(back.score).all()

    blob = whole.checkpoint()
    restored = fresh()
    restored.restore(blob)
    assert restored.checkpoint() == blob
    if name not in FORGETFUL:
        more = device_batch(together(np.random.default_rng(10), 100), start=few)
        went_on, after = (
            whole.score(more),
            restored.score(device_batch(together(np.random.default_rng(10), 100), start=few)),
        )
        np.testing.assert_array_equal(after.score, went_on.score)
        np.testing.assert_array_equal(after.verdict, went_on.verdict)


VERDICTS = (0, f.SUSPECT, f.LEARNING, f.SUSPECT | f.LEARNING)


@given(
    st.lists(
        st.tuples(st.sampled_from(VERDICTS), st.sampled_from((0, f.DUPLICATE, f.LATE))), max_size=60
    ),
    st.integers(0, 70),
    st.integers(1, 20),
    st.integers(0, 4),
    st.integers(0, 12),
    st.booleans(),
)
def test_what_is_looked_at_is_what_the_budget_has_room_for(
    rows: list[tuple[int, int]], sample: int, stride: int, earns: int, purse: int, ready: bool
) -> None:
    n = len(rows)
    verdict = np.array([v for v, _ in rows], np.uint8)
    flags = np.array([g for _, g in rows], np.uint16)
    at, learn = np.zeros(n, np.int64), np.zeros(n, np.uint8)
    series, z = np.arange(n, dtype=np.int32) // 2, np.arange(n, dtype=np.float32) + 1
    newest = np.zeros(n, np.float32)
    # eighths of an observation are whole millionths, and exact in the twin's floats
    wanted = bank.choose(
        verdict.tolist(), flags.tolist(), sample, stride, earns / 8, purse / 4, 3.0, ready=ready
    )
    chosen, credit = choose(
        n, series, flags, verdict, z, newest, sample, stride, earns * UNIT // 8, purse * UNIT // 4,
        3 * UNIT, ready, at, learn,
    )  # fmt: skip
    got = at[:chosen].tolist(), learn[:chosen].astype(bool).tolist(), verdict.tolist()
    assert (*got, credit / UNIT) == wanted
    noted = [0.0] * n
    for row in range(n if chosen == 0 else 0):
        if not rows[row][1] & f.NOT_LEARNT:
            noted[row // 2] = row + 1.0
    assert newest.tolist() == noted


def test_a_larger_budget_after_a_restart_samples_from_the_first_batch_on() -> None:
    """What was left of the wait for the next sample may be more than the new budget waits at all."""
    few, many = new(budget_per_1000=2), new(budget_per_1000=200)
    few.score(part(stream(), slice(0, 990)))
    many.restore(few.checkpoint())
    many.load_second_stage()
    many.score(part(stream(), slice(990, 1_190)))
    assert many.observations == pytest.approx(20, abs=1)


def test_models_of_another_choice_of_detectors_learn_again() -> None:
    batch = device_batch(together(np.random.default_rng(9), 400))
    saved = Detector(
        directory(1, METRICS, units=("Cel",) * 3),
        DetectSettings(second_stage=SecondStageSettings(budget_per_1000=1000)),
    )
    saved.load_second_stage()
    saved.score(batch)
    other = SecondStageSettings(budget_per_1000=1000, detectors=("ADWIN", "GaussianScorer"))
    restored = Detector(
        directory(1, METRICS, units=("Cel",) * 3), DetectSettings(second_stage=other)
    )
    restored.restore(saved.checkpoint())  # before river is there
    restored.load_second_stage()
    (model,) = restored._bank._models.values()
    assert (model.learnt, len(model.detectors)) == (REMEMBERED, 2)
    assert model.variance.tolist() == [0.0, 0.0]


def test_an_opinion_makes_no_news_of_what_is_told() -> None:
    limits = np.zeros(1, [("threshold", np.float32)])
    limits["threshold"] = 5.0
    score = np.array([4.9, 4.9, 5.1], np.float32)
    detector = np.full(3, f.DETECTOR_SPIKE, np.uint8)
    verdict = np.array([f.SUSPECT | f.TOLD, 0, f.SUSPECT], np.uint8)
    series, kind = np.zeros(3, np.int32), np.zeros(1, np.int32)
    adjust(np.arange(3), np.array([0.5, 0.5, -0.5]), series, kind, limits, score, detector, verdict)
    assert score.tolist() == pytest.approx([4.9, 5.4, 4.6])
    assert verdict.tolist() == [f.SUSPECT | f.TOLD, f.SUSPECT, 0]
    assert detector.tolist() == [f.DETECTOR_SPIKE, f.DETECTOR_RIVER, f.DETECTOR_SPIKE]
