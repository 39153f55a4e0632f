"""Messages made to hurt: nested, huge, doubled, cut, not text. Each is a reject or a reading, quickly."""

import gzip
import json
import time
import tracemalloc
import zlib
from collections.abc import Callable

import orjson
import pytest
from tests.fakes import lineprotocol
from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory
from tests.fakes.readings import scores

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.decode.warm import warm
from greenlang_iot.encode.deadletter import encode, from_rejects, resubmission
from greenlang_iot.encode.lines import LineEncoder
from greenlang_iot.model.batches import Decoded
from greenlang_iot.model.flags import FRAME_CUT
from greenlang_iot.model.outcomes import DeadLetter
from greenlang_iot.settings.model import InfluxSettings, LimitSettings

TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
NOW = 1_714_566_896_789_000_000
TOPIC = b"greenlang/acme/site-0/d000/telemetry"
MOST = LimitSettings().max_payload_bytes
SECONDS = 5.0
"""Far more than any of these takes, and far less than one that is not linear."""


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """On a machine that has not run them before, kernels are compiled now and not while time is taken."""
    warm()


def decode(payload: bytes, topic: bytes = TOPIC, **limits: object) -> Decoded:
    """One message; it must not take long. No more readings come of it than are allowed."""
    decoder = Decoder(directory(2), LimitSettings.model_validate(limits), TEMPLATE)
    frames = frame_batch([(topic, payload, False)], received_ns=NOW)
    began = time.process_time()
    found = decoder.decode(frames, NOW)
    assert time.process_time() - began < SECONDS
    assert found.readings.n <= LimitSettings().max_readings_per_message
    return found


def reasons(found: Decoded) -> list[str]:
    return [reason for reject in found.rejects for _, reason in reject.paths]


def reading(value: str = "1", extra: str = "") -> bytes:
    return b'{"ts":%d,"metric":"temperature","value":%s%s}' % (NOW, value.encode(), extra.encode())


@pytest.mark.parametrize("depth", [100, 1_023, 1_024, 30_000])
@pytest.mark.parametrize(("opens", "closes"), [("[", "]"), ('{"a":', "}"), ('[{"values":', "}]")])
def test_nesting(depth: int, opens: str, closes: str) -> None:
    depth = min(depth, (MOST - 100) // len(opens + closes))
    nested = opens * depth + "1" + closes * depth
    assert decode(nested.encode()).readings.n == 0
    assert decode((opens * depth).encode()).readings.n == 0, "and never closed"
    beside = decode(reading(extra=f',"x":{nested}'))
    assert beside.readings.n + len(beside.rejects) == 1


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("1" + "0" * 308, "out_of_range"),
        ("1" + "0" * 309, "malformed"),
        ("1e308", "out_of_range"),
        ("1e309", "malformed"),
        ("-1e999999999999", "malformed"),
        ("1e-999999999999", None),
        ("0." + "0" * 60_000 + "1", None),
        ("9" * 60_000, "malformed"),
        ("1" + "0" * 60_000 + "e-60000", None),
        ("1." + "0" * 40_000, None),
        ("1." + "0" * 60_000 + "e00001", None),
        ("0.1e" + "0" * 50_000 + "1", None),
        ("-0." + "0" * 40_000, None),
        ("NaN", "malformed"),
        ("Infinity", "malformed"),
        ("0x10", "malformed"),
        ("1_0", "malformed"),
        ("٣", "malformed"),
    ],
)
def test_huge_numbers(number: str, reason: str | None) -> None:
    found = decode(reading(number))
    assert reasons(found) == ([] if reason is None else [reason])
    lines = LineEncoder(directory(2), InfluxSettings())
    lines.append(found.readings, scores([0.0] * found.readings.n))
    written = [lineprotocol.parse(line) for line in lines.seal().decode().splitlines()]
    assert [point.fields for point in written] == (
        [{"temperature": float(number)}] if reason is None else []
    )


def test_huge_time_stamps_and_sequence_numbers() -> None:
    for ts in ("9" * 400, "-1", "1e400", "18446744073709551616", '"' + "9" * 60_000 + '"'):
        payload = reading().replace(str(NOW).encode(), ts.encode())
        assert decode(payload).readings.n == 0
    for seq in ("9223372036854775808", "1e3", "-1", '"1"', "9" * 60_000):
        assert decode(reading(extra=f',"seq":{seq}')).readings.n == 0


@pytest.mark.parametrize("fast", [True, False])
def test_of_a_doubled_key_the_last_counts_in_either_path(fast: bool) -> None:
    """One reading cannot be two: what was judged is what is stored."""
    payloads = [
        reading(extra=',"value":2'),
        reading(extra=',"metric":"humidity"'),
        reading(extra=f',"ts":{NOW - 10**9}'),
        b'{"ts":%d,"values":{"temperature":1,"temperature":999}}' % NOW,
    ]
    frames = frame_batch([(TOPIC, p, False) for p in payloads], received_ns=NOW)
    found = Decoder(directory(2), LimitSettings(), TEMPLATE, fast=fast).decode(frames, NOW)
    assert found.readings.value[: found.readings.n].tolist() == [2.0, 1.0, 1.0]
    assert found.readings.ts_ns[2] == NOW - 10**9
    assert reasons(found) == ["out_of_range"]


@pytest.mark.parametrize(
    "bad", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\xaf", b"\xe2\x82"]
)
@pytest.mark.parametrize("place", ['"metric":"%s"', '"x":"%s"', '"%s":1', '"unit":"%s"'])
def test_invalid_utf8_is_malformed_wherever_it_stands(bad: bytes, place: str) -> None:
    head, tail = place.split("%s")
    payload = b'{"ts":%d,"value":1,%s%b%s}' % (NOW, head.encode(), bad, tail.encode())
    found = decode(payload)
    assert reasons(found) == ["malformed"]
    (letter,) = from_rejects(found.rejects, NOW)
    assert json.loads(encode(letter))["device"] == "d000"


def test_topics_of_64_kib() -> None:
    for name in (b"x" * 65_000, b"x/" * 32_000, b"\xff" * 65_000, b"+" * 65_000, b"\x00" * 65_000):
        topic = b"greenlang/acme/site-0/" + name + b"/telemetry"
        for unknown in ("reject", "accept"):
            found = decode(reading(), topic, unknown_devices=unknown)
            assert found.readings.n == 0
            assert reasons(found)[0] in ("bad_topic", "unknown_device")


def test_more_readings_than_allowed_are_counted_before_they_are_read() -> None:
    one = reading().decode()
    for payload in (
        "[" + ",".join([one] * 1_001) + "]",
        '{"ts":1,"values":{' + ",".join(f'"m{i}":1' for i in range(4_000)) + "}}",
        "[" + "1," * 30_000 + "1]",
        "[" + '{"values":{}},' * 10_000 + "1]",
    ):
        found = decode(payload.encode())
        assert found.readings.n == 0
        assert reasons(found) in (["too_many_readings"], ["too_large"])


def test_a_payload_over_the_limit_is_not_read_at_all() -> None:
    found = decode(b"[" * (MOST + 1))
    assert reasons(found) == ["too_large"]


@pytest.mark.parametrize(("topic", "wanted"), [(TOPIC, ["too_large"]), (b"x", ["bad_topic"] * 2)])
def test_a_message_that_was_cut_is_too_large_whatever_is_left_of_it(
    topic: bytes, wanted: list[str]
) -> None:
    batch = frame_batch([(topic, reading(), False)] * 2, received_ns=NOW)
    batch.flags[0], batch.cut = FRAME_CUT, True
    found = Decoder(directory(2), LimitSettings(), TEMPLATE).decode(batch, NOW)
    assert reasons(found) == wanted
    assert found.readings.n == 2 - len(wanted)


BOMB = b"[" + b"0," * 16_000_000 + b"0]"


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.01])
def test_a_compressed_payload_takes_no_more_memory_than_a_plain_one_may(
    compress: Callable[[bytes, int], bytes], share: float
) -> None:
    """64 KiB can inflate a thousandfold: limits.max_payload_bytes holds for what comes out too."""
    packed = compress(BOMB, 6)
    packed = packed[: int(share * len(packed))]
    tracemalloc.start()
    try:
        found = decode(packed[:MOST])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.readings.n == 0
    assert len(found.rejects) == 1
    assert peak < 64 * MOST


def test_what_an_attacker_can_write_into_one_dead_letter_is_bounded() -> None:
    """A path names the metric, and the metric's name is the attacker's."""
    name = "x" * 60_000
    found = decode(orjson.dumps({"ts": NOW, "values": {name: 1}}))
    (letter,) = from_rejects(found.rejects, NOW)
    assert len(encode(letter)) < 4 * MOST
    assert max(len(path) for path, _ in letter.paths) < 200


def test_a_deep_payload_does_not_end_a_replay() -> None:
    """orjson takes 1,024 levels, the standard library 990 or so: one such message ended `dead-letter replay`."""
    deep = b'{"ts":1,"metric":"x","value":1,"e":' + b"[" * 1_020 + b"]" * 1_020 + b"}"
    letter = DeadLetter("message", 1, payload=deep, paths=(("value", "unit_mismatch"),))
    assert resubmission(letter) == deep
