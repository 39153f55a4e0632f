"""CBOR and MessagePack maps, JSON with a field map: what each takes and refuses."""

import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.format_decoder import NOW_MS, FormatDecoder, Read
from tests.fakes.payload_formats import cbor, cbor_head, msgpack

from greenlang_iot.formats.catalog import make

TEXT = "2024-05-01T12:34:56.789Z"
AT = NOW_MS * 1_000_000


@pytest.fixture(scope="module")
def in_cbor() -> FormatDecoder:
    return FormatDecoder("cbor")


@pytest.fixture(scope="module")
def in_msgpack() -> FormatDecoder:
    return FormatDecoder("messagepack")


def one(read: Read) -> tuple[str, str]:
    assert read.rows == []
    [[path]] = read.rejects
    return path


# ---- CBOR ----------------------------------------------------------------------------------------------


def test_the_three_shapes_of_our_json(in_cbor: FormatDecoder, in_msgpack: FormatDecoder) -> None:
    for made, write in ((in_cbor, cbor), (in_msgpack, msgpack)):
        single = {"metric": "temperature", "ts": TEXT, "value": 21.5, "unit": "Cel", "seq": 7}
        many = {"ts": NOW_MS, "values": {"temperature": 21, "humidity": 40.5}}
        expected = [("d000", "temperature", AT, 21.5, 7)]
        assert made.read(write(single)).rows == expected
        assert [r.value for r in made.read(write(many)).rows] == [21, 40.5]
        assert made.read(write([single, 3])).rejects == [[("[1]", "bad_shape")]]


def test_true_texts_and_null_are_no_numbers(
    in_cbor: FormatDecoder, in_msgpack: FormatDecoder
) -> None:
    for made, write in ((in_cbor, cbor), (in_msgpack, msgpack)):
        for value in (True, None, "21", [1]):
            payload = write({"metric": "temperature", "ts": NOW_MS, "value": value})
            assert one(made.read(payload)) == ("value", "not_a_number")


def timed(head: bytes) -> bytes:
    """{"metric": "humidity", "value": 40, "ts": …}"""
    pairs = {"metric": "humidity", "value": 40}
    return b"\xa3" + cbor(pairs)[1:] + cbor("ts") + head


def test_cbor_times(in_cbor: FormatDecoder) -> None:
    for head in (b"\xc0" + cbor(TEXT), b"\xc1" + cbor(NOW_MS / 1000)):
        assert [r.ts for r in in_cbor.read(timed(head)).rows] == [AT]


@pytest.mark.parametrize(
    "tag", [n for n in range(320) if n > 4 and n != 24] + [1004, 43000, 55_800]
)
def test_other_tags_are_refused(in_cbor: FormatDecoder, tag: int) -> None:
    """Some of them would be regular expressions, MIME messages or cyclic values."""
    for inside in (cbor("a"), cbor(1), cbor([1, 2]), cbor({"a": 1})):
        payload = b"\xa1" + cbor("x") + cbor_head(6, tag) + inside
        assert one(in_cbor.read(payload)) == ("", "malformed")


def test_deep_cbor_and_messagepack_are_refused(
    in_cbor: FormatDecoder, in_msgpack: FormatDecoder
) -> None:
    for depth in (17, 600, 4000):
        assert one(in_cbor.read(b"\x81" * depth + b"\x01")) == ("", "malformed")
    assert one(in_msgpack.read(b"\x91" * 4000 + b"\x01")) == ("", "malformed")


def test_deep_json_is_refused() -> None:
    made = FormatDecoder("json-map", options={"value": "v", "metric": "m"})
    assert one(made.read(b"[" * 2000 + b"]" * 2000)) == ("", "malformed")
    deep = b'{"m":"temperature","v":' + b"[" * 900 + b"]" * 900 + b"}"
    assert one(made.read(deep)) == ("v", "ts_missing")


def test_lengths_that_promise_more_than_there_is(
    in_cbor: FormatDecoder, in_msgpack: FormatDecoder
) -> None:
    for head in (b"\x9b", b"\xbb", b"\x7b", b"\x5b"):
        assert one(in_cbor.read(head + b"\x7f" + b"\xff" * 7)) == ("", "malformed")
    for head in (b"\xdd", b"\xdf", b"\xdb", b"\xc6"):
        assert one(in_msgpack.read(head + b"\xff" * 4)) == ("", "malformed")


def test_a_key_that_comes_twice(in_cbor: FormatDecoder, in_msgpack: FormatDecoder) -> None:
    pairs = {"metric": "humidity", "ts": NOW_MS, "value": 1}
    twice = cbor("value") + cbor(2)
    assert one(in_cbor.read(b"\xa4" + cbor(pairs)[1:] + twice)) == ("", "malformed")
    head = b"\xde" + struct.pack(">H", 4)
    payload = head + msgpack(pairs)[3:] + msgpack("value") + msgpack(2)
    assert [r.value for r in in_msgpack.read(payload).rows] == [2]  # as in JSON: the last one


def test_keys_that_are_no_texts(in_cbor: FormatDecoder, in_msgpack: FormatDecoder) -> None:
    payload = cbor({"ts": NOW_MS, "values": {1: 2}})
    assert one(in_cbor.read(payload)) == ("values.1", "bad_shape")
    assert one(in_msgpack.read(msgpack({"ts": NOW_MS, "values": {1: 2}}))) == ("", "malformed")


@given(st.integers(-(2**70), 2**70))
def test_integers_of_any_size(number: int) -> None:
    made = FormatDecoder("cbor")
    size = abs(number).bit_length() // 8 + 1
    tag = b"\xc2" if number >= 0 else b"\xc3"
    magnitude = number if number >= 0 else -1 - number
    big = tag + cbor_head(2, size) + magnitude.to_bytes(size, "big")
    read = made.read(b"\xa3" + cbor({"metric": "humidity", "ts": NOW_MS})[1:] + cbor("value") + big)
    if -50 <= number <= 150:
        assert [r.value for r in read.rows] == [number]
    else:
        assert one(read) == ("value", "out_of_range")


# ---- JSON with a field map -----------------------------------------------------------------------------


def mapped(document: Any, **options: Any) -> Read:
    made = FormatDecoder("json-map", options=options)
    return made.read(orjson.dumps(document))


def test_a_flat_object_with_the_metrics_as_members() -> None:
    read = mapped(
        {"time": TEXT, "temp": 21.5, "extra": {"hum": 40}, "no": 7},
        ts="time",
        seq="no",
        values={"temperature": "temp", "humidity": "extra.hum"},
    )
    assert read.rows == [
        ("d000", "temperature", AT, 21.5, 7),
        ("d000", "humidity", AT, 40, 7),
    ]
    assert mapped({"time": TEXT, "temp": 1}, ts="time", values={"temperature": "temp", "humidity": "h"}).rejects == []  # fmt: skip


def test_an_array_in_an_envelope_with_the_time_outside() -> None:
    document = {
        "meta": {"at": NOW_MS},
        "d": [
            {"n": "temperature", "v": 212, "u": "degF"},
            {"n": "humidity", "v": 40, "meta": {"at": NOW_MS - 1000}},
            {"n": "humidity"},
            {"v": 1},
            7,
        ],
    }
    read = mapped(document, each="d", ts="meta.at", metric="n", value="v", unit="u")
    assert [(r.metric, round(r.value, 9)) for r in read.rows] == [
        ("temperature", 100),
        ("humidity", 40),
    ]
    assert read.rows[1].ts == AT - 1_000_000_000
    assert read.rejects == [[(f"d[{i}].v", "bad_shape") for i in (2, 3, 4)]]


def test_an_object_of_metrics_and_elements_by_number() -> None:
    read = mapped({"t": [NOW_MS], "all": {"temperature": 1, "speed": 2}}, ts="t.0", values="all")
    assert [r.metric for r in read.rows] == ["temperature"]
    assert read.rejects == [[("all.speed", "unknown_metric")]]


def test_an_array_at_the_top() -> None:
    read = mapped(
        [{"t": NOW_MS, "temperature": 1}] * 2, ts="t", values={"temperature": "temperature"}
    )
    assert len(read.rows) == 2


def test_the_metric_may_be_in_the_topic() -> None:
    made = FormatDecoder("json-map", "x/{device}/{metric}", options={"value": "v", "ts": "t"})
    read = made.read(orjson.dumps({"v": 3, "t": NOW_MS}), topic="x/d002/humidity")
    assert read.rows == [("d002", "humidity", AT, 3, None)]


@pytest.mark.parametrize(
    ("document", "path", "reason"),
    [
        ({"t": NOW_MS}, "v", "bad_shape"),
        ({"t": NOW_MS, "v": 1, "m": 3}, "v", "bad_shape"),
        ({"t": NOW_MS, "v": 1, "m": "temperature", "u": 3}, "v", "bad_shape"),
        ({"t": NOW_MS, "v": 1, "m": "temperature", "s": -1}, "v", "bad_shape"),
        ({"t": NOW_MS, "v": "1", "m": "temperature"}, "v", "not_a_number"),
        ({"t": "today", "v": 1, "m": "temperature"}, "v", "ts_invalid"),
        ({"v": 1, "m": "temperature"}, "v", "ts_missing"),
        (7, "", "malformed"),
    ],
)
def test_what_is_wrong_with_a_document(document: Any, path: str, reason: str) -> None:
    read = mapped(document, ts="t", metric="m", value="v", unit="u", seq="s")
    assert one(read) == (path, reason)


def test_an_array_that_is_not_there() -> None:
    assert one(mapped({"d": 1}, each="d", value="v", metric="m")) == ("", "malformed")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "needs either value"),
        ({"value": "a", "values": "b"}, "needs either value"),
        ({"values": "b", "metric": "m"}, "belong to value"),
        ({"value": "a..b"}, "option value"),
        ({"valeu": "a"}, "option valeu"),
        ({"value": 3}, "option value"),
    ],
)
def test_options_that_do_not_fit_are_said(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make("json-map", options)
