"""Scanner + orjson, orjson alone and the slow twin agree bit for bit, however batches are cut."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.model.batches import Decoded
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import HAS_SEQ, TEXT_IN_ARENA
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.settings.model import LimitSettings
from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory
from tests.reference.decode import Twin

TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
NOW = 1_714_566_896_789_000_000
RECEIVED = NOW - 1_000_000
LIMITS = LimitSettings(
    max_payload_bytes=2_000, max_readings_per_message=6, max_age=86_400.0, max_future=300.0
)
METRICS = ("temperature", "t", "humidity", "CO₂", "eightchr", "a-metric-of-many-words", "off")
UNITS = ("Cel", "°C", "%RH", "ppm", "kilograms", "", "1")
EXAMPLES = 40 if JIT_DISABLED else 300

Message = tuple[bytes, bytes, bool]


def registry() -> Directory:
    made = directory(6, METRICS, units=UNITS, low=-1e6, high=1e9)
    made.series_enabled[len(METRICS) - 1 :: len(METRICS)] = 0  # "off"
    made.enabled[5] = 0
    return made


REGISTRY = registry()


def rows(decoded: Decoded) -> list[tuple[int, int, int, bytes, int, int]]:
    """The rows as the twin has them; asserts that each text is the value."""
    batch = decoded.readings
    found = []
    for i in range(batch.n):
        blob = batch.arena if batch.flags[i] & TEXT_IN_ARENA else batch.buffer
        at = int(batch.text_off[i])
        text = blob[at : at + int(batch.text_len[i])].tobytes()
        value = float(batch.value[i])
        assert struct.pack("<d", float(text)) == struct.pack("<d", value)
        seq = int(batch.seq[i]) if batch.flags[i] & HAS_SEQ else -1
        found.append(
            (
                int(batch.frame[i]),
                int(batch.series[i]),
                int(batch.ts_ns[i]),
                struct.pack("<d", value),
                seq,
                int(batch.flags[i]) & ~TEXT_IN_ARENA,
            )
        )
    return found


def rejects(decoded: Decoded) -> list[tuple[Any, ...]]:
    return [
        (r.topic, r.payload, r.device, r.paths, r.series, list(map(str, r.values)), r.ts_ns)
        for r in decoded.rejects
    ]


def assert_as_twin(
    messages: list[Message],
    limits: LimitSettings = LIMITS,
    clock_suspect: bool = False,
    filler: int = 0,
) -> Decoded:
    """Decode in all ways; every one must give what the twin gives. Returns the fast decoder's result."""
    twin = Twin(REGISTRY, limits, NOW, RECEIVED, clock_suspect)
    twin.decode(messages)
    want = [(f, s, t, struct.pack("<d", v), seq, flags) for f, s, t, v, seq, flags in twin.rows]
    want_rejects = [
        (*messages[r.frame][:2], r.device, r.paths, r.series, list(map(str, r.values)), r.ts_ns)
        for r in twin.rejects
    ]
    frames = frame_batch(messages, received_ns=RECEIVED, filler=filler)
    slow = Decoder(REGISTRY, limits, TEMPLATE, fast=False).decode(frames, NOW, clock_suspect)
    assert rows(slow) == want
    assert rejects(slow) == want_rejects
    assert slow.fast == 0
    decoder = Decoder(REGISTRY, limits, TEMPLATE)
    cut_rows, cut_rejects = [], []
    for frame, message in enumerate(messages):
        one = decoder.decode(
            frame_batch([message], received_ns=RECEIVED, filler=filler), NOW, clock_suspect
        )
        cut_rows += [(frame, *row[1:]) for row in rows(one)]
        cut_rejects += rejects(one)
    assert cut_rows == want
    assert cut_rejects == want_rejects
    fast = decoder.decode(frames, NOW, clock_suspect)
    assert rows(fast) == want
    assert rejects(fast) == want_rejects
    assert fast.messages == len(messages)
    assert fast.undecodable == sum(r.paths[0][0] == "" for r in twin.rejects)
    return fast


def texts(*choices: str) -> st.SearchStrategy[str]:
    return st.sampled_from(choices)


digits = st.text("0123456789", min_size=1, max_size=21)
number = st.one_of(
    st.integers(-50, 2000).map(str),
    st.floats(-1000, 1000).map(lambda x: f"{x:.2f}"),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
    st.builds(
        lambda sign, whole, rest: sign + whole + rest,
        texts("", "-", "+"),
        digits,
        st.one_of(
            st.just(""),
            digits.map(lambda d: "." + d),
            st.builds(
                lambda d, e, p: f".{d}{e}{p}", digits, texts("e", "E", "e-", "E+"), st.integers(0, 420)
            ),
        ),
    ),
    texts("-0", "-0.0", "0e5", "1e400", "1.", ".5", "NaN", "null", "true", '"1"', "[]", "1e22", "1e23"),
    texts("9007199254740993", "9007199254740993.0", "9223372036854775807", "8999999999999999999"),
)  # fmt: skip
iso = st.builds(
    lambda day, sep, clock, fraction, zone: f'"{day}{sep}{clock}{fraction}{zone}"',
    texts("2024-05-01", "2024-04-30", "2024-02-30", "2024-13-01", "0000-01-01", "2300-01-01", "1969-12-31", "2024-5-01"),
    texts("T", "T", "T", "t", " ", "_"),
    texts("12:34:56", "12:34:56", "24:00:00", "23:59:60", "12:34"),
    st.one_of(texts("", ".789", ",5", "."), digits.map(lambda d: "." + d)),
    texts("Z", "z", "", "+00:00", "+02:00", "-0530", "+05", "+24:00", "+1:00", "Z "),
)  # fmt: skip
ts = st.one_of(
    st.integers(NOW - 10**14, NOW + 4 * 10**11).map(lambda ns: repr(ns / 1e9)),
    st.builds(lambda ns, unit: str(ns // unit), st.integers(NOW - 10**14, NOW + 4 * 10**11),
              st.sampled_from([1, 10**3, 10**6, 10**9])),
    iso,
    iso,
    number,
    texts('"yesterday"', "null", "-1", "1.7145668e9", '"2024-05-01T12:34:56\\u005a"'),
)  # fmt: skip
quoted = st.text(max_size=12).map(lambda t: '"' + t + '"')
metric = st.one_of(
    st.sampled_from([f'"{m}"' for m in METRICS]),
    texts('"unknown"', '"temperature\\u0000"', '"\\u0074"', '"te"', '"temperatur"', "5"),
)
space = texts("", "", "", "", " ", "\n\t ", "\r")


def members(*optional: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """An object of some of these members in any order, with whitespace."""

    def join(parts: list[str], shuffled: Any, gap: str) -> str:
        shuffled.shuffle(parts)
        return "{" + gap + (gap + "," + gap).join(parts) + gap + "}"

    return st.builds(
        join,
        st.tuples(*optional).map(lambda parts: [p for p in parts if p]),
        st.randoms(use_true_random=False),
        space,
    )


def member(key: str, value: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda gap, v: f'"{key}"{gap}:{gap}{v}', space, value)


def sometimes(one: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.just(""), one, one)


def seldom(one: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.just(""), st.just(""), st.just(""), one)


good_ts = texts(
    '"2024-05-01T12:34:56.789Z"', "1714566896789", "1714566896.789", '"2024-05-01T14:34:56+02:00"'
)
seq = st.one_of(st.integers(0, 2**63 + 5).map(str), number)
extra = seldom(
    st.one_of(
        member("fw", st.one_of(quoted, number, texts("true", "false", "null", "nul", "truefalse"))),
        member("nested", texts("{}", "[1]", '{"ts":1}')),
        member("ts", ts),
        member("values", texts("1", "{}")),
        st.builds(lambda key, n: f"{key}:{n}", quoted, number),
    )
)
unit = st.one_of(
    st.sampled_from([f'"{u}"' for u in (*UNITS, "degF", "furlong")]), texts("null", '"\\u0043el"')
)
single = members(
    sometimes(member("ts", st.one_of(good_ts, ts))),
    member("metric", metric),
    member("value", number),
    seldom(member("unit", unit)),
    sometimes(member("seq", seq)),
    extra,
)
values = members(
    member("ts", st.one_of(good_ts, good_ts, ts)),
    st.lists(st.builds(lambda m, g, v: f"{m}{g}:{g}{v}", metric, space, number), max_size=7).map(
        lambda pairs: '"values":{' + ",".join(pairs) + "}"
    ),
    sometimes(member("seq", seq)),
    extra,
)
flat = st.one_of(single, values)
document = st.one_of(
    flat,
    flat,
    flat,
    st.lists(st.one_of(flat, texts("1", "null", "[]", "{}")), max_size=4).map(
        lambda items: "[" + ",".join(items) + "]"
    ),
    texts("", "1", "null", "{", "}", "1],[2", "[[1", "2]]", '{"a":[{}', "NaN", "[" * 1100, "{}{}"),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    payload = bytearray(draw(document).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        if payload:
            at = draw(st.integers(0, len(payload) - 1))
            how = draw(st.sampled_from(["flip", "set", "cut", "drop", "double"]))
            if how == "flip":
                payload[at] ^= 1 << draw(st.integers(0, 7))
            elif how == "set":
                payload[at] = draw(st.sampled_from(b'"\\{}[],: \x00\x1f0\x80\xff'))
            elif how == "cut":
                del payload[at:]
            elif how == "drop":
                del payload[at]
            else:
                payload[at:at] = payload[at : at + 8]
    return bytes(payload)


topic = st.one_of(
    st.sampled_from(
        [f"greenlang/acme/site-{i % 2}/d{i:03d}/telemetry".encode() for i in (0, 1, 2, 3, 4)]
    ),
    st.sampled_from(
        [
            b"greenlang/acme/site-0/d000/telemetry",
            b"greenlang/acme/site-1/d005/telemetry",
            b"greenlang/acme/site-1/d000/telemetry",
            b"greenlang/acme/site-0/d000/telemetr",
            b"greenlang/acme/site-0/nobody/telemetry",
            b"greenlang/acme//d000/telemetry",
            b"greenlang/acme/site-0/d\xff00/telemetry",
            b"",
        ]
    ),
)
message = st.tuples(topic, mutated(), st.sampled_from([False, False, False, True]))


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    messages=st.lists(message, max_size=8),
    clock_suspect=st.booleans(),
    missing=st.sampled_from(["reject", "receive_time"]),
    filler=st.sampled_from(b"\x00 0}\xff"),
)
def test_messages(messages: list[Message], clock_suspect: bool, missing: str, filler: int) -> None:
    limits = LIMITS.model_copy(update={"missing_ts": missing})
    assert_as_twin(messages, limits, clock_suspect, filler)


@settings(max_examples=EXAMPLES, deadline=None)
@given(numbers=st.lists(number, min_size=1, max_size=20))
def test_numbers(numbers: list[str]) -> None:
    topic = b"greenlang/acme/site-0/d000/telemetry"
    payload = '{"ts":1714566896,"metric":"t","value":%s}'
    assert_as_twin([(topic, (payload % n).encode(), False) for n in numbers])


@settings(max_examples=EXAMPLES, deadline=None)
@given(stamps=st.lists(ts, min_size=1, max_size=20))
def test_time_stamps(stamps: list[str]) -> None:
    topic = b"greenlang/acme/site-0/d000/telemetry"
    payload = '{"ts":%s,"metric":"t","value":1}'
    limits = LIMITS.model_copy(update={"max_age": 0.0, "max_future": 2e9})
    assert_as_twin([(topic, (payload % t).encode(), False) for t in stamps], limits)


@pytest.mark.parametrize("cut", range(0, 70))
def test_what_follows_a_cut_payload_does_not_complete_it(cut: int) -> None:
    whole = b'{"ts":1714566896,"metric":"temperature","value":21.53,"unit":"Cel"}'
    frames = frame_batch([(b"greenlang/acme/site-0/d000/telemetry", whole, False)])
    frames.payload_len[0] = min(cut, len(whole))
    decoded = Decoder(REGISTRY, LIMITS, TEMPLATE).decode(frames, NOW)
    assert decoded.readings.n == (1 if cut >= len(whole) else 0)
    assert decoded.undecodable == 1 - decoded.readings.n
    assert np.array_equal(decoded.readings.value, [21.53][: decoded.readings.n])
