"""Every format: the same readings as our JSON of them, and no payload that harms."""

import gzip
import zlib
from collections.abc import Callable
from functools import cache

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import payload_formats as write
from tests.fakes.format_decoder import LIMITS, NOW, NOW_MS, FormatDecoder, Read
from tests.fakes.payload_formats import Sample

from greenlang_iot.formats.catalog import BUILT_IN

X = "x/acme/site-0/d000"
NESTED = {"each": "data.points", "ts": "t", "metric": "n", "value": "reading.v"}
SPARKPLUG = "spBv1.0/{site}/{type}/{node}/{device}"
BORN = "spBv1.0/site-0/NBIRTH/d000"


def decoder(name: str) -> FormatDecoder:
    if name == "sparkplug-b":
        return FormatDecoder(name, SPARKPLUG)
    if name == "plain":
        return FormatDecoder(name, "x/{org}/{site}/{device}/{metric}", missing_ts="receive_time")
    options = {"json-map": NESTED, "line-protocol": {"precision": "ms"}}.get(name, {})
    return FormatDecoder(name, options=options)


TOPICS = dict.fromkeys(BUILT_IN, X) | {"sparkplug-b": BORN, "plain": f"{X}/temperature"}
WRITERS = {
    "json": write.json_array,
    "json-map": write.nested_json,
    "cbor": write.cbor_array,
    "messagepack": write.msgpack_array,
    "senml-json": write.senml_json,
    "senml-cbor": write.senml_cbor,
    "sparkplug-b": write.sparkplug_named,
    "line-protocol": write.lines,
}
every_format = pytest.mark.parametrize("name", BUILT_IN)
shared = cache(decoder)
"""By all examples: only Sparkplug keeps anything, and its births replace it."""

samples = st.lists(
    st.tuples(
        st.sampled_from(["temperature", "humidity", "pressure"]),
        st.integers(NOW_MS - 86_400_000, NOW_MS + 400_000),  # some of them in the future
        st.integers(-200, 200) | st.floats(-200, 200).map(lambda v: float(f"{v:.6g}")),
    ),
    min_size=1,
    max_size=20,
)


def outcome(read: Read) -> tuple[list[object], list[str]]:
    """Rows to the µs (SenML's float seconds hold no more), and the reasons in order."""
    rows = [(r.device, r.metric, round(r.ts, -4), r.value, r.seq) for r in read.rows]
    return rows, [reason for paths in read.rejects for _, reason in paths]


@every_format
@given(samples)
@settings(max_examples=40, deadline=None)
def test_the_same_readings_and_rejects_as_the_json_of_it(name: str, some: list[Sample]) -> None:
    if name not in WRITERS:
        return  # plain: one value, no time; below
    as_json = shared("json").read(write.json_array(some))
    other = shared(name).read(WRITERS[name](some), topic=TOPICS[name])
    assert outcome(other) == outcome(as_json)


@given(st.integers(-40, 140) | st.floats(-40, 140))
def test_a_plain_number_is_the_value_at_the_time_of_receipt(value: float) -> None:
    read = shared("plain").read(f" {value!r}\r\n".encode(), topic=TOPICS["plain"])
    [row] = read.rows
    assert row == ("d000", "temperature", NOW - 5, value, None)
    assert not read.rejects


def test_plain_numbers_received_together_are_readings_of_their_own() -> None:
    read = shared("plain").read(b"1", b"2", b"3", topic=TOPICS["plain"])
    assert [(row.ts, row.value) for row in read.rows] == [(NOW - 5, 1), (NOW - 4, 2), (NOW - 3, 3)]


@every_format
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_payload_harms_and_each_is_rejected_at_most_once(name: str, data: st.DataObject) -> None:
    """Random bytes, and good payloads that were cut, flipped or doubled."""
    payload = data.draw(st.binary(max_size=200))
    if name in WRITERS and data.draw(st.booleans()):
        good = bytearray(WRITERS[name](data.draw(samples)))
        cut = data.draw(st.integers(0, len(good)))
        if data.draw(st.booleans()) and cut < len(good):
            good[cut] ^= data.draw(st.integers(1, 255))
        else:
            good = good[:cut] + data.draw(st.sampled_from([b"", b"\x00", bytes(good)]))
        payload = bytes(good)
    made = shared(name)
    read = made.read(payload, b"\xff", topic=TOPICS[name])
    assert read.decoded.messages == 2
    assert len(read.rejects) <= 2
    for reject in read.decoded.rejects:
        assert reject.payload in (payload, b"\xff")
        assert all(reason for _, reason in reject.paths)


@every_format
def test_garbage_is_one_reject_with_the_original_bytes(name: str) -> None:
    garbage = b"\xc1\xff{not=of this,format\x00"
    read = shared(name).read(garbage, topic=TOPICS[name])
    assert not read.rows
    [reject] = read.decoded.rejects
    assert reject.payload == garbage
    assert reject.device == "d000"
    assert len(reject.paths) == 1


@every_format
def test_what_concerns_the_device_is_the_same_everywhere(name: str) -> None:
    payload = WRITERS[name]([("temperature", NOW_MS, 21)]) if name in WRITERS else b"21"
    for wrong, reason in (
        (TOPICS[name].replace("d000", "nobody"), "unknown_device"),
        (TOPICS[name].replace("site-0", "site-1"), "wrong_place"),
        (f"y/{TOPICS[name]}", "bad_topic"),
    ):
        read = shared(name).read(payload, topic=wrong)
        assert (read.rows, read.rejects) == ([], [[("", reason)]])


@every_format
def test_too_many_readings_is_a_reject_of_the_message(name: str) -> None:
    if name not in WRITERS:
        return
    limit = LIMITS.model_copy(update={"max_readings_per_message": 3})
    made = decoder(name)
    made.decoder.configure(limit)
    four = [("temperature", NOW_MS - i, 21) for i in range(4)]
    assert len(made.read(WRITERS[name](four[:3]), topic=TOPICS[name]).rows) == 3
    read = made.read(WRITERS[name](four), topic=TOPICS[name])
    assert (read.rows, read.rejects) == ([], [[("", "too_many_readings")]])


# ---- gzip and zstd ---------------------------------------------------------------------------------


def zstd(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(**options).compress(data)


SQUEEZERS = {
    "gzip": gzip.compress,
    "zstd": zstd,
    "zstd without its size": lambda data: zstd(data, write_content_size=False),
}
every_squeezer = pytest.mark.parametrize("squeeze", SQUEEZERS.values(), ids=SQUEEZERS)


@every_squeezer
@every_format
def test_every_format_may_be_compressed(name: str, squeeze: object) -> None:
    payload = WRITERS[name]([("temperature", NOW_MS, 21)]) if name in WRITERS else b"21"
    plain = shared(name).read(payload, topic=TOPICS[name])
    assert plain.rows
    packed = squeeze(payload)  # type: ignore[operator]
    assert shared(name).read(packed, topic=TOPICS[name])[:2] == plain[:2]
    for broken in (packed[:-3], packed + b"x"):
        read = shared(name).read(broken, topic=TOPICS[name])
        assert (read.rows, read.rejects) == ([], [[("", "malformed")]])
        assert read.decoded.rejects[0].payload == broken


@every_squeezer
def test_json_on_the_default_topic_may_be_compressed_too(squeeze: object) -> None:
    made = shared("json")
    topic = "greenlang/acme/site-0/d000/telemetry"
    payload = b'{"ts":1714566896789,"metric":"temperature","value":21}'
    messages = [(topic, payload), (topic, squeeze(payload)), (topic, b"\x1f\x8b\x08broken")]  # type: ignore[operator]
    read = made.read_all(messages)
    assert [row.value for row in read.rows] == [21, 21]
    assert read.rejects == [[("", "malformed")]]
    assert read.decoded.fast == 1


@every_squeezer
def test_members_and_frames_are_one_content(squeeze: Callable[[bytes], bytes]) -> None:
    payload = b'{"ts":1714566896789,"metric":"temperature","value":21}'
    parts = b"".join(map(squeeze, (payload[:20], b"", payload[20:])))
    assert [row.value for row in shared("json").read(parts).rows] == [21]
    for broken in (parts[:-3], parts + b"x", parts + gzip.compress(b" ")[:5]):
        assert shared("json").read(broken).rejects == [[("", "malformed")]]
    half = squeeze(payload + b" " * (LIMITS.max_payload_bytes // 2))
    assert shared("json").read(half + half).rejects == [[("", "too_large")]]
    many = squeeze(payload) + squeeze(b"") * 63
    assert len(shared("json").read(many).rows) == 1
    assert shared("json").read(many + squeeze(b"")).rejects == [[("", "malformed")]]


@every_squeezer
def test_a_bomb_is_too_large_and_never_inflated_further_than_the_limit(squeeze: object) -> None:
    limit = LIMITS.max_payload_bytes
    exact = b'{"ts":1714566896789,"metric":"humidity","value":1}'
    for size, reason in ((limit, None), (limit + 1, "too_large"), (30_000_000, "too_large")):
        packed = squeeze(exact + b" " * (size - len(exact)))  # type: ignore[operator]
        if len(packed) > limit:
            continue
        read = shared("json").read(packed)
        assert len(read.rows) == (reason is None)
        assert read.rejects == ([[("", reason)]] if reason else [])


def test_a_bare_zlib_stream_is_not_taken_for_anything() -> None:
    read = shared("json").read(zlib.compress(b"{}"))
    assert read.rejects == [[("", "malformed")]]


@pytest.mark.parametrize("name", ["json", "json-map", "senml-json", "line-protocol", "plain"])
def test_a_byte_order_mark_is_passed_over(name: str) -> None:
    payload = WRITERS[name]([("temperature", NOW_MS, 21)]) if name in WRITERS else b"21"
    plain = shared(name).read(payload, topic=TOPICS[name])
    assert plain.rows
    marked = b"\xef\xbb\xbf" + payload
    for data in (marked, gzip.compress(marked)):
        assert shared(name).read(data, topic=TOPICS[name])[:2] == plain[:2]
    twice = shared(name).read(b"\xef\xbb\xbf" + marked, topic=TOPICS[name])
    assert twice.rows == [] or name == "line-protocol"  # there it is a letter of the measurement
    own = b'{"ts":1714566896789,"metric":"temperature","value":21}'
    read = shared("json").read_all(
        [("greenlang/acme/site-0/d000/telemetry", data) for data in (b"\xef\xbb\xbf" + own, own)]
    )
    assert [row.value for row in read.rows] == [21, 21]
    assert read.decoded.fast == 1


# ---- wrong numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cbor", "messagepack", "senml-cbor", "sparkplug-b"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(name: str, value: float) -> None:
    read = shared(name).read(WRITERS[name]([("temperature", NOW_MS, value)]), topic=TOPICS[name])
    assert read.rows == []
    assert [reason for [(_, reason)] in read.rejects] == ["non_finite"]


@pytest.mark.parametrize("text", ["nan", "-inf", "Infinity"])
def test_plain_texts_that_are_not_finite(text: str) -> None:
    read = shared("plain").read(text.encode(), topic=TOPICS["plain"])
    assert read.rejects == [[("value", "non_finite")]]


@pytest.mark.parametrize("text", ["", "on", "0x10", "1_000", "21,4", "1e", "--1", "21.4 Cel", "٣"])
def test_plain_texts_that_are_no_number(text: str) -> None:
    read = shared("plain").read(text.encode(), topic=TOPICS["plain"])
    assert read.rejects == [[("value", "not_a_number")]]


def test_a_plain_number_of_a_thousand_digits_is_a_number_out_of_range() -> None:
    read = shared("plain").read(b"1" * 300, topic=TOPICS["plain"])
    assert read.rejects == [[("value", "out_of_range")]]
    read = shared("plain").read(b"1" * 1000, topic=TOPICS["plain"])
    assert read.rejects == [[("value", "non_finite")]]
