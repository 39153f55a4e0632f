"""Millions of broken JSON payloads: the scanner against orjson and against `json`.

Every payload that the scanner takes is read again by the general path (orjson) and by the standard
library: rows must be the same, bit for bit. What the scanner leaves is the general path's in any
case; of that, every `SHARE`th batch is compared in full, rejects included.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from tests.fuzz.mutate import Mutator, guarded
from tests.unit.decode.test_decode_fuzz import (
    LIMITS,
    NOW,
    RECEIVED,
    REGISTRY,
    TEMPLATE,
    Payloads,
    rejects,
)

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.model.batches import SLACK, Decoded, FrameBatch, Reject
from greenlang_iot.model.flags import TEXT_IN_ARENA

WIDTH = 160
CORPUS = 5_000
ALPHABET = b'"\\{}[],: \t\n0123456789.eE+-truefalsnuvmitc\x00\x1f\x7f\x80\xc3\xa9\xed\xa0\xff'
SHARE = 25
TOPICS = tuple(f"greenlang/acme/site-{i % 2}/d{i:03d}/telemetry".encode() for i in range(5))
_COLUMNS = ("frame", "series", "ts_ns", "seq")


def corpus(seed: int) -> list[bytes]:
    """Payloads of the generator that the unit tests use; two thirds are what the scanner takes."""
    payloads, scanner = Payloads(seed), Scanner(REGISTRY, LIMITS, TEMPLATE)
    made = [p for p in (payloads.payload() for _ in range(CORPUS)) if len(p) <= WIDTH]
    rows = np.zeros((len(made), WIDTH), np.uint8)
    for row, payload in zip(rows, made, strict=True):
        row[: len(payload)] = np.frombuffer(payload, np.uint8)
    scanner.decode(batch(rows, np.array([len(p) for p in made], np.int32)), NOW)
    left = set(scanner.left)
    taken = [payload for i, payload in enumerate(made) if i not in left]
    return made + taken * (2 * len(left) // len(taken))


class Scanner(Decoder):
    """Only what the scanner takes; `left` are the numbers of the frames that it does not."""

    left: Sequence[int] = ()

    def _general(self, frames: FrameBatch, numbers: list[int], *_: Any) -> list[Reject]:
        self.left = numbers
        return []


class JsonPayloads:
    """`run(n)` raises AssertionError with the first payload that is read in two ways."""

    def __init__(self, seed: int) -> None:
        self._mutator = Mutator(corpus(seed), WIDTH, ALPHABET, seed)
        self._scanner = Scanner(REGISTRY, LIMITS, TEMPLATE)
        self._whole = Decoder(REGISTRY, LIMITS, TEMPLATE)
        self._general = Decoder(REGISTRY, LIMITS, TEMPLATE, fast=False)
        self._batches = 0
        self.inputs = self.taken = 0

    def run(self, n: int) -> None:
        """Mutate and compare `n` payloads."""
        self.compare(*self._mutator.batch(n))

    def compare(self, rows: Any, lengths: Any) -> None:
        """All ways of reading these payloads."""
        self.inputs += len(rows)
        everything = self._batches % SHARE == 0
        self._batches += 1
        if not everything:
            self._scanner.left = ()
            self._scanner.decode(batch(rows, lengths), NOW)
            taken = np.ones(len(rows), np.bool_)
            taken[self._scanner.left] = False
            rows, lengths = rows[taken], lengths[taken]
        frames = batch(rows, lengths)
        fast = (self._whole if everything else self._scanner).decode(frames, NOW)
        slow = self._general.decode(frames, NOW)
        self.taken += fast.fast
        if _columns(fast) != _columns(slow) or rejects(fast) != rejects(slow):
            self._find(rows, lengths)
        _texts_are_the_values(fast)
        for i in range(frames.n):
            libraries_agree(frames.payload(i))

    def _find(self, rows: Any, lengths: Any) -> None:
        for i in range(len(rows)):
            one = batch(rows[i : i + 1], lengths[i : i + 1])
            a, b = self._whole.decode(one, NOW), self._general.decode(one, NOW)
            assert _columns(a) == _columns(b), one.payload(0)
            assert rejects(a) == rejects(b), one.payload(0)
        raise AssertionError("a batch is read in another way than its messages one by one")


def batch(rows: Any, lengths: Any) -> FrameBatch:
    """One message per row; the last payload and its SLACK end where readable memory ends."""
    n = len(rows)
    topics = b"".join(TOPICS)
    begin = SLACK + len(topics)
    buffer = guarded(begin + n * WIDTH + SLACK)
    buffer[SLACK:begin] = np.frombuffer(topics, np.uint8)
    payload_off = begin + WIDTH * (np.arange(n) + 1) - lengths.astype(np.int64)
    body = buffer[begin : begin + n * WIDTH].reshape(n, WIDTH)
    # right-aligned: what follows a payload is whatever the next one does not cover
    columns = np.arange(WIDTH)
    source = np.clip(columns - (WIDTH - lengths[:, None]), 0, WIDTH - 1)
    body[:] = np.take_along_axis(rows, source, 1)
    which = np.arange(n) % len(TOPICS)
    topic_len = np.array([len(topic) for topic in TOPICS], np.int32)
    topic_off = (SLACK + np.cumsum(topic_len) - topic_len).astype(np.int32)
    return FrameBatch(
        connection=1,
        buffer=buffer,
        n=n,
        topic_off=topic_off[which],
        topic_len=topic_len[which],
        payload_off=payload_off.astype(np.int32),
        payload_len=lengths.astype(np.int32),
        packet_id=(np.arange(n) % 65_535 + 1).astype(np.uint16),
        flags=np.zeros(n, np.uint8),
        received_ns=RECEIVED,
    )


def libraries_agree(payload: bytes) -> None:
    """orjson and `json` take the same payloads and read the same in them."""
    try:
        fast = orjson.loads(payload)
    except orjson.JSONDecodeError:
        fast = _NONE
    try:
        slow = json.loads(
            payload.decode(), parse_int=_integer, parse_float=_real, parse_constant=_no_json
        )
    except (ValueError, RecursionError):
        slow = _NONE
    if fast is _NONE:  # `json` makes texts of half surrogate pairs, which no UTF-8 can hold
        assert slow is _NONE or _HALF_PAIR.search(payload), payload
    else:
        assert slow is not _NONE, payload
        assert repr(fast) == repr(slow), payload


_NONE: Any = object()
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


def _integer(text: str) -> int | float:
    """As orjson reads it: what 64 bits do not hold is a float64."""
    value = int(text)
    return value if -(2**63) <= value < 2**64 else _real(text)


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is beyond float64")
    return value


def _no_json(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _columns(decoded: Decoded) -> list[bytes]:
    readings = decoded.readings
    found = [np.asarray(getattr(readings, name)).tobytes() for name in _COLUMNS]
    flags = np.asarray(readings.flags) & ~np.uint16(TEXT_IN_ARENA)
    return [*found, np.asarray(readings.value).view(np.uint64).tobytes(), flags.tobytes()]


def _texts_are_the_values(decoded: Decoded) -> None:
    """The text that goes to the sinks is the value, for every row of either path."""
    r = decoded.readings
    blobs = r.buffer.tobytes(), r.arena.tobytes()
    offs, lens, values = r.text_off.tolist(), r.text_len.tolist(), r.value.tolist()
    for off, length, value, flags in zip(offs, lens, values, r.flags.tolist(), strict=True):
        text = blobs[bool(flags & TEXT_IN_ARENA)][off : off + length]
        assert math.copysign(1, float(text)) == math.copysign(1, value), text
        assert float(text) == value, text
