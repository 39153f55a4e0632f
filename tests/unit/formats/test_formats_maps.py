"""CBOR and MessagePack maps, JSON with a field map: what each takes and refuses."""

import struct
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.format_decoder import NOW_MS, FormatDecoder, Read
from tests.fakes.payload_formats import cbor, cbor_head, msgpack

from greenlang_iot.formats.catalog import make
from greenlang_iot.formats.maps import msgpack_document

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


@pytest.mark.parametrize(
    ("head", "ts"),
    [
        (b"\xc0" + cbor(TEXT), AT),
        (b"\xc0" + cbor(TEXT[:-1] + "123456z"), AT + 123_456),
        (b"\xc1" + cbor(NOW_MS / 1000), AT),
        (b"\xc1" + cbor(NOW_MS // 1000), AT - 789_000_000),
        (b"\xc4" + cbor([-3, NOW_MS]), AT),  # a decimal fraction, by its magnitude
    ],
)
def test_cbor_times(in_cbor: FormatDecoder, head: bytes, ts: int) -> None:
    assert [r.ts for r in in_cbor.read(timed(head)).rows] == [ts]


@pytest.mark.parametrize(
    "head",
    [
        b"\xc0" + cbor("yesterday"),
        b"\xc0" + cbor(NOW_MS),
        b"\xc1" + cbor(TEXT),
        b"\xc1" + cbor(float("nan")),
        b"\xc1" + cbor(1e300),
        b"\xc1" + cbor(2**62),
        b"\xc1" + cbor(None),
    ],
)
def test_cbor_dates_that_are_none_cost_only_their_reading(
    in_cbor: FormatDecoder, head: bytes
) -> None:
    assert one(in_cbor.read(timed(head))) == ("value", "ts_invalid")


def test_a_time_is_no_value(in_cbor: FormatDecoder, in_msgpack: FormatDecoder) -> None:
    head = {"metric": "humidity", "ts": NOW_MS}
    in_tags = b"\xa3" + cbor(head)[1:] + cbor("value") + b"\xc1" + cbor(40)
    assert one(in_cbor.read(in_tags)) == ("value", "not_a_number")
    in_ext = b"\x83" + msgpack(head)[3:] + msgpack("value") + b"\xd6\xff" + bytes(4)
    assert one(in_msgpack.read(in_ext)) == ("value", "not_a_number")


@pytest.mark.parametrize(
    ("extension", "ns"),
    [
        (b"\xd6\xff" + struct.pack(">I", NOW_MS // 1000), AT - 789_000_000),
        (b"\xd7\xff" + struct.pack(">Q", 789_000_001 << 34 | NOW_MS // 1000), AT + 1),
        (b"\xc7\x0c\xff" + struct.pack(">Iq", 789_000_001, NOW_MS // 1000), AT + 1),
    ],
)
def test_messagepack_s_own_timestamps(in_msgpack: FormatDecoder, extension: bytes, ns: int) -> None:
    payload = b"\x83" + msgpack({"metric": "humidity", "value": 40})[3:] + msgpack("ts") + extension
    assert [r.ts for r in in_msgpack.read(payload).rows] == [ns]


def test_other_extensions_and_timestamps_that_are_none(in_msgpack: FormatDecoder) -> None:
    head = b"\x83" + msgpack({"metric": "humidity", "value": 40})[3:] + msgpack("ts")
    too_many_ns = b"\xc7\x0c\xff" + struct.pack(">Iq", 10**9, 5)
    assert one(in_msgpack.read(head + too_many_ns)) == ("value", "ts_invalid")
    for extension in (b"\xd4\xff\x00", b"\xd6\x05" + bytes(4), b"\xc7\x00\xff"):
        assert one(in_msgpack.read(head + extension)) == ("", "malformed")


def test_what_stands_behind_the_item_is_not_passed_over(
    in_cbor: FormatDecoder, in_msgpack: FormatDecoder
) -> None:
    for made, write in ((in_cbor, cbor), (in_msgpack, msgpack)):
        good = write({"metric": "humidity", "ts": NOW_MS, "value": 40})
        assert len(made.read(good).rows) == 1
        for payload in (good + good, good + b"\x00", good[:-1], b""):
            assert one(made.read(payload)) == ("", "malformed")


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
DOCUMENTS = st.recursive(
    LEAVES | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(DOCUMENTS, st.binary(max_size=12), st.data())
def test_a_messagepack_document_is_all_of_its_bytes(
    document: Any, more: bytes, data: st.DataObject
) -> None:
    written = msgpack(document)
    assert msgpack_document(written) == document
    cut = data.draw(st.integers(0, len(written) - 1))
    for wrong in (written[:cut], written + more if more else b""):
        with pytest.raises(ValueError, match=r"."):
            msgpack_document(wrong)


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("1864", 100), ("1903e8", 1000), ("1bffffffffffffffff", 2**64 - 1), ("3863", -100),
        ("3bffffffffffffffff", -(2**64)), ("c249010000000000000000", 2**64),
        ("c349010000000000000000", -(2**64) - 1), ("f90001", 2**-24), ("f93e00", 1.5), ("f97bff", 65504),
        ("f9c400", -4), ("fa47c35000", 1e5), ("fa7f7fffff", 3.4028234663852886e38),
        ("fb3ff199999999999a", 1.1), ("fb7e37e43c8800759c", 1e300), ("f98000", 0), ("c48221196ab3", 273.15),
    ],
)  # fmt: skip
def test_numbers_of_rfc_8949_appendix_a(item: str, value: float) -> None:
    """In a map and a text of indefinite length, as the appendix has them, too."""
    made = FormatDecoder("cbor", registry=directory(1, low=-1e301, high=1e301))
    head = cbor("metric") + b"\x7f" + cbor("temp") + cbor("erature") + b"\xff"
    payload = b"\xbf" + head + cbor("ts") + cbor(NOW_MS) + cbor("value") + bytes.fromhex(item)
    assert [row.value for row in made.read(payload + b"\xff").rows] == [float(value)]


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ("f97c00", "non_finite"), ("f97e00", "non_finite"), ("faff800000", "non_finite"),
        ("fbfff0000000000000", "non_finite"), ("f4", "not_a_number"), ("f6", "not_a_number"),
        ("f7", "not_a_number"), ("f0", "not_a_number"), ("f8ff", "not_a_number"),
        ("4401020304", "not_a_number"), ("9f018202039f0405ffff", "not_a_number"),
    ],
)  # fmt: skip
def test_items_of_rfc_8949_appendix_a_that_are_no_readings(
    in_cbor: FormatDecoder, item: str, reason: str
) -> None:
    head = {"metric": "temperature", "ts": NOW_MS}
    payload = b"\xa3" + cbor(head)[1:] + cbor("value") + bytes.fromhex(item)
    assert one(in_cbor.read(payload)) == ("value", reason)


def test_cbor_that_says_it_is_cbor(in_cbor: FormatDecoder) -> None:
    payload = cbor({"metric": "humidity", "ts": NOW_MS, "value": 40})
    assert len(in_cbor.read(b"\xd9\xd9\xf7" + payload).rows) == 1


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
