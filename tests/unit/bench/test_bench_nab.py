"""The NAB score: hand-made cases, and the corpus' own null and perfect detectors where it is there."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from greenlang_iot.bench import nab, nab_run
from greenlang_iot.bench.nab import PROFILES, Series
from greenlang_iot.model.batches import F64
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

STANDARD = PROFILES["standard"]
N = 200  # 30 rows of probation
WINDOW = (100, 109)
LEFT = 2 / (1 + math.exp(-5)) - 1  # the sigmoid at a window's left edge
MINUTE = 60_000_000_000


def file(*windows: tuple[int, int], n: int = N) -> Series:
    return Series("kind/file.csv", np.arange(n) * MINUTE, np.zeros(n), windows)


def score(rows: dict[int, float], *windows: tuple[int, int], profile: str = "standard") -> float:
    column = np.zeros(N)
    for row, value in rows.items():
        column[row] = value
    found = nab.at_threshold(nab.gather([file(*windows)], [column]), PROFILES[profile], 0.5)
    return found.raw


def worth(position: float) -> float:
    return 2 / (1 + math.exp(5 * position)) - 1


@pytest.mark.parametrize("profile", PROFILES)
def test_nothing_detected_costs_every_window(profile: str) -> None:
    assert score({}, WINDOW, (150, 160), profile=profile) == -2 * PROFILES[profile].fn


def test_a_window_earns_by_its_earliest_detection() -> None:
    assert score({100: 1}, WINDOW) == pytest.approx(1.0)
    assert score({105: 1}, WINDOW) == pytest.approx(worth(-0.5) / LEFT)
    assert score({109: 1}, WINDOW) == pytest.approx(worth(-0.1) / LEFT)
    assert score({105: 1, 103: 1, 109: 1}, WINDOW) == pytest.approx(worth(-0.7) / LEFT)


def test_a_false_positive_costs_by_its_distance_behind_a_window() -> None:
    fp = STANDARD.fp
    assert score({99: 1, 100: 1}, WINDOW) == pytest.approx(1 - fp)
    assert score({100: 1, 110: 1}, WINDOW) == pytest.approx(1 + fp * worth(1 / 9))
    assert score({100: 1, 118: 1}, WINDOW) == pytest.approx(1 + fp * worth(1.0))
    assert score({100: 1, 136: 1}, WINDOW) == pytest.approx(1 - fp)
    assert score({100: 1, 160: 1}, WINDOW, profile="low_fp") == pytest.approx(1 - 2 * fp)


def test_probation_is_neither_credited_nor_charged() -> None:
    assert score({0: 1, 29: 1}) == 0.0
    assert score({30: 1}) == pytest.approx(-STANDARD.fp)
    assert nab.probation(10_000) == 750
    assert nab.probation(1_127) == 169


def test_rows_of_score_zero_are_charged_when_they_are_credited() -> None:
    """The lowest threshold takes every row: a detector of zeros earns nothing by its windows."""
    rows = nab.gather([file(WINDOW)], [np.zeros(N)])
    everything = nab.at_threshold(rows, STANDARD, 0.0)
    assert everything.false_rows == N - 30 - 10
    assert everything.raw < -10
    assert nab.best(rows, STANDARD).score == 0.0
    assert nab.best(rows, STANDARD).threshold == math.inf


def test_the_best_threshold_weighs_the_corpus_as_a_whole() -> None:
    """Taking the row at 0.3 wins a window and pays for two false rows; at 0.2 it never pays."""
    one, two = np.zeros(N), np.zeros(N)
    one[100], two[100] = 0.9, 0.3
    two[50:52] = 0.4
    two[52:90] = 0.2
    best = nab.best(nab.gather([file(WINDOW)] * 2, [one, two]), STANDARD)
    assert best.threshold == 0.3
    assert best.raw == pytest.approx(2 - 2 * STANDARD.fp)
    assert best.score == pytest.approx(100 * (4 - 2 * STANDARD.fp) / 4)
    assert (best.found, best.windows, best.false_rows) == (2, 2, 2)


def test_the_sweep_is_the_definition_at_every_threshold() -> None:
    rng = np.random.default_rng(5)
    files = [file(WINDOW, (140, 149)), file((31, 60)), file()]
    columns = [rng.integers(0, 8, N).astype(float) for _ in files]
    rows = nab.gather(files, columns)
    for profile in PROFILES.values():
        by_hand = {}
        for threshold in range(9):
            total = 0.0
            for f, column in zip(files, columns, strict=True):
                where, value = nab.place(N, f.windows)
                hit = column >= threshold
                total += profile.fp * value[hit & (where == nab.NOWHERE)].sum()
                for number in range(len(f.windows)):
                    earned = value[hit & (where == number)]
                    total += profile.tp * earned.max() if len(earned) else -profile.fn
            by_hand[threshold] = total
            got = nab.at_threshold(rows, profile, threshold)
            assert got.raw == pytest.approx(total)
        assert nab.best(rows, profile).raw == pytest.approx(max(by_hand.values()))


def test_halves_are_scored_at_each_others_threshold() -> None:
    names = [f"kind/{i}.csv" for i in range(40)]
    a = next(n for n in names if nab.half(n) == 0)
    b = next(n for n in names if nab.half(n) == 1)
    files = [Series(name, np.arange(N) * MINUTE, np.zeros(N), (WINDOW,)) for name in (a, b)]
    one, two = np.zeros(N), np.zeros(N)
    one[100], two[100] = 0.9, 0.4
    assert nab_run.halved(files, [one, two], STANDARD) == pytest.approx((100.0, 0.0))


def test_the_scores_are_those_of_the_gateway_and_know_nothing_of_the_future() -> None:
    rng = np.random.default_rng(6)
    n = 3_000
    x = 20 + rng.normal(size=n)
    x[2_500:2_520] += 15
    whole = Series("kind/a.csv", np.arange(n) * 5 * MINUTE, x, ((2_450, 2_600),))
    cut = Series("kind/a.csv", whole.ts_ns[:2_510], x[:2_510], ())
    settings = DetectSettings(second_stage=SecondStageSettings(enabled=False))
    (scores,), (early,) = nab_run.detect([whole], settings), nab_run.detect([cut], settings)
    np.testing.assert_array_equal(scores[:2_510], early)
    report = nab_run.report([whole], [scores], settings.threshold)
    assert report.shipped["standard"].found == 1
    assert report.shipped["standard"].false_rows == 0


@pytest.fixture(scope="module")
def corpus() -> list[Series]:
    folder = os.environ.get("NAB_DATA")
    if folder is None:
        pytest.skip("NAB_DATA does not say where the benchmark's data are")
    return nab.load(Path(folder))


def columns(corpus: list[Series], left_edges: float) -> list[F64]:
    result = []
    for f in corpus:
        column = np.zeros(len(f.value))
        column[[first for first, _ in f.windows]] = left_edges
        result.append(column)
    return result


@pytest.mark.parametrize("profile", PROFILES)
def test_null_is_0_and_perfect_is_100(corpus: list[Series], profile: str) -> None:
    assert len(corpus) == 58
    null = nab.gather(corpus, columns(corpus, 0.0))
    assert null.windows == 116
    assert nab.best(null, PROFILES[profile]).score == 0.0
    perfect = nab.best(nab.gather(corpus, columns(corpus, 1.0)), PROFILES[profile])
    assert perfect.score == pytest.approx(100.0)
    assert (perfect.found, perfect.false_rows) == (116, 0)


@pytest.mark.skipif(JIT_DISABLED, reason="365,558 readings take minutes without the JIT")
def test_the_shipped_detector_stays_above_its_floor(corpus: list[Series]) -> None:
    report = nab_run.run(corpus)
    assert report.profiles["standard"].score >= 65.0
    assert report.shipped["standard"].score >= 65.0


def test_the_second_stage_is_measured_with_and_without() -> None:
    x = 20 + np.random.default_rng(1).normal(size=3_000)
    x[2_000] += 30
    files = [Series("a/b.csv", np.arange(3_000) * 60_000_000_000, x, ((1_990, 2_010),))]
    second = nab_run.second_stage(files)
    assert second.rows == 3_000
    assert 0 < second.observations <= 0.002 * 3_000
    assert second.standard == second.standard_without > 0
