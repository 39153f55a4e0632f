"""The payload contract, line by line, through the general path and the scanner."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from jsonschema import Draft202012Validator
from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.decode.warm import warm
from greenlang_iot.model.batches import Decoded
from greenlang_iot.model.flags import CLOCK_SUSPECT, CONVERTED, HAS_SEQ, RETAINED, TEXT_IN_ARENA
from greenlang_iot.model.reasons import Reason
from greenlang_iot.settings.model import LimitSettings

TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
TOPIC = b"greenlang/acme/site-0/d000/telemetry"
NOW = 1_714_566_896_789_000_000
SCHEMA = Path(__file__).parents[3] / "docs" / "schemas" / "payload-v1.json"
LIMITS = LimitSettings(max_readings_per_message=4, max_payload_bytes=500)


@pytest.fixture(params=[True, False], ids=["scanner", "orjson"])
def fast(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def decode(
    *payloads: str | bytes,
    fast: bool,
    topic: bytes = TOPIC,
    limits: LimitSettings = LIMITS,
    clock_suspect: bool = False,
    retained: bool = False,
    registry: Any = None,
) -> Decoded:
    raw = [p.encode() if isinstance(p, str) else p for p in payloads]
    frames = frame_batch([(topic, p, retained) for p in raw], received_ns=NOW - 5)
    decoder = Decoder(registry or directory(), limits, TEMPLATE, fast=fast)
    return decoder.decode(frames, NOW, clock_suspect)


def only_reason(decoded: Decoded) -> tuple[str, str]:
    assert decoded.readings.n == 0
    [reject] = decoded.rejects
    [path] = reject.paths
    return path


def text(decoded: Decoded, row: int) -> bytes:
    batch = decoded.readings
    blob = batch.arena if batch.flags[row] & TEXT_IN_ARENA else batch.buffer
    at = int(batch.text_off[row])
    return blob[at : at + int(batch.text_len[row])].tobytes()


def test_one_reading(fast: bool) -> None:
    payload = (
        '{"ts":"2024-05-01T12:34:56.789Z","metric":"humidity","value":21.5,"unit":"%RH","seq":7}'
    )
    decoded = decode(payload, fast=fast)
    batch = decoded.readings
    assert (batch.n, decoded.messages, decoded.undecodable) == (1, 1, 0)
    assert decoded.fast == fast
    assert batch.series.tolist() == [1]
    assert batch.ts_ns.tolist() == [1_714_566_896_789_000_000]
    assert batch.value.tolist() == [21.5]
    assert batch.seq.tolist() == [7]
    assert batch.frame.tolist() == [0]
    assert int(batch.flags[0]) & ~TEXT_IN_ARENA == HAS_SEQ
    assert text(decoded, 0) == b"21.5"
    assert (batch.connection, batch.received_ns) == (1, NOW - 5)


def test_many_metrics_share_time_and_seq(fast: bool) -> None:
    payload = '{"values":{"humidity":40,"temperature":-3.25},"seq":0,"ts":1714566896}'
    decoded = decode(payload, fast=fast)
    assert decoded.fast == fast
    assert decoded.readings.series.tolist() == [1, 0]
    assert decoded.readings.value.tolist() == [40.0, -3.25]
    assert decoded.readings.ts_ns.tolist() == [1_714_566_896 * 10**9] * 2
    assert [int(f) & HAS_SEQ for f in decoded.readings.flags] == [HAS_SEQ] * 2


def test_array_of_either_keeps_its_good_readings(fast: bool) -> None:
    one = {"ts": 1714566896, "metric": "temperature", "value": 1}
    many = {"ts": 1714566896, "values": {"temperature": 2, "humidity": "wet"}}
    decoded = decode(json.dumps([one, many, 3]), fast=fast)
    assert decoded.readings.value.tolist() == [1.0, 2.0]
    [reject] = decoded.rejects
    assert reject.paths == [("[1].values.humidity", "not_a_number"), ("[2]", "bad_shape")]
    assert (reject.readings, reject.device, reject.topic) == (2, "d000", TOPIC)
    assert reject.series == [1, -1]


@pytest.mark.parametrize(
    ("ts", "ns"),
    [
        ('"2024-05-01T12:34:56"', 1_714_566_896_000_000_000),
        ('"2024-05-01 12:34:56z"', 1_714_566_896_000_000_000),
        ('"2024-05-01T14:34:56+02:00"', 1_714_566_896_000_000_000),
        ('"2024-05-01T07:04:56-0530"', 1_714_566_896_000_000_000),
        ('"2024-05-01T14:34:56+02"', 1_714_566_896_000_000_000),
        ('"2024-05-01T12:34:56.123456789Z"', 1_714_566_896_123_456_789),
        ('"2024-02-29T23:59:59,5Z"', 1_709_251_199_500_000_000),
        ('"2016-12-31T23:59:60Z"', 1_483_228_800_000_000_000),  # a leap second, as POSIX counts it
        ('"2017-01-01T01:29:60.5+01:30"', 1_483_228_800_500_000_000),
        ("1714566896", 1_714_566_896_000_000_000),
        ("1714566896.123456", 1_714_566_896_123_456_000),
        ("1.714566896e9", 1_714_566_896_000_000_000),
        ("1714566896123", 1_714_566_896_123_000_000),
        ("1714566896123456", 1_714_566_896_123_456_000),
        ("1714566896123456789", 1_714_566_896_123_456_789),
    ],
)
def test_time_stamps(ts: str, ns: int, fast: bool) -> None:
    limits = LIMITS.model_copy(update={"max_age": 0.0})
    payload = f'{{"ts":{ts},"metric":"temperature","value":1}}'
    assert decode(payload, fast=fast, limits=limits).readings.ts_ns.tolist() == [ns]


GOOD_TS = '"ts":1714566896'


@pytest.mark.parametrize(
    ("payload", "path", "reason"),
    [
        ("{", "", Reason.MALFORMED),
        ("", "", Reason.MALFORMED),
        ('{"ts":NaN}', "", Reason.MALFORMED),
        (b'{"a":"\xff"}', "", Reason.MALFORMED),
        (f'{{{GOOD_TS},"metric":"temperature","value":1,"fw":"a\x01b"}}', "", Reason.MALFORMED),
        (f'{{{GOOD_TS},"metric":"temperature","value":1,"fw\n":"ab"}}', "", Reason.MALFORMED),
        (f'{{{GOOD_TS},"metric":"temperature","value":1,"fw":"a\\x"}}', "", Reason.MALFORMED),
        ("[" * 2000, "", Reason.TOO_LARGE),
        ("[" * 200, "", Reason.MALFORMED),
        ("17", "", Reason.MALFORMED),
        (f'{{{GOOD_TS},"metric":"temperature","value":1e400}}', "", Reason.MALFORMED),
        (" " * 501, "", Reason.TOO_LARGE),
        ("[1,2,3,4,5]", "", Reason.TOO_MANY_READINGS),
        ("{}", "value", Reason.BAD_SHAPE),
        (f'{{{GOOD_TS},"values":[1]}}', "values", Reason.BAD_SHAPE),
        (f'{{{GOOD_TS},"values":{{}},"value":1,"metric":"t"}}', "values", Reason.BAD_SHAPE),
        (f'{{{GOOD_TS},"metric":5,"value":1}}', "value", Reason.BAD_SHAPE),
        (f'{{{GOOD_TS},"metric":"temperature","value":1,"unit":5}}', "value", Reason.BAD_SHAPE),
        (f'{{{GOOD_TS},"metric":"temperature","value":1,"seq":-1}}', "value", Reason.BAD_SHAPE),
        (f'{{{GOOD_TS},"metric":"temperature","value":1,"seq":true}}', "value", Reason.BAD_SHAPE),
        (f'{{{GOOD_TS},"metric":"temperature","value":1,"seq":{2**63}}}', "value", Reason.BAD_SHAPE),
        (f'{{{GOOD_TS},"metric":"nope","value":1}}', "value", Reason.UNKNOWN_METRIC),
        (f'{{{GOOD_TS},"metric":"temperature","value":1,"unit":"K"}}', "value", Reason.UNKNOWN_UNIT),
        (f'{{{GOOD_TS},"metric":"temperature","value":"1"}}', "value", Reason.NOT_A_NUMBER),
        (f'{{{GOOD_TS},"metric":"temperature","value":true}}', "value", Reason.NOT_A_NUMBER),
        (f'{{{GOOD_TS},"values":{{"temperature":null}}}}', "values.temperature", Reason.NOT_A_NUMBER),
        ('{"metric":"temperature","value":1}', "value", Reason.TS_MISSING),
        ('{"ts":"noon","metric":"temperature","value":1}', "value", Reason.TS_INVALID),
        ('{"ts":"2024-05-01T12:34:60Z","metric":"temperature","value":1}', "value", Reason.TS_INVALID),
        ('{"ts":"2024-05-01T23:59:60+02:00","metric":"temperature","value":1}', "value", Reason.TS_INVALID),
        ('{"ts":1e10,"metric":"temperature","value":1}', "value", Reason.TS_INVALID),
        ('{"ts":1713566896,"metric":"temperature","value":1}', "value", Reason.TS_TOO_OLD),
        ('{"ts":1714567496,"metric":"temperature","value":1}', "value", Reason.TS_IN_FUTURE),
    ],
)  # fmt: skip
def test_reasons(payload: str | bytes, path: str, reason: Reason, fast: bool) -> None:
    decoded = decode(payload, fast=fast)
    assert only_reason(decoded) == (path, reason)
    assert decoded.undecodable == reason.is_message
    assert decoded.rejects[0].readings == (not reason.is_message)


def test_out_of_range_says_which_series_value_and_time(fast: bool) -> None:
    decoded = decode(f'{{{GOOD_TS},"metric":"temperature","value":400,"unit":"degF"}}', fast=fast)
    assert only_reason(decoded) == ("value", "out_of_range")
    [reject] = decoded.rejects
    assert reject.series == [0]
    assert reject.values == [400 * (5 / 9) - 160 / 9]
    assert reject.ts_ns == [1_714_566_896 * 10**9]


def test_a_conversion_that_overflows_is_not_finite(fast: bool) -> None:
    registry = directory(low=-math.inf, high=math.inf)
    registry.unit_factor[0] = 1e10
    payload = f'{{{GOOD_TS},"metric":"temperature","value":1e300,"unit":"degF"}}'
    assert only_reason(decode(payload, fast=fast, registry=registry)) == ("value", "non_finite")


def test_units_are_converted(fast: bool) -> None:
    decoded = decode(f'{{{GOOD_TS},"metric":"temperature","value":70.1,"unit":"degF"}}', fast=fast)
    value = 70.1 * (5 / 9) - 160 / 9
    assert decoded.readings.value.tolist() == [value]
    assert decoded.readings.flags.tolist() == [CONVERTED | TEXT_IN_ARENA]
    assert text(decoded, 0) == repr(value).encode()


def test_a_unit_beside_values_is_that_of_all_of_them(fast: bool) -> None:
    payload = f'{{{GOOD_TS},"unit":"degF","values":{{"temperature":176,"humidity":40}}}}'
    found = decode(payload, fast=fast)
    assert [round(x, 9) for x in found.readings.value.tolist()] == [80]
    assert found.rejects[0].paths == [("values.humidity", Reason.UNKNOWN_UNIT.value)]
    found = decode(f'{{{GOOD_TS},"unit":null,"values":{{"temperature":21}}}}', fast=fast)
    assert found.rejects[0].paths == [("values.temperature", Reason.BAD_SHAPE.value)]


def test_disabled_metric_is_unknown(fast: bool) -> None:
    registry = directory()
    registry.series_enabled[0] = 0
    payload = f'{{{GOOD_TS},"metric":"temperature","value":1}}'
    assert only_reason(decode(payload, fast=fast, registry=registry)) == ("value", "unknown_metric")


@pytest.mark.parametrize(
    ("topic", "reason", "device"),
    [
        (b"greenlang/acme/site-0/d000/status", Reason.BAD_TOPIC, ""),
        (b"greenlang/acme/site-0/d000/telemetry/x", Reason.BAD_TOPIC, ""),
        (b"greenlang/acme/site-0/\xff/telemetry", Reason.BAD_TOPIC, ""),
        (b"greenlang/acme/site-0/stranger/telemetry", Reason.UNKNOWN_DEVICE, ""),
        (b"greenlang/acme/site-1/d000/telemetry", Reason.WRONG_PLACE, "d000"),
        (b"greenlang/other/site-0/d000/telemetry", Reason.WRONG_PLACE, "d000"),
        (b"greenlang/acme/site-0/d002/telemetry", Reason.DEVICE_DISABLED, "d002"),
    ],
)
def test_topics(topic: bytes, reason: Reason, device: str, fast: bool) -> None:
    registry = directory()
    registry.enabled[2] = 0
    decoded = decode(
        f'{{{GOOD_TS},"metric":"temperature","value":1}}', fast=fast, topic=topic, registry=registry
    )
    assert only_reason(decoded) == ("", reason)
    assert decoded.rejects[0].device == device
    assert decoded.undecodable == 1


def test_missing_time_stamp_may_be_the_receive_time(fast: bool) -> None:
    limits = LIMITS.model_copy(update={"missing_ts": "receive_time"})
    decoded = decode('{"metric":"temperature","value":1}', fast=fast, limits=limits)
    assert decoded.readings.ts_ns.tolist() == [NOW - 5]
    assert decoded.fast == fast


def test_time_is_not_judged_while_the_clock_is_suspect(fast: bool) -> None:
    payload = '{"ts":1,"metric":"temperature","value":1}'
    decoded = decode(payload, fast=fast, clock_suspect=True, retained=True)
    assert decoded.readings.ts_ns.tolist() == [10**9]
    assert int(decoded.readings.flags[0]) & ~TEXT_IN_ARENA == CLOCK_SUSPECT | RETAINED


def test_duplicate_keys_last_wins(fast: bool) -> None:
    payload = f'{{{GOOD_TS},"values":{{"temperature":1,"temperature":2}}}}'
    assert decode(payload, fast=fast).readings.value.tolist() == [2.0]


@pytest.mark.parametrize(
    "payloads",
    [
        ("1],[2", "[]"),
        ("[1", "2]", "3,4"),
        ("[1", "2]", "3,4,5"),
        ('{"a":[{}', '{}]},{"c":{}}'),
        ('"', '"', "1,2"),
    ],
)
def test_no_payload_reaches_into_another(payloads: tuple[str, ...], fast: bool) -> None:
    decoded = decode(*payloads, fast=fast)
    alone = [decode(p, fast=fast) for p in payloads]
    assert [r.paths for r in decoded.rejects] == [r.paths for one in alone for r in one.rejects]
    assert decoded.readings.n == 0


def test_rows_come_in_the_order_of_the_messages() -> None:
    plain = '{"ts":1714566896,"metric":"temperature","value":%d}'
    nested = '{"ts":1714566896,"metric":"temperature","value":%d,"note":{"a":{"a":{"a":1}}},"x":"\\ud83d\\ude00"}'  # general path
    payloads = [(plain if i % 3 else nested) % i for i in range(20)]
    decoded = decode(*payloads, fast=True)
    assert decoded.readings.frame.tolist() == list(range(20))
    assert decoded.readings.value.tolist() == list(map(float, range(20)))
    assert decoded.fast == sum(i % 3 != 0 for i in range(20))


def test_arrays_take_the_fast_path_whole_or_not_at_all() -> None:
    good = '{"ts":1714566896,"metric":"temperature","value":%d}'
    bad = '{"ts":1714566896,"metric":"temperature","value":"x"}'
    whole = decode("[" + good % 1 + " , " + good % 2 + "]", " [" + good % 3 + "] ", fast=True)
    assert whole.readings.value.tolist() == [1.0, 2.0, 3.0]
    assert whole.readings.frame.tolist() == [0, 0, 1]
    assert whole.fast == 2
    torn = decode(f"[{good % 1},{bad}]", f"[{good % 2}", f"[{good % 3},]", fast=True)
    assert torn.fast == 0
    assert torn.readings.value.tolist() == [1.0]
    assert [reject.readings for reject in torn.rejects] == [1, 0, 0]


def test_an_empty_batch() -> None:
    warm()
    decoded = decode(fast=True)
    assert (decoded.readings.n, decoded.messages, decoded.rejects) == (0, 0, [])


def test_many_devices_are_told_apart() -> None:
    registry = directory(3000, sites=7)
    messages = [
        (
            f"greenlang/acme/site-{i % 7}/d{i:03d}/telemetry".encode(),
            b'{"ts":1714566896,"metric":"humidity","value":1}',
            False,
        )
        for i in range(3000)
    ]
    decoded = Decoder(registry, LIMITS, TEMPLATE).decode(frame_batch(messages), NOW)
    assert np.array_equal(decoded.readings.series, 2 * np.arange(3000) + 1)
    assert decoded.fast == 3000


def test_the_schema_describes_the_contract() -> None:
    schema = orjson.loads(SCHEMA.read_bytes())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    one = {
        "ts": "2024-05-01T12:34:56.789+02:00",
        "metric": "t",
        "value": 1.5,
        "unit": "C",
        "seq": 1,
    }
    many = {"ts": 1714566896123, "values": {"t": 1}, "extra": None}
    for good in (one, many, [one, many], []):
        assert validator.is_valid(good), good
    bad: list[Any] = [
        1,
        [1],
        {},
        {"ts": 1, "metric": "t"},
        {"ts": 1, "metric": "t", "value": "1"},
        {"ts": 1, "metric": "t", "value": 1, "values": {}},
        {"ts": 1, "metric": "t", "value": 1, "seq": -1},
        {"ts": 1, "metric": "t", "value": 1, "unit": None},
        {"ts": "noon", "metric": "t", "value": 1},
        {"metric": "t", "value": 1},
    ]
    for document in bad:
        assert not validator.is_valid(document), document
