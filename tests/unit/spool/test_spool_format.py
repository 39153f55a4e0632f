"""Segment bytes: the golden file, torn tails, damage."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlang_iot.spool.format import (
    HEADER_SIZE,
    RECORD_SIZE,
    Damage,
    DamagedHeader,
    FormatError,
    Header,
    Record,
    decode_header,
    encode_header,
    encode_record,
    read_records,
)

GOLDEN = Path(__file__).with_name("golden-v1.seg")
LOG = 0x0123456789ABCDEF
BODIES = [b"first", b"", bytes(range(256)), "größer".encode()]


def segment(bodies: list[bytes], first: int = 7) -> bytes:
    parts = [encode_header(Header(LOG, first, 1_700_000_000_000_000_000))]
    for number, body in enumerate(bodies, first):
        parts += [encode_record(LOG, number, number * 10, body), body]
    return b"".join(parts)


def read(
    data: bytes, first: int = 7, start: int = HEADER_SIZE, log: int = LOG
) -> list[Record | Damage]:
    return list(read_records(lambda at, size: data[at : at + size], log, start, first))


def offsets(bodies: list[bytes]) -> list[int]:
    ends = [HEADER_SIZE]
    for body in bodies:
        ends.append(ends[-1] + RECORD_SIZE + len(body))
    return ends


def test_golden_file() -> None:
    data = GOLDEN.read_bytes()
    assert data == segment(BODIES)
    assert decode_header(data) == Header(LOG, 7, 1_700_000_000_000_000_000)
    assert [(r.number, r.rows, r.body) for r in read(data) if isinstance(r, Record)] == [
        (7, 70, BODIES[0]),
        (8, 80, BODIES[1]),
        (9, 90, BODIES[2]),
        (10, 100, BODIES[3]),
    ]


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_a_torn_tail_ends_quietly(bodies: list[bytes], data: st.DataObject) -> None:
    whole = segment(bodies)
    cut = data.draw(st.integers(HEADER_SIZE, len(whole)))
    kept = sum(end <= cut for end in offsets(bodies)) - 1
    zeros = data.draw(st.sampled_from([0, 3, 100]))
    found = read(whole[:cut] + bytes(zeros))
    assert found[:kept] == read(whole)[:kept]
    # zeros may complete a record whose own end is zeros; never anything else
    assert all(item in read(whole) for item in found)


@given(st.lists(st.binary(max_size=40), min_size=3, max_size=8), st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_skipped_and_reported(bodies: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(segment(bodies))
    good = read(bytes(whole))
    bad = data.draw(st.integers(0, len(bodies) - 1))
    at = data.draw(st.integers(offsets(bodies)[bad], offsets(bodies)[bad + 1] - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    found = read(bytes(whole))
    records = [item for item in found if isinstance(item, Record)]
    assert records == [r for r in good if r.number != 7 + bad]
    damage = [item for item in found if isinstance(item, Damage)]
    if bad < len(bodies) - 1:
        assert [(d.first, d.last) for d in damage] == [(7 + bad, 7 + bad)]
    else:
        assert damage == []  # nothing valid follows: the same as a torn tail


def test_bytes_in_a_body_cannot_pass_for_a_record() -> None:
    forged = encode_record(LOG + 1, 8, 1, b"forged") + b"forged"
    data = bytearray(segment([forged, b"second", b"third"]))
    data[HEADER_SIZE] ^= 1
    assert [r.body for r in read(bytes(data)) if isinstance(r, Record)] == [b"second", b"third"]


def test_records_of_another_log_are_not_returned() -> None:
    assert read(segment([b"one"]), log=LOG + 1) == []


def test_reading_goes_on_where_it_ended() -> None:
    data = segment(BODIES)
    second = read(data)[1]
    assert read(data, first=9, start=second.end) == read(data)[2:]


@pytest.mark.parametrize("size", [0, HEADER_SIZE - 1])
def test_short_header(size: int) -> None:
    with pytest.raises(DamagedHeader, match="cut short"):
        decode_header(segment([])[:size])


def test_headers_that_cannot_be_read() -> None:
    header = segment([])
    with pytest.raises(DamagedHeader, match="not a segment"):
        decode_header(b"X" + header[1:])
    with pytest.raises(DamagedHeader, match="checksum"):
        decode_header(header[:-1] + b"\xff")
    with pytest.raises(FormatError, match="version 2 is not supported"):
        decode_header(header[:8] + b"\x02" + header[9:])
