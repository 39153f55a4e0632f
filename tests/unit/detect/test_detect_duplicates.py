"""Identity of a reading: what counts as seen before, and that it is never learnt twice."""

import numpy as np
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model import flags as f
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

SETTINGS = DetectSettings(second_stage=SecondStageSettings(enabled=False))


def detector() -> Detector:
    return Detector(directory(2, ("m",), units=("Cel",)), SETTINGS)


def flags_of(
    d: Detector,
    ts: list[int],
    value: list[float],
    *,
    connection: int = 1,
    seq: list[int] | None = None,
    series: list[int] | None = None,
) -> list[int]:
    where = series if series is not None else [0] * len(ts)
    batch = readings(where, ts, value, seq=seq, connection=connection)
    d.score(batch)
    return (batch.flags & f.NOT_LEARNT).tolist()


def test_same_identity_and_value_on_this_connection_is_a_duplicate() -> None:
    d = detector()
    assert flags_of(d, [1, 1, 2, 1], [5.0] * 4) == [0, f.DUPLICATE, 0, f.DUPLICATE]


def test_on_another_connection_it_is_replayed_once_and_a_duplicate_from_then_on() -> None:
    d = detector()
    assert flags_of(d, [1], [5.0], connection=1) == [0]
    assert flags_of(d, [1], [5.0], connection=2) == [f.REPLAYED]
    assert flags_of(d, [1], [5.0], connection=2) == [f.DUPLICATE]
    assert flags_of(d, [1], [5.0], connection=1) == [f.REPLAYED]


def test_after_a_restart_it_is_replayed() -> None:
    d = detector()
    flags_of(d, [1, 2], [5.0, 6.0], connection=1)
    again = detector()
    assert again.restore(d.checkpoint()) == 1
    assert flags_of(again, [1, 2, 3], [5.0, 6.0, 7.0], connection=1) == [f.REPLAYED, f.REPLAYED, 0]


def test_another_value_collides_and_the_last_one_is_remembered() -> None:
    d = detector()
    assert flags_of(d, [1, 1, 1, 1], [5.0, 6.0, 6.0, 5.0]) == [
        0,
        f.TS_COLLISION,
        f.DUPLICATE,
        f.TS_COLLISION,
    ]
    assert flags_of(d, [2, 2], [0.0, -0.0]) == [0, f.TS_COLLISION]  # bitwise


def test_seq_is_part_of_the_identity() -> None:
    d = detector()
    assert flags_of(d, [1, 1, 1], [5.0] * 3, seq=[0, 1, 1]) == [0, 0, f.DUPLICATE]
    assert flags_of(d, [1], [5.0]) == [0]  # without a seq
    assert flags_of(d, [1], [5.0], seq=[2**40]) == [0]


def test_out_of_order_is_learnt_within_the_memory_and_late_beyond() -> None:
    d = detector()
    assert flags_of(d, [10, 30, 20, 50, 40], [1.0] * 5) == [0, 0, 0, 0, 0]
    # remembered: 20, 30, 40, 50; forgotten: 10
    assert flags_of(d, [20, 10, 9, 15], [1.0] * 4) == [f.DUPLICATE, f.LATE, f.LATE, 0]
    assert flags_of(d, [15, 16], [1.0] * 2) == [f.LATE, 0]


def test_series_do_not_see_each_other() -> None:
    d = detector()
    assert flags_of(d, [1, 1, 1], [5.0] * 3, series=[0, 1, 0]) == [0, 0, f.DUPLICATE]


def test_what_is_not_learnt_changes_nothing_but_the_memory() -> None:
    rng = np.random.default_rng(1)
    x, ts = 20 + rng.normal(size=200), np.arange(200) * MINUTE
    once, twice = detector(), detector()
    expect = once.score(readings([0] * 200, ts, x))
    batch = readings([0] * 400, np.repeat(ts, 2), np.repeat(x, 2))
    got = twice.score(batch)
    assert (batch.flags[1::2] == f.DUPLICATE).all()
    np.testing.assert_array_equal(got.score[::2], expect.score)
    assert not got.score[1::2].any()
    assert not got.verdict[1::2].any()
    assert twice.checkpoint() == once.checkpoint()


def test_retained_readings_are_remembered_and_neither_learnt_nor_suspect() -> None:
    d = detector()
    ts = list(range(100))
    d.score(readings([0] * 100, ts, np.random.default_rng(2).normal(size=100)))
    before = d.score(readings([0], [100], [0.0]))
    retained = readings([0, 0], [101, 101], [1e6, 1e6], flags=[f.RETAINED, 0])
    scores = d.score(retained)
    assert retained.flags.tolist() == [f.RETAINED, f.DUPLICATE]
    assert scores.verdict.tolist() == [0, 0]
    after = d.score(readings([0], [102], [0.0]))
    assert abs(float(after.expected[0] - before.expected[0])) < 1
