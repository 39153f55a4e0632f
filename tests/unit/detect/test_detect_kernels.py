"""The scoring kernel against its slow twin, and with the JIT off."""

import dataclasses
import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, SECOND, readings
from tests.reference.detect import Limits, Series

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.detect.kernels_lanes import spike_score
from greenlang_iot.model import flags as f
from greenlang_iot.model.directory import PROFILES, Directory
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

WARMUP = 12
SETTINGS = DetectSettings(warmup=WARMUP, second_stage=SecondStageSettings(enabled=False))
PROFILE_LIMITS = {
    "default": Limits(),
    "spiky": Limits(threshold=7.25),
    "counter": Limits(counter=True, stuck=False),
    "binary": Limits(spike=False, shift=False, stuck=False, context=False),
}


def one_series(profile: str, **columns: float) -> Directory:
    d = directory(1, ("m",), units=("Cel",), low=-math.inf, high=math.inf)
    changed = {name: np.full(1, value) for name, value in columns.items()}
    return dataclasses.replace(d, profile=np.full(1, PROFILES.index(profile), np.uint8), **changed)


values = st.one_of(
    st.sampled_from([0.0, -0.0, 20.0, 20.5, 21.0, 1e308, -1e308, 5e-324, 1e-300, 1e9]),
    st.floats(19.0, 22.0),
    st.floats(allow_nan=True, allow_infinity=True),
)
rows = st.lists(
    st.tuples(
        st.integers(-2, 3),  # minutes since the row before
        values,
        st.sampled_from([None, None, None, 0, 1, 2**40, -1]),
        st.sampled_from([1, 1, 1, 2]),  # connection
        st.sampled_from([0, 0, 0, f.RETAINED]),
    ),
    min_size=1,
    max_size=120,
)


@given(rows=rows, profile=st.sampled_from(sorted(PROFILE_LIMITS)))
@example(rows=[(1, 0.0, None, 1, 0)] * 18 + [(1, 20.0, None, 1, 0)] * 2, profile="spiky")
@settings(max_examples=60, deadline=None)
def test_kernel_is_its_twin(
    rows: list[tuple[int, float, int | None, int, int]], profile: str
) -> None:
    d = one_series(profile, warn_high=21.8, step=0.02)
    detector = Detector(d, SETTINGS)
    limits = dataclasses.replace(
        PROFILE_LIMITS[profile], warn_high=21.8, step=0.02, gap_ns=120 * MINUTE
    )
    twin = Series(limits, WARMUP)
    ts = 1_000 * MINUTE
    for minutes, x, seq, connection, flag in rows:
        ts += minutes * MINUTE
        batch = readings([0], [ts], [x], flags=[flag], connection=connection)
        if seq is not None:
            batch.seq[0] = seq
            batch.flags[0] |= f.HAS_SEQ
        expect = twin.read(ts, x, seq, connection, int(batch.flags[0]))
        got = detector.score(batch)
        assert batch.flags[0] == expect.flag
        assert got.verdict[0] == expect.verdict
        assert got.detector[0] == expect.detector
        for column, wanted in (
            ("score", expect.score),
            ("expected", expect.expected),
            ("band", expect.band),
        ):
            np.testing.assert_equal(float(getattr(got, column)[0]), wanted, err_msg=column)


def test_twin_agrees_on_what_is_only_on_or_off() -> None:
    rng = np.random.default_rng(4)
    stays = np.stack([rng.integers(20, 25, 90), rng.integers(30, 36, 90)]).T.ravel()
    stays[150] = 90
    x = np.repeat(np.arange(len(stays)) % 2.0, stays)
    n = len(x)
    ts = np.arange(1, n + 1) * MINUTE
    got = Detector(one_series("binary"), SETTINGS).score(readings([0] * n, ts, x))
    twin = Series(dataclasses.replace(PROFILE_LIMITS["binary"], gap_ns=120 * MINUTE), WARMUP)
    expect = [twin.read(int(t), float(v), None, 1) for t, v in zip(ts, x, strict=True)]
    np.testing.assert_array_equal(got.score, np.array([e.score for e in expect], np.float32))
    np.testing.assert_array_equal(got.verdict, [e.verdict for e in expect])
    suspect = (got.verdict & f.SUSPECT) != 0
    assert set(got.detector[suspect].tolist()) == {f.DETECTOR_SWING}


def test_twin_agrees_over_a_long_series_with_faults() -> None:
    rng = np.random.default_rng(3)
    n = 3_000
    x = 20 + 5 * np.sin(np.arange(n) * math.tau / 1440) + rng.normal(size=n)
    x[700] += 12  # spike
    x[1200:] += 8  # lasting shift
    x[2000:2080] = x[2000]  # stuck
    ts = np.cumsum(rng.integers(30, 90, n)) * SECOND
    detector = Detector(one_series("default"), SETTINGS)
    got = detector.score(readings([0] * n, ts, x))
    twin = Series(Limits(gap_ns=120 * MINUTE), WARMUP)
    expect = [twin.read(int(t), float(v), None, 1) for t, v in zip(ts, x, strict=True)]
    np.testing.assert_array_equal(got.score, np.array([e.score for e in expect], np.float32))
    np.testing.assert_array_equal(got.verdict, [e.verdict for e in expect])
    np.testing.assert_array_equal(got.detector, [e.detector for e in expect])
    assert {f.DETECTOR_SPIKE, f.DETECTOR_SHIFT, f.DETECTOR_STUCK} <= set(
        got.detector[(got.verdict & f.SUSPECT) != 0].tolist()
    )


def test_twin_agrees_over_days_in_which_the_context_strays() -> None:
    rng = np.random.default_rng(4)
    n = 8 * 288
    x = 20 + 5 * np.sin(np.arange(n) * math.tau / 288) + 0.5 * rng.normal(size=n)
    x[1_500:1_560] += 1.5 * rng.normal(size=60)
    x[1_900:1_990] = x[1_900 - 144 : 1_990 - 144]
    ts = (np.arange(n) * 5 + 7) * MINUTE
    detector = Detector(one_series("default"), SETTINGS)
    got = detector.score(readings([0] * n, ts, x))
    twin = Series(Limits(gap_ns=120 * MINUTE), WARMUP)
    expect = [twin.read(int(t), float(v), None, 1) for t, v in zip(ts, x, strict=True)]
    np.testing.assert_array_equal(got.score, np.array([e.score for e in expect], np.float32))
    np.testing.assert_array_equal(got.verdict, [e.verdict for e in expect])
    np.testing.assert_array_equal(got.detector, [e.detector for e in expect])
    assert f.DETECTOR_CONTEXT in got.detector[(got.verdict & f.SUSPECT) != 0]
    assert (got.verdict & f.TOLD).any()


def test_what_is_told_is_ranked_between_news_and_what_is_normal() -> None:
    x = 20 + np.random.default_rng(5).normal(size=600)
    news, nearer, farther = 500, 510, 520
    x[[news, nearer, farther]] += [30, 15, 300]
    ts = (np.arange(len(x)) + 1) * MINUTE
    scores = Detector(one_series("default"), SETTINGS).score(readings([0] * len(x), ts, x))
    told = scores.verdict[[news, nearer, farther]] & f.TOLD != 0
    assert told.tolist() == [False, True, True]
    normal = np.delete(scores.score, [news, nearer, farther])
    order = [normal.max(), *scores.score[[nearer, farther]], SETTINGS.threshold, scores.score[news]]
    assert order == sorted(set(order))


def test_twin_agrees_where_a_series_leaves_its_range() -> None:
    """Three levels of four hours or so at a reading every five minutes; a fourth one above, one below, and a slow way out."""
    rng = np.random.default_rng(5)
    n = 8 * 288
    x = np.repeat(rng.choice([1.0, 2.0, 3.0], n // 48), 48) + 0.02 * rng.normal(size=n)
    x[1_400:1_420] = 4.0
    x[1_700:1_720] = 0.4
    x[2_000:2_060] = 3.0 + np.linspace(0.0, 3.0, 60)
    ts = (np.arange(n) * 5 + 7) * MINUTE
    detector = Detector(one_series("default"), SETTINGS)
    got = detector.score(readings([0] * n, ts, x))
    twin = Series(Limits(gap_ns=120 * MINUTE), WARMUP)
    expect = [twin.read(int(t), float(v), None, 1) for t, v in zip(ts, x, strict=True)]
    np.testing.assert_array_equal(got.score, np.array([e.score for e in expect], np.float32))
    np.testing.assert_array_equal(got.detector, [e.detector for e in expect])
    row, context = detector._rows[0], twin.context
    assert (row["highest"], row["lowest"]) == (context.highest, context.lowest)
    assert context.highest - context.lowest > 3.5
    assert f.DETECTOR_CONTEXT in got.detector[1_401:1_405]


def digest() -> str:
    """Scores and state of a stream over 5 series, with both stages, as one hash."""
    rng = np.random.default_rng(11)
    n = 1_500
    d = dataclasses.replace(
        directory(5, ("m",), units=("Cel",), step=0.2), profile=np.arange(5, dtype=np.uint8)
    )
    often = SecondStageSettings(budget_per_1000=1000)
    detector = Detector(d, SETTINGS.model_copy(update={"second_stage": often}))
    detector.load_second_stage()
    x = np.abs(rng.normal(size=n)).cumsum() + rng.choice([0.0, 50.0], n, p=[0.98, 0.02])
    x[5], x[6], x[7] = math.nan, math.inf, 1e308
    ts = (np.arange(n) - rng.integers(0, 3, n)) * 5 * MINUTE
    seen = hashlib.sha256()
    for part in np.array_split(np.arange(n), 7):
        batch = readings(rng.integers(0, 5, len(part)), ts[part], x[part])
        scores = detector.score(batch)
        for column in (
            batch.flags,
            scores.score,
            scores.detector,
            scores.verdict,
            scores.expected,
            scores.band,
        ):
            seen.update(column.tobytes())
    seen.update(detector.checkpoint())
    return seen.hexdigest()


def test_jit_off_gives_the_same_bits() -> None:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_detect_kernels as t; print(t.digest())"
    flipped = "0" if os.environ.get("NUMBA_DISABLE_JIT") == "1" else "1"
    env = {**os.environ, "NUMBA_DISABLE_JIT": flipped, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == digest()


@pytest.mark.parametrize("z", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_score_is_the_gaussian_tail_up_to_two_sigma(z: float) -> None:
    assert spike_score(z, 0.112) == pytest.approx(
        -math.log10(math.erfc(z / math.sqrt(2))), abs=0.02
    )
