"""Columns → line protocol: the kernel against its slow twin, and what a person would check by eye."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.directory import directory, texts
from tests.reference import lines as reference

from greenlang_iot.encode.escapes import escape_key, escape_measurement
from greenlang_iot.encode.lines import LineEncoder
from greenlang_iot.model.batches import SLACK, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import DUPLICATE, HAS_SEQ, SUSPECT, TEXT_IN_ARENA
from greenlang_iot.settings.model import InfluxSettings

T0 = 1_700_000_000_000_000_000
SMALL = InfluxSettings(chunk_bytes=1024)


def batch(rows: list[dict[str, object]]) -> tuple[ReadingBatch, ScoreBatch]:
    """Columns from rows {series, text, ts?, frame?, seq?, flags?, score?}; a score makes it suspect."""
    n = len(rows)
    blobs = {False: bytearray(), True: bytearray()}
    flags, offs, lens = [], [], []
    for row in rows:
        bits = int(row.get("flags", 0)) | (HAS_SEQ if "seq" in row else 0)
        raw = str(row["text"]).encode()
        blob = blobs[bool(bits & TEXT_IN_ARENA)]
        flags.append(bits)
        offs.append(len(blob))
        lens.append(len(raw))
        blob += raw
    buffer, arena = (np.frombuffer(b + bytes(SLACK), np.uint8) for b in blobs.values())
    readings = ReadingBatch(
        n=n,
        series=np.array([row["series"] for row in rows], np.int32),
        ts_ns=np.array([row.get("ts", T0) for row in rows], np.int64),
        value=np.array([float(str(row["text"])) for row in rows], np.float64),
        seq=np.array([row.get("seq", 0) for row in rows], np.int64),
        flags=np.array(flags, np.uint16),
        frame=np.array([row.get("frame", 0) for row in rows], np.int32),
        text_off=np.array(offs, np.int32),
        text_len=np.array(lens, np.int16),
        buffer=buffer,
        arena=arena,
        connection=1,
        received_ns=T0,
    )
    scores = ScoreBatch(
        n=n,
        score=np.array([row.get("score", 0.0) for row in rows], np.float32),
        detector=np.zeros(n, np.uint8),
        verdict=np.array([SUSPECT if "score" in row else 0 for row in rows], np.uint8),
        expected=np.zeros(n, np.float32),
        band=np.zeros(n, np.float32),
    )
    return readings, scores


def lines_of(
    place: Directory, rows: list[dict[str, object]], configured: InfluxSettings = SMALL
) -> list[str]:
    encoder = LineEncoder(place, configured)
    encoder.append(*batch(rows))
    return encoder.seal().decode().splitlines()


def test_one_message_is_one_line_with_a_field_per_metric() -> None:
    rows = [{"series": 2, "text": "21.5"}, {"series": 3, "text": "40"}]
    assert lines_of(directory(), rows) == [
        f"telemetry,device=d001,org=acme,site=site-1,type=sensor temperature=21.5,humidity=40 {T0}"
    ]


def test_another_frame_time_or_device_begins_a_line() -> None:
    rows = [
        {"series": 0, "text": "1"},
        {"series": 1, "text": "2", "ts": T0 + 1},
        {"series": 0, "text": "3", "ts": T0 + 1, "frame": 1},
        {"series": 3, "text": "4", "ts": T0 + 1, "frame": 1},
    ]
    written = lines_of(directory(), rows)
    assert [line.split(" ", 1)[1] for line in written] == [
        f"temperature=1 {T0}",
        f"humidity=2 {T0 + 1}",
        f"temperature=3 {T0 + 1}",
        f"humidity=4 {T0 + 1}",
    ]


def test_a_metric_that_comes_again_begins_a_line_and_keeps_the_order() -> None:
    rows = [
        {"series": 1, "text": "1", "seq": 1},
        {"series": 0, "text": "2", "seq": 1},
        {"series": 1, "text": "3", "seq": 2},
        {"series": 0, "text": "4", "seq": 2},
    ]
    written = [line.split(" ", 1)[1] for line in lines_of(directory(), rows)]
    assert written == [f"humidity=1,temperature=2 {T0}", f"humidity=3,temperature=4 {T0}"]
    split = lines_of(directory(), rows, InfluxSettings(tiebreak="seq"))
    assert [line.rsplit(" ", 1)[1] for line in split] == [f"{T0 + 1}", f"{T0 + 2}"]


def test_tiebreak_is_seq_modulo_1000_and_only_where_there_is_a_seq() -> None:
    rows = [
        {"series": 0, "text": "1", "seq": 41_007},
        {"series": 0, "text": "1", "seq": -1, "frame": 1},
        {"series": 0, "text": "1", "frame": 2},
    ]
    written = lines_of(directory(), rows, InfluxSettings(tiebreak="seq"))
    assert [int(line.rsplit(" ", 1)[1]) - T0 for line in written] == [7, 999, 0]


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.0, "0.000000"),
        (0.8370041251182556, "0.854455"),
        (1.0, "0.900000"),
        (4.0, "0.999900"),
        (6.5, "1.000000"),
        (30.0, "1.000000"),
    ],
)
def test_a_suspect_reading_has_its_score_beside_it(score: float, text: str) -> None:
    rows = [{"series": 0, "text": "99", "score": score}, {"series": 1, "text": "5"}]
    (line,) = lines_of(directory(), rows)
    assert line.split(" ")[1] == f"temperature=99,temperature_score={text},humidity=5"


def test_duplicates_are_skipped_also_inside_a_line() -> None:
    rows = [
        {"series": 0, "text": "1"},
        {"series": 1, "text": "2", "flags": DUPLICATE},
        {"series": 1, "text": "3"},
        {"series": 0, "text": "4", "flags": DUPLICATE, "frame": 1},
    ]
    encoder = LineEncoder(directory(), SMALL)
    assert encoder.append(*batch(rows)) == 2
    assert encoder.rows == 2
    assert encoder.seal().decode().split(" ")[1] == "temperature=1,humidity=3"


def test_value_texts_are_copied_as_they_came() -> None:
    values = ["-0", "1E5", "1e-7", "1e+5", "123456789012345678901234567890", "-1.5E-10", "0.1"]
    rows = [{"series": 0, "text": text, "frame": i} for i, text in enumerate(values)]
    rows += [{"series": 0, "text": "0.30000000000000004", "frame": 9, "flags": TEXT_IN_ARENA}]
    written = [line.split(" ")[1] for line in lines_of(directory(), rows)]
    assert written == [f"temperature={text}" for text in (*values, "0.30000000000000004")]


@pytest.mark.parametrize("stamp", [0, 7, -1, -(10**18), 10**18 - 1, 10**18, 2**63 - 1])
def test_any_time_stamp(stamp: int) -> None:
    (line,) = lines_of(directory(), [{"series": 0, "text": "1", "ts": stamp}])
    assert line.rsplit(" ", 1)[1] == str(stamp)


def test_names_are_escaped_and_an_empty_tag_is_left_out() -> None:
    place = replace(
        directory(1, ["air temp,a=b"], units=["Cel"], names=["dév 1,a=b"]),
        type=texts([""]),
        org=texts(["日本"]),
    )
    (line,) = lines_of(
        place, [{"series": 0, "text": "1"}], InfluxSettings(measurement="tele me=t,ry")
    )
    assert line == (
        rf"tele\ me=t\,ry,device=dév\ 1\,a\=b,org=日本,site=site-0 air\ temp\,a\=b=1 {T0}"
    )


def test_a_name_that_would_break_its_neighbours_is_made_harmless() -> None:
    assert escape_key("a\\") == "a%5C"
    assert escape_key("a\nb") == "a%0Ab"
    assert escape_measurement("a\\,b") == "a%5C\\,b"


def test_seal_gives_exact_bytes_and_empties_the_chunk() -> None:
    encoder = LineEncoder(directory(), SMALL)
    encoder.append(*batch([{"series": 0, "text": "1"}]))
    size = encoder.size
    body = encoder.seal()
    assert len(body) == size
    assert body.endswith(b"\n")
    assert (encoder.rows, encoder.size) == (0, 0)
    encoder.append(*batch([{"series": 0, "text": "22"}]))
    assert body.split(b" ")[1] == b"temperature=1"
    assert encoder.seal().split(b" ")[1] == b"temperature=22"


def test_the_buffer_grows_past_its_first_size() -> None:
    rows = [{"series": i % 20, "text": str(i), "frame": i // 2} for i in range(2_000)]
    encoder = LineEncoder(directory(), SMALL)
    assert encoder.append(*batch(rows)) == 2_000
    assert bytes(encoder.seal()).decode().splitlines() == reference.encode(
        directory(), *batch(rows)
    )


@pytest.mark.parametrize("rows", [500, 5_000])  # copied, handed over
def test_a_sealed_chunk_stays_as_it_was(rows: int) -> None:
    first = [{"series": i % 20, "text": str(i), "frame": i} for i in range(rows)]
    second = [{"series": i % 20, "text": "-7", "frame": i} for i in range(rows)]
    encoder = LineEncoder(directory(), SMALL)
    encoder.append(*batch(first))
    body = encoder.seal()
    encoder.append(*batch(second))
    again = encoder.seal()
    for sealed, sent in ((body, first), (again, second)):
        assert bytes(sealed).decode().splitlines() == reference.encode(directory(), *batch(sent))


def test_grow_knows_new_devices_and_moved_ones() -> None:
    encoder = LineEncoder(directory(2), SMALL)
    encoder.grow(directory(3, sites=2))
    encoder.append(*batch([{"series": 4, "text": "1"}, {"series": 0, "text": "2", "frame": 1}]))
    first, second = encoder.seal().decode().splitlines()
    assert first.startswith("telemetry,device=d002,org=acme,site=site-0,")
    assert second.startswith("telemetry,device=d000,org=acme,site=site-0,")
    moved = replace(directory(3), site=texts(["south", "west"]))
    encoder.grow(moved)
    encoder.append(*batch([{"series": 4, "text": "1"}]))
    assert encoder.seal().startswith(b"telemetry,device=d002,org=acme,site=south,")


NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\\"), min_size=1, max_size=20
)
NUMBERS = st.one_of(
    st.integers(-(10**25), 10**25).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["-0", "1E5", "1e+05", "0.0"]),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"series": st.integers(0, 8), "text": NUMBERS},
        optional={
            "ts": st.sampled_from([T0, T0 + 1, T0 + 999, 5]),
            "frame": st.integers(0, 2),
            "seq": st.integers(-3, 3000),
            "flags": st.sampled_from([DUPLICATE, TEXT_IN_ARENA, TEXT_IN_ARENA | DUPLICATE]),
            "score": st.floats(0, 40, width=32).filter(lambda s: _not_on_the_edge(s)),
        },
    ),
    max_size=40,
)


def _not_on_the_edge(score: float) -> bool:
    """Six decimals of numbers half-way between two are a matter of rounding, not of right or wrong."""
    millionths = (1 - 10**-score) * 1e6
    return abs(millionths % 1 - 0.5) > 1e-6


@given(
    ROWS,
    st.lists(NAMES, min_size=3, max_size=3, unique=True),
    st.lists(NAMES, min_size=3, max_size=3, unique=True),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_kernel_equals_its_twin(
    rows: list[dict[str, object]], devices: list[str], metrics: list[str], tiebreak: bool
) -> None:
    place = directory(3, metrics, units=["Cel"] * 3, names=devices)
    configured = InfluxSettings(chunk_bytes=1024, tiebreak="seq" if tiebreak else "none")
    encoder = LineEncoder(place, configured)
    columns = batch(rows)
    appended = encoder.append(*columns)
    assert appended == sum(not int(row.get("flags", 0)) & DUPLICATE for row in rows)
    written = encoder.seal().decode().split("\n")[:-1]
    assert written == reference.encode(place, *columns, tiebreak=tiebreak)
