"""Scanner + orjson, orjson alone and the slow twin agree bit for bit, however batches are cut."""

import random
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory
from tests.reference.decode import Twin

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.model.batches import Decoded
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import HAS_SEQ, TEXT_IN_ARENA
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.model.reasons import Reason
from greenlang_iot.settings.model import LimitSettings

TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
NOW = 1_714_566_896_789_000_000
RECEIVED = NOW - 1_000_000
LIMITS = LimitSettings(
    max_payload_bytes=2_000, max_readings_per_message=6, max_age=86_400.0, max_future=300.0
)
METRICS = ("temperature", "t", "humidity", "CO₂", "eightchr", "a-metric-of-many-words", "off")
UNITS = ("Cel", "°C", "%RH", "ppm", "kilograms", "", "1")
EXAMPLES = 10 if JIT_DISABLED else 60

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


class Payloads:
    """Payloads from a seed: mostly good ones, so that one flaw at a time meets every check."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def flaw(self, one_in: int = 20) -> bool:
        return self.rng.randrange(one_in) == 0

    def digits(self, most: int) -> str:
        return "".join(self.rng.choices("0123456789", k=self.rng.randint(1, most)))

    def number(self) -> str:
        rng = self.rng
        pick = rng.randrange(30)
        if pick < 20:
            return f"{rng.uniform(-1000, 1000):.{rng.randint(0, 6)}f}"
        if pick < 25:
            return str(rng.randint(-(10 ** rng.randint(1, 20)), 10 ** rng.randint(1, 9)))
        if pick < 26:
            return repr(struct.unpack("<d", rng.randbytes(8))[0])
        if pick < 28:
            return repr(rng.uniform(-1000, 1000))
        if pick < 29:
            return rng.choice(ODD_NUMBERS)
        sign = rng.choice(["", "", "-", "+"])
        fraction = rng.choice(["", "." + self.digits(20), "."])
        e = rng.choice(["", rng.choice("eE") + rng.choice(["", "-", "+"]) + self.digits(3)])
        return sign + self.digits(21) + fraction + e

    def ts(self) -> str:
        rng = self.rng
        ns = NOW - rng.randrange(86_000 * 10**9)
        if self.flaw(20):
            odd = [
                '"yesterday"',
                "null",
                "-1",
                "true",
                "1.7145668e9",
                '"2024-05-01T12:34:56\\u005a"',
            ]
            future = str(NOW + rng.randrange(10**13))
            return rng.choice([*odd, future, self.number()])
        if self.flaw(2):
            unit = rng.choice([1, 10**3, 10**6, 10**9])
            return rng.choice(
                [str(ns // unit), f"{ns / 1e9:.{rng.randint(0, 9)}f}", repr(ns / 1e9)]
            )
        day = "2024-05-01" if not self.flaw() else rng.choice(ODD_DAYS)
        sep = "T" if not self.flaw() else rng.choice("t _")
        clock = rng.choice(["12:34:56", "00:00:00", "03:59:59"])
        clock = (
            clock
            if not self.flaw()
            else rng.choice(["24:00:00", "23:59:60", "22:29:60", "12:34", "23:60:59", "23:59:61"])
        )
        fraction = rng.choice(["", ".789", "." + self.digits(9)])
        fraction = fraction if not self.flaw() else rng.choice([",5", ".", "." + self.digits(20)])
        zone = rng.choice(["Z", "Z", "", "+00:00", "+02:00", "-01:30"])
        zone = (
            zone if not self.flaw() else rng.choice(["z", "-0530", "+05", "+24:00", "+1:00", "Z "])
        )
        return f'"{day}{sep}{clock}{fraction}{zone}"'

    def seq(self) -> str:
        return (
            str(self.rng.randrange(2 ** self.rng.randint(1, 64)))
            if not self.flaw()
            else self.number()
        )

    def metric(self) -> str:
        if self.flaw():
            return self.rng.choice(ODD_METRICS)
        return f'"{self.rng.choice(METRICS[:-1])}"'

    def value(self) -> str:
        return self.number() if not self.flaw() else self.rng.choice(ODD_VALUES)

    def extra(self) -> str:
        key = self.rng.choice(
            ["fw", "battery", "Ts", "metrics", "", "a\\\\b", "grüße", "seq", "ts", "unit"]
        )
        plain = [self.number(), "true", "false", "null", "nul", "truefalse", "{}", "[1]"]
        return f'"{key}":' + self.rng.choice([*plain, self.text(), self.nested(4), self.nested(4)])

    def text(self) -> str:
        """A string, mostly good, of everything that a string can hold."""
        pieces = TEXT if not self.flaw(6) else (*TEXT, *BAD_TEXT)
        return '"' + "".join(self.rng.choices(pieces, k=self.rng.randint(0, 6))) + '"'

    def nested(self, levels: int) -> str:
        rng = self.rng
        if levels == 0 or rng.randrange(3) == 0:
            return rng.choice([self.number(), "true", "null", self.text()])
        gap = "" if not self.flaw(6) else rng.choice([" ", "\n\t "])
        comma = gap + ("," if not self.flaw(60) else rng.choice([",,", "", ";"])) + gap
        inside = [self.nested(levels - 1) for _ in range(rng.randint(0, 3))]
        if rng.randrange(2):
            return "[" + gap + comma.join(inside) + gap + ("]" if not self.flaw(60) else "}")
        colon = gap + (":" if not self.flaw(60) else rng.choice(["", "::"])) + gap
        inside = [self.text() + colon + value for value in inside]
        return "{" + gap + comma.join(inside) + gap + ("}" if not self.flaw(60) else "]")

    def join(self, parts: list[str]) -> str:
        rng = self.rng
        if self.flaw(3):
            rng.shuffle(parts)
        if self.flaw(20):
            parts.append(rng.choice(parts))
        gap = "" if not self.flaw(3) else rng.choice([" ", "\n\t ", "\r"])
        return "{" + gap + (gap + "," + gap).join(parts) + gap + "}"

    def member(self, key: str, value: str) -> str:
        gap = "" if not self.flaw(4) else self.rng.choice([" ", "\t", "  "])
        return f'"{key}":{gap}{value}'

    def item(self) -> str:
        rng = self.rng
        parts = [self.member("ts", self.ts())] if not self.flaw() else []
        if self.flaw(3):
            names = [f'"{m}"' for m in METRICS[:-1]] if not self.flaw() else [self.metric()] * 3
            start = rng.randrange(len(names))
            names = (names[start:] + names[:start])[: rng.randint(0, 5)]
            pairs = [f"{name}:{self.value()}" for name in names]
            parts.append(self.member("values", self.join(pairs) if pairs else "{}"))
        else:
            which = rng.randrange(len(METRICS) - 1)
            metric = f'"{METRICS[which]}"' if not self.flaw() else self.metric()
            parts += [self.member("metric", metric), self.member("value", self.value())]
            if self.flaw(3):
                unit = f'"{UNITS[which]}"' if not self.flaw(5) else rng.choice(ODD_UNITS)
                parts.append(self.member("unit", unit))
        if self.flaw(2):
            parts.append(self.member("seq", self.seq()))
        if self.flaw(6):
            parts.append(self.extra())
        if self.flaw(30):
            parts.pop(rng.randrange(len(parts)))
        return self.join(parts) if parts else "{}"

    def payload(self) -> bytes:
        rng = self.rng
        if self.flaw(15):
            text = rng.choice(ODD_DOCUMENTS)
        elif self.flaw(8):
            items = [self.item() if not self.flaw() else "1" for _ in range(rng.randrange(4))]
            text = "[" + ",".join(items) + "]"
        else:
            text = self.item()
        payload = bytearray(text.encode())
        while payload and self.flaw(6):
            self.mutate(payload)
        return bytes(payload)

    def mutate(self, payload: bytearray) -> None:
        rng = self.rng
        at = rng.randrange(len(payload))
        pick = rng.randrange(5)
        if pick == 0:
            payload[at] ^= 1 << rng.randrange(8)
        elif pick == 1:
            payload[at] = rng.choice(b'"\\{}[],: \x00\x1f0\x80\xff\x7f')
        elif pick == 2:
            del payload[at:]
        elif pick == 3:
            del payload[at]
        else:
            payload[at:at] = payload[at : at + 8]

    def message(self) -> Message:
        i = self.rng.randrange(5)
        topic = f"greenlang/acme/site-{i % 2}/d{i:03d}/telemetry".encode()
        if self.flaw(20):
            topic = self.rng.choice(ODD_TOPICS)
        mark = b"\xef\xbb\xbf" if self.flaw(40) else b""
        return topic, mark + self.payload(), self.flaw(8)


TEXT = (
    "a", "1.2.3", "a longer text than eight", "°", "grüße", "日本", "😀", "\\n", '\\"', "\\\\", "\\/",
    "\\b\\f\\r\\t", "\\u00e9", "\\uFFFF", "\\u0000", "\\ud83d\\ude00", "}", "]", ",", ":", " ", "\x7f",
)  # fmt: skip
BAD_TEXT = ("\\x", "\\u12g4", "\\u12", "\\ud800", "\\udc00\\ud800", "\n", "\x00", "\\", '"')
ODD_NUMBERS = (
    "-0", "-0.0", "0e5", "-0e0", "1e400", "1.", ".5", "NaN", "Infinity", "1e22", "1e23", "1e-22",
    "9007199254740991", "9007199254740992", "9007199254740993", "9007199254740993.0", "00", "-",
    "900719925474099.3", "9223372036854775807", "9223372036854775808", "8999999999999999999",
    "18446744073709551616", "123456789012345678", "0.00000000000000000123", "1E5", "-1.5E+2", "1e",
)  # fmt: skip
ODD_DAYS = (
    "2024-02-30", "2023-02-29", "2024-13-01", "2024-00-10", "2024-05-00", "2024-04-31", "0000-01-01",
    "2300-01-01", "1969-12-31", "1970-01-01", "2024-5-01", "2024/05/01", "9999-12-31", "1677-01-01",
)  # fmt: skip
ODD_METRICS = (
    '"off"',
    '"unknown"',
    '"t\\u0000"',
    '"\\u0074"',
    '"te"',
    '"temperatur"',
    '""',
    "5",
    "null",
)
ODD_VALUES = ("null", "true", '"1"', "[]", "{}", '"NaN"', "1e99", "-1e99")
ODD_UNITS = ('"degF"', '"furlong"', "null", "5", '"\\u0043el"', '"Cell"', '"Ce"', '"%RH"')
ODD_DOCUMENTS = (
    "", "1", "null", '"x"', "{", "}", "{}", "[]", "[[]]", "1],[2", "[[1", "2]]", "1,2", '{"a":[{}',
    '{}]},{"c":{}}', "NaN", "[" * 1023 + "]" * 1023, "[" * 1100, "{}{}", "\ufeff{}", " ",
    "[" + "{}," * 7 + "{}]", " " * 2001 + "{}",
)  # fmt: skip
ODD_TOPICS = (
    b"greenlang/acme/site-1/d005/telemetry", b"greenlang/acme/site-1/d000/telemetry",
    b"greenlang/acme/site-0/d000/telemetr", b"greenlang/acme/site-0/d000/telemetryx",
    b"greenlang/acme/site-0/nobody/telemetry", b"greenlang/acme//d000/telemetry",
    b"greenlang/acme/site-0/d\xff00/telemetry", b"",
)  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    clock_suspect=st.booleans(),
    missing=st.sampled_from(["reject", "receive_time"]),
    filler=st.sampled_from(b"\x00 0}\xff"),
)
def test_messages(seed: int, clock_suspect: bool, missing: str, filler: int) -> None:
    payloads = Payloads(seed)
    messages = [payloads.message() for _ in range(payloads.rng.randrange(30))]
    limits = LIMITS.model_copy(update={"missing_ts": missing})
    assert_as_twin(messages, limits, clock_suspect, filler)


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_values_that_nobody_asked_for(seed: int) -> None:
    payloads = Payloads(seed)
    rng = payloads.rng
    messages = []
    for _ in range(20):
        payload = bytearray(
            f'{{"ts":{NOW // 10**6},"metric":"t","value":1.5,"x":{payloads.nested(6)}}}'.encode()
        )
        while payload and payloads.flaw(3):
            payloads.mutate(payload)
        messages.append((b"greenlang/acme/site-0/d000/telemetry", bytes(payload), False))
    assert_as_twin(messages, filler=rng.choice(b'\x00 0}]"\xff'))


def raw(value: bytes) -> Message:
    payload = b'{"ts":%d,"metric":"t","value":1.5,"x":%b}' % (NOW // 10**6, value)
    return b"greenlang/acme/site-0/d000/telemetry", payload, False


@pytest.mark.parametrize(
    "value",
    [
        b'{"lat":52.5,"fix":[1,-2.5e3,[],{}],"ok":true,"no":null}',
        b"[" * 32 + b"]" * 32,
        '"Halle B, 21 °C, 日本, 😀"'.encode(),
        b'"caf\\u00e9 \\"left\\"\\n\\/\\\\"',
        b'{"\\u0041":"\\b\\f\\r\\t"}',
        b'[ 1 , { "a" : [ ] } ]',
    ],
)
def test_what_is_skipped_does_not_leave_the_fast_path(value: bytes) -> None:
    assert assert_as_twin([raw(value)]).fast == 1


@pytest.mark.parametrize(
    "value",
    [
        b"[1,]", b"{,}", b"[1 2]", b'{"a"}', b'{"a":}', b'{"a":1,}', b"[1}", b'{"a":1]', b"[", b"{",
        b"[1,[2]", b'{1:2}', b'"\\x"', b'"\\u12g4"', b'"\\ud800"', b'"\xc0\xaf"', b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"', b'"\xe0\x80\x80"', b'"\xf0\x80\x80\x80"', b'"\xc3"', b'"\xe2\x82"',
        b'"\x80"', b'"\xf5\x80\x80\x80"', b'"\n"', b"[truex]", b"[01]", b"[1e]", b"]", b"}",
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_wherever_it_stands(value: bytes) -> None:
    for wrapped in (value, b"[0,%b]" % value, b'{"a":%b}' % value):
        decoded = assert_as_twin([raw(wrapped)])
        assert decoded.readings.n == 0
        assert decoded.rejects[0].paths[0][1] == Reason.MALFORMED


def test_deeper_than_the_kernel_goes_is_read_by_the_general_path() -> None:
    assert assert_as_twin([raw(b"[" * 33 + b"]" * 33)]).fast == 0


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_messages_that_look_like_the_ones_before(seed: int) -> None:
    """Few shapes, many times, with other numbers and single flaws: what was learnt must not show."""
    payloads = Payloads(seed)
    rng = payloads.rng
    shapes = [payloads.message() for _ in range(4)]
    messages = []
    for _ in range(60):
        topic, payload, retained = rng.choice(shapes)
        other = bytearray(payload)
        for at, byte in enumerate(other):
            if 48 <= byte <= 57 and payloads.flaw(3):
                other[at] = rng.randint(48, 57)
        if other and payloads.flaw(6):
            payloads.mutate(other)
        if payloads.flaw(4):
            topic = payloads.message()[0]
        messages.append((topic, bytes(other), retained))
    assert_as_twin(messages)


def test_a_layout_is_followed_and_its_numbers_are_judged() -> None:
    topic = b"greenlang/acme/site-0/d000/telemetry"
    text = '{"ts":%d,"metric":"t","value":%s,"fw":"1.2","seq":%d}'
    values = ["1.5", "-2", "1e3", "22.25", "2e9", "-0", "007", "1.", "12345678901234567890", "3"]
    messages = [
        (topic, (text % (1714566800 + i, v, i)).encode(), False) for i, v in enumerate(values)
    ]
    decoded = assert_as_twin(messages)
    assert decoded.readings.value.tolist() == [1.5, -2.0, 1000.0, 22.25, 0.0, 3.0]
    assert decoded.fast == 5  # orjson reads -0 as the integer 0


def test_the_seeds_reach_both_paths_and_every_reason() -> None:
    payloads = Payloads(1)
    decoded = assert_as_twin([payloads.message() for _ in range(3000)])
    assert decoded.fast > 500
    assert decoded.messages - decoded.fast > 1000
    found = {reason for reject in decoded.rejects for _, reason in reject.paths}
    other = {
        Reason.SINK_REFUSED,
        Reason.NON_FINITE,
        Reason.UNKNOWN_ALIAS,
        Reason.BAD_QUALITY,
        Reason.OVER_RATE,
    }
    assert found == set(Reason) - other


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_numbers(seed: int) -> None:
    payloads = Payloads(seed)
    topic = b"greenlang/acme/site-0/d000/telemetry"
    payload = '{"ts":1714566896,"metric":"t","value":%s}'
    assert_as_twin([(topic, (payload % payloads.number()).encode(), False) for _ in range(30)])


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_time_stamps(seed: int) -> None:
    payloads = Payloads(seed)
    topic = b"greenlang/acme/site-0/d000/telemetry"
    payload = '{"ts":%s,"metric":"t","value":1}'
    limits = LIMITS.model_copy(update={"max_age": 0.0, "max_future": 8e9})
    assert_as_twin([(topic, (payload % payloads.ts()).encode(), False) for _ in range(30)], limits)


@pytest.mark.parametrize("cut", range(0, 70))
def test_what_follows_a_cut_payload_does_not_complete_it(cut: int) -> None:
    whole = b'{"ts":1714566896,"metric":"temperature","value":21.53,"unit":"Cel"}'
    frames = frame_batch([(b"greenlang/acme/site-0/d000/telemetry", whole, False)])
    frames.payload_len[0] = min(cut, len(whole))
    decoded = Decoder(REGISTRY, LIMITS, TEMPLATE).decode(frames, NOW)
    assert decoded.readings.n == (1 if cut >= len(whole) else 0)
    assert decoded.undecodable == 1 - decoded.readings.n
    assert np.array_equal(decoded.readings.value, [21.53][: decoded.readings.n])
