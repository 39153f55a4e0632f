"""Checkpoints, growth of the registry, silence, the switch."""

import dataclasses
import json
import mmap
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, SECOND, readings

from greenlang_iot.detect import checkpoint, kernels_arrival, state
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.detect.warm import warm
from greenlang_iot.model import flags as f
from greenlang_iot.model.directory import Directory
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings

SETTINGS = DetectSettings(second_stage=SecondStageSettings(enabled=False))
METRICS = ("temperature", "humidity")
GOLDEN = Path(__file__).with_name("golden-v1.state")


def trained(names: list[str], n: int = 100) -> Detector:
    d = directory(len(names), names=names)
    detector = Detector(d, SETTINGS)
    rng = np.random.default_rng(4)
    for t in range(n):
        x = 10.0 * np.arange(d.n_series) + rng.normal(size=d.n_series)
        detector.score(readings(np.arange(d.n_series), [t * MINUTE] * d.n_series, x))
    return detector


def expectations(detector: Detector, n_series: int, t: int = 100) -> list[float]:
    scores = detector.score(
        readings(np.arange(n_series), [t * MINUTE] * n_series, [0.0] * n_series)
    )
    return scores.expected.tolist()


def test_a_checkpoint_follows_the_names_and_not_the_slots() -> None:
    blob = trained(["a", "b", "c"]).checkpoint()
    want = expectations(trained(["a", "b", "c"]), 6)
    other = Detector(directory(3, ("humidity", "temperature"), names=["c", "new", "a"]), SETTINGS)
    assert other.restore(blob) == 4
    got = expectations(other, 6)
    assert [got[0], got[1], got[4], got[5]] == [want[5], want[4], want[1], want[0]]
    assert np.isnan(got[2:4]).all()


def test_round_trip_is_bit_for_bit() -> None:
    one = trained(["a", "b"])
    blob = one.checkpoint()
    two = Detector(directory(2, names=["a", "b"]), SETTINGS)
    assert two.restore(blob) == 4
    assert two.checkpoint() == blob
    assert expectations(two, 4) == expectations(one, 4)


def test_the_first_format_is_read() -> None:
    """The golden file was written by the first version; every later one reads it."""
    detector = Detector(directory(2, names=["a", "b"]), SETTINGS)
    assert detector.restore(GOLDEN.read_bytes()) == 4
    assert np.allclose(expectations(detector, 4), [0.0, 10.0, 20.0, 30.0], atol=1.0)
    again = readings(np.arange(4), [99 * MINUTE] * 4, [0.0] * 4)
    detector.score(again)
    assert (again.flags & (f.REPLAYED | f.TS_COLLISION)).all()  # its time stamps are remembered


CAME = (
    *("recent_ts", "recent_value", "recent_seq", "floor_ts", "last_ts", "last_value"),
    *("n", "seen", "run", "first_hour", "anchor"),
)
"""Fields of a row that say what came, not what a detector made of it: no later version sees them otherwise."""


@pytest.mark.parametrize("names", [["a", "b", "c"], ["c", "b", "a"]])
def test_the_formats_since_then_are_read_whole(names: list[str]) -> None:
    """Each was written by a detector with siblings that had learnt this, for two of its devices."""
    d, moved = directory(3, names=["a", "b", "c"]), directory(3, names=names)
    detector = Detector(d, DetectSettings())
    rng = np.random.default_rng(4)
    for t in range(100):
        x = 10.0 * np.arange(4) + rng.normal(size=4)
        detector.score(readings(np.arange(4), [t * MINUTE] * 4, x))
    last, second = Detector(moved, DetectSettings()), Detector(moved, DetectSettings())
    assert last.restore(GOLDEN.with_name("golden-v1-last.state").read_bytes()) == 4
    assert second.restore(GOLDEN.with_name("golden-v2.state").read_bytes()) == 4
    to = np.array([2 * names.index("a"), 2 * names.index("a") + 1, *(2, 3)])
    for name in CAME:
        np.testing.assert_array_equal(
            second._rows[name][to], detector._rows[name][:4], err_msg=name
        )
    for name in set(state.ROW.names or ()) - set(checkpoint.PROCESS_LOCAL):
        np.testing.assert_array_equal(second._rows[name], last._rows[name], err_msg=name)
    np.testing.assert_array_equal(second._siblings, last._siblings)
    np.testing.assert_array_equal(second._siblings["set_ts"][to], detector._siblings["set_ts"][:4])
    np.testing.assert_array_equal(second._bank.newest, last._bank.newest)
    assert np.allclose(second._rows["level"][to], 10.0 * np.arange(4), atol=1.0)
    assert state.seen(second._rows).sum() == 4


@pytest.mark.parametrize("rows", [1, 3, 5, 1_000])
def test_a_checkpoint_in_steps_is_the_same_and_cuts_no_device_in_two(rows: int) -> None:
    detector = trained(["a", "b", "c", "d", "e"])
    snapshot, parts, sizes = detector.snapshot(), checkpoint.head(), []
    while not snapshot.done:
        piece = snapshot.step(rows)
        sizes.append(len(piece.which))
        parts += piece.parts()
    assert sizes == {1: [2] * 5, 3: [4, 4, 2], 5: [6, 4], 1_000: [10]}[rows]
    parts += checkpoint.tail(detector.second_stage_memory())
    blob = b"".join((*parts, checkpoint.checksum(checkpoint.add(parts))))
    restored = Detector(directory(5, names=["e", "d", "c", "b", "x"]), SETTINGS)
    assert restored.restore(blob) == 8
    want, got = expectations(detector, 10), expectations(restored, 10)
    assert got[:8] == [want[i] for i in (8, 9, 6, 7, 4, 5, 2, 3)]


def test_an_empty_checkpoint() -> None:
    blob = Detector(directory(3), SETTINGS).checkpoint()
    assert Detector(directory(3), SETTINGS).restore(blob) == 0


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda b: b[:20], "cut short"),
        (lambda b: b"x" + b[1:], "not a detector checkpoint"),
        (lambda b: b[:16] + b"\x09" + b[17:], "format 9 is not known"),
        (lambda b: b[:-1] + bytes([b[-1] ^ 1]), "damaged"),
        (lambda b: b[:-8], "damaged"),
    ],
)
def test_a_bad_checkpoint_is_refused_with_the_reason(damage, reason: str) -> None:  # type: ignore[no-untyped-def]
    detector = trained(["a"])
    before = detector.checkpoint()
    with pytest.raises(ValueError, match=reason):
        detector.restore(damage(before))
    assert detector.checkpoint() == before


def rewritten(blob: bytes, rename: dict[str, str]) -> bytes:
    """The checkpoint as another version of the program would have named its fields."""
    head, body = blob[:24], blob[24:-4]
    length = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + length])
    for entry in header["fields"]:
        entry[0] = rename.get(entry[0], entry[0])
    text = json.dumps(header).encode()
    whole = head + len(text).to_bytes(8, "little") + text + body[8 + length :]
    return whole + crc32c(whole).to_bytes(4, "little")


def loaded(blob: bytes, d: Directory) -> state.Rows:
    return np.concatenate([saved.rows for saved in checkpoint.load(blob, d)[1]])


def test_unknown_fields_are_ignored_and_missing_ones_start_in_learning() -> None:
    blob = rewritten(trained(["a"]).checkpoint(), {"shift_excess": "of_tomorrow"})
    detector = Detector(directory(1, names=["a"]), SETTINGS)
    assert detector.restore(blob) == 2
    batch = readings([0, 0], [99 * MINUTE, 100 * MINUTE], [1.0, 1.0])
    scores = detector.score(batch)
    assert batch.flags[0] == f.TS_COLLISION  # the duplicate memory is whole
    assert scores.verdict[1] == f.LEARNING


HABIT = ("habit_minute", "habit_days", "habit_peak", "habit_hour")
WEEK = tuple(f"{half}_{what}" for half in ("early", "late") for what in ("week", "error"))
FARTHEST = ("night_farthest", "day_farthest")
ROUGH = ("rough", "roughest")
RANGE = ("highest", "lowest")


@pytest.mark.parametrize(
    "names",
    [HABIT, WEEK, FARTHEST, ROUGH, RANGE],
    ids=["habits", "the week", "records", "rough", "the range"],
)
def test_a_checkpoint_of_before_is_read_and_nothing_else_is_learnt_anew(
    names: tuple[str, ...],
) -> None:
    before = trained(["a"])
    assert set(names) <= set(state.fresh(1).dtype.names or ())
    blob = rewritten(before.checkpoint(), {name: f"no_{name}" for name in names})
    detector = Detector(directory(1, names=["a"]), SETTINGS)
    assert detector.restore(blob) == 2
    assert detector.score(readings([0], [100 * MINUTE], [1.0])).verdict[0] != f.LEARNING
    rows = loaded(blob, directory(1, names=["a"]))
    for name in names:  # a week whose days are alike errs as the day does
        begins = rows["hour_error"] if name.endswith("_error") else state.fresh(2)[name]
        begins = 2.0 * rows["spread"] if name == "roughest" else begins  # no step was ever larger
        if name in RANGE:  # farther than anything was from the slow level
            kept = loaded(before.checkpoint(), directory(1, names=["a"]))[name]
            assert (rows[name] >= kept if name == "highest" else rows[name] <= kept).all()
            assert (np.abs(rows[name] - kept) < 20.0).all()
            continue
        np.testing.assert_array_equal(rows[name], begins, err_msg=name)
    kept = loaded(before.checkpoint(), directory(1, names=["a"]))
    others = [name for name in rows.dtype.names or () if name not in names]
    for name in others:
        np.testing.assert_array_equal(rows[name], kept[name], err_msg=name)


def test_an_anchor_and_stays_of_before_mean_what_they_meant() -> None:
    """They were a float64 and float32s, in which what is never too long was 1e30."""
    saved = state.fresh(2)
    old = np.dtype(
        [
            (
                name,
                *{"anchor": (np.float64,), "swing_long": (np.float32, (2,))}.get(name, field[:1]),
            )
            for name, field in (state.ROW.fields or {}).items()
            if name not in RANGE
        ]
    )
    before = np.zeros(2, old)
    for name in old.names or ():
        before[name] = saved[name]
    before["anchor"] = [1e12 + 1.0, 20.0]
    before["slow_level"] = [3.0, 4.0]
    before["night_level"] = 5.0
    before["night_seen"] = 9
    before["swing_long"] = [[1e30, 12.3], [0.0, 40.0]]
    rows = checkpoint._current_layout(before)
    assert rows["swing_long"].tolist() == [[65_535, 13], [0, 40]]
    was = before["anchor"] + before["slow_level"]
    np.testing.assert_allclose(rows["anchor"].astype(float) + rows["slow_level"], was, atol=0.01)
    hours = rows["anchor"][:, None].astype(float) + rows["night_level"]
    np.testing.assert_allclose(hours, before["anchor"][:, None] + before["night_level"], atol=0.01)
    assert (rows["highest"] >= rows["night_level"].max(axis=1)).all()
    assert rows["slow_level"][1] == 4.0  # an anchor that float32 holds moves nothing


def test_without_a_whole_duplicate_memory_there_is_none() -> None:
    blob = rewritten(trained(["a"]).checkpoint(), {"recent_seq": "of_yesterday"})
    detector = Detector(directory(1, names=["a"]), SETTINGS)
    detector.restore(blob)
    batch = readings([0], [99 * MINUTE], [1.0])
    assert detector.score(batch).verdict[0] == 0
    assert batch.flags[0] == 0


def test_grow_keeps_known_series_and_clears_reused_ones() -> None:
    want = expectations(trained(["a", "b"]), 4)
    detector = trained(["a", "b"])
    detector.grow(directory(3, names=["a", "z", "c"]))
    got = expectations(detector, 6)
    assert got[:2] == want[:2]
    assert np.isnan(got[2:]).all()
    detector = trained(["a", "b"])
    detector.grow(directory(3, names=["a", "b", "c"]))
    assert expectations(detector, 6)[:4] == want


def test_rows_are_eight_cache_lines() -> None:
    rows = state.fresh(5)
    assert rows.itemsize == 576
    assert rows.ctypes.data % 64 == 0


def test_what_a_series_costs() -> None:
    """Bytes by purpose: the duplicate memory, seasonality, and the detectors with all else."""
    fields = state.ROW.fields or {}
    memory = sum(fields[name][0].itemsize for name in (*checkpoint.MEMORY, "recent_connection"))
    seasonal = state.ROW.itemsize - fields["first_hour"][1]
    assert memory == 104
    assert seasonal == 24 + 64 + 2 * 64 + 2 * 64
    assert state.ROW.itemsize - memory - seasonal == 128


def test_a_row_of_zeros_begins_with_the_first_reading() -> None:
    rows = state.unheard(3)
    assert not rows.tobytes().strip(b"\0")
    assert not state.begun(rows).any()
    kernels_arrival.begin(rows[1])
    assert rows[1] == state.fresh(1)[0]
    assert state.begun(rows).tolist() == [False, True, False]
    assert state.plain(rows).tobytes() == state.fresh(3).tobytes()
    assert not state.seen(rows).any()  # it has begun, but remembers no reading


@pytest.mark.parametrize("enabled", [True, False])
def test_a_zero_row_recognises_and_judges_as_one_that_has_begun(enabled: bool) -> None:
    """Also around 1970, where a time stamp of 0 is one."""
    rng = np.random.default_rng(6)
    ts = [int(t) * MINUTE for t in rng.integers(-3, 300, 600)]
    x = rng.normal(20.0, 1.0, 600)
    found = []
    for make in (state.unheard, state.fresh):
        detector = Detector(directory(1), SETTINGS.model_copy(update={"enabled": enabled}))
        detector._rows[:] = make(2)
        batch = readings([0] * 600, ts, x)
        scores = detector.score(batch)
        found.append([batch.flags, scores.score, scores.verdict, scores.expected, scores.band])
        assert state.seen(detector._rows).tolist() == [True, False]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_memory_of_series_that_were_never_heard_is_never_touched() -> None:
    """Whatever the detector does for all series: start, silence, an outage, growth, a checkpoint, a restart."""
    d = directory(40_000, interval_s=60.0)
    used = np.ones(state.ROW.itemsize * 80_000, np.uint8)
    del used  # what malloc may give again
    before = trained(["d000", "d001"])
    detector = Detector(d, SETTINGS)
    assert detector.restore(before.checkpoint()) == 4
    hear(detector, [0, 1], 0)
    quiet(detector, 1)
    detector.pause_clock(START, START + 10 * SECOND)
    detector.presence(START + 20 * SECOND)
    detector.quiet(START + 20 * SECOND)
    assert touched(detector) <= HUGE_PAGES
    detector.grow(
        directory(40_001, interval_s=60.0, names=["new", *(f"d{i:03d}" for i in range(40_000))])
    )
    assert len(detector._rows) == 80_002
    detector.checkpoint()
    assert touched(detector) <= HUGE_PAGES


HUGE_PAGES = 1_024
"""Two of them, in small ones: a tenth of the rows."""


def touched(detector: Detector) -> int:
    """Pages of the rows that have memory of their own."""
    first = detector._rows.ctypes.data // mmap.PAGESIZE
    last = (detector._rows.ctypes.data + detector._rows.nbytes) // mmap.PAGESIZE
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(8 * (first + 1))
        entries = np.frombuffer(pages.read(8 * (last - first - 1)), np.uint64)
    exclusive = 56  # what was only read is the kernel's page of zeros, which everybody shares
    return int((entries >> np.uint64(exclusive) & np.uint64(1)).sum())


def test_both_halves_of_the_day_are_where_the_row_names_them() -> None:
    rows = state.fresh(3)
    lines = state.halves(rows)
    lines[state.ROW_LINES * 2 + state.HOT_LINES + 1]["level"][3] = 7.0
    lines[state.ROW_LINES * 1 + state.HOT_LINES]["seen"][11] = 9
    assert rows["day_level"][2, 3] == 7.0
    assert rows["night_seen"][1, 11] == 9
    pieces = state.weeks(rows)
    pieces[state.ROW_LINES * 2 + state.HOT_LINES + 2]["level"][13] = 5.0
    pieces[state.ROW_LINES * 1 + state.HOT_LINES + 3]["error"] = 3.0
    assert rows["early_week"][2, 13] == 5.0
    assert rows["late_error"][1] == 3.0


def test_checkpoint_names_every_field() -> None:
    blob = trained(["a"]).checkpoint()
    start = blob.index(b"{")
    header = json.JSONDecoder().raw_decode(blob[start:].decode("latin-1"))[0]
    assert [entry[0] for entry in header["fields"]] == list(state.ROW.names or ())
    assert set(checkpoint.MEMORY) | set(checkpoint.PROCESS_LOCAL) < set(state.ROW.names or ())


# -- silence ---------------------------------------------------------------------------------------

START = 1_000_000 * SECOND


def hear(detector: Detector, series: list[int], at_s: int) -> None:
    ts = [START + at_s * SECOND] * len(series)
    detector.score(readings(series, ts, [1.0] * len(series), received_ns=START + at_s * SECOND))


def quiet(detector: Detector, at_s: int, watched: list[bool] | None = None) -> list[int]:
    mask = np.array(watched) if watched is not None else None
    return detector.silent(START + at_s * SECOND, mask).series.tolist()


def test_a_series_is_silent_after_three_intervals() -> None:
    d = dataclasses.replace(
        directory(3, ("m",), units=("Cel",), interval_s=60),
        interval_ns=np.array([60 * SECOND, 600 * SECOND, 0]),
    )
    detector = Detector(d, SETTINGS)
    assert quiet(detector, 0) == []
    hear(detector, [0, 1, 2], 10)
    assert quiet(detector, 190) == []
    silences = detector.silent(START + 200 * SECOND)
    assert silences.series.tolist() == [0]
    assert silences.last_seen_ns.tolist() == [START + 10 * SECOND]
    assert silences.overdue_ns.tolist() == [130 * SECOND]
    assert silences.never.tolist() == [False]
    hear(detector, [0], 201)
    assert quiet(detector, 210) == []


def test_never_heard_of_is_told_after_the_same_grace() -> None:
    detector = Detector(directory(2, ("m",), units=("Cel",)), SETTINGS)
    assert quiet(detector, 0) == []
    assert quiet(detector, 180) == []
    hear(detector, [1], 100)
    silences = detector.silent(START + 181 * SECOND)
    assert silences.series.tolist() == [0]
    assert silences.never.tolist() == [True]
    assert silences.last_seen_ns.tolist() == [0]


def test_disabled_and_foreign_devices_are_not_missed() -> None:
    d = directory(3, ("m",), units=("Cel",))
    d = dataclasses.replace(d, enabled=np.array([1, 0, 1], np.uint8))
    detector = Detector(d, SETTINGS)
    quiet(detector, 0)
    assert quiet(detector, 500) == [0, 2]
    assert quiet(detector, 500, [True, True, False]) == [0]


def test_an_outage_does_not_count() -> None:
    detector = Detector(directory(2, ("m",), units=("Cel",)), SETTINGS)
    quiet(detector, 0)
    hear(detector, [0, 1], 100)
    hear(detector, [1], 700)  # caught up with the input, before the caller said so
    detector.pause_clock(START + 150 * SECOND, START + 750 * SECOND)
    assert quiet(detector, 750) == []
    assert quiet(detector, 880) == []  # 50 + 130 s
    assert quiet(detector, 881) == [0]
    assert quiet(detector, 931) == [0, 1]


def test_event_time_may_run_faster_than_wall_time() -> None:
    detector = Detector(directory(1, ("m",), units=("Cel",)), SETTINGS, time_scale=60.0)
    quiet(detector, 0)
    hear(detector, [0], 1)
    assert quiet(detector, 4) == []
    assert detector.silent(START + 5 * SECOND).overdue_ns.tolist() == [180 * SECOND]


def test_a_restart_starts_the_clocks_again() -> None:
    detector = Detector(directory(1, ("m",), units=("Cel",)), SETTINGS)
    hear(detector, [0], 0)
    again = Detector(directory(1, ("m",), units=("Cel",)), SETTINGS)
    again.restore(detector.checkpoint())
    assert quiet(again, 100_000) == []
    assert quiet(again, 100_180) == []
    silences = again.silent(START + 100_181 * SECOND)
    assert silences.series.tolist() == [0]
    assert silences.never.tolist() == [False]


def test_switched_off_it_recognises_duplicates_as_ever_and_judges_and_learns_nothing() -> None:
    rng = np.random.default_rng(4)
    n = 2_000
    series, ts = rng.integers(0, 3, n), np.sort(rng.integers(0, 400, n)) - rng.integers(0, 9, n)
    value = np.where(rng.random(n) < 0.5, 5.0, rng.normal(20, 1, n))
    value[-3:] = 900.0
    on = Detector(directory(2), DetectSettings())
    off = Detector(directory(2), DetectSettings(enabled=False))
    judged, plain = (readings(series.tolist(), ts.tolist(), value.tolist()) for _ in range(2))
    assert (on.score(judged).verdict & f.SUSPECT).any()
    scores = off.score(plain)
    np.testing.assert_array_equal(plain.flags, judged.flags)
    assert len(np.unique(plain.flags)) > 3
    assert not scores.verdict.any()
    assert not scores.score.any()
    assert np.isnan(scores.band).all()
    assert np.isnan(scores.expected).all()
    now_ns, which = START + 500 * SECOND, np.arange(3)
    one, other = on.standing(which, now_ns), off.standing(which, now_ns)
    np.testing.assert_array_equal(one.last_ts, other.last_ts)
    np.testing.assert_array_equal(one.last_value, other.last_value)
    np.testing.assert_array_equal(one.quiet_ns, other.quiet_ns)
    assert other.learning.all()


def test_warm_compiles_without_touching_anything() -> None:
    warm()


def test_an_empty_batch_is_fine() -> None:
    assert Detector(directory(1), SETTINGS).score(readings([], [], [])).n == 0


def test_a_reload_in_which_no_series_moves_copies_no_rows() -> None:
    """At four million series a copy is 1.5 GB, and takes longer than a shard may stand still."""
    one, two = trained(["a", "b"]), trained(["a", "b"])
    rows, siblings = one._rows, one._siblings
    one.grow(dataclasses.replace(directory(2, names=["a", "b"]), warn_high=np.full(4, 30.0)))
    assert one._rows is rows
    assert one._siblings is siblings
    assert expectations(one, 4) == expectations(two, 4)
    one.grow(directory(3, names=["a", "b", "c"]))
    assert one._rows is not rows
    assert one._rows[:4].tobytes() == rows.tobytes()
