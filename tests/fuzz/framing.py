"""Millions of broken PUBLISH streams through the framing kernel, each at every split."""

from contextlib import suppress
from typing import Any

import numpy as np
from tests.fuzz.kernels_framing import ROW, first_disagreement, twin
from tests.fuzz.mutate import Mutator, guarded
from tests.reference.mqtt import Framed, frame, publish
from tests.unit.mqtt.test_mqtt_framing import STOPS

from greenlang_iot.model.batches import I32
from greenlang_iot.model.flags import FRAME_DUP, FRAME_RETAIN

WIDTH = 96
CAPACITY = 6
MAX_PACKET = 90
SAMPLE = 100
"""Streams of each batch for which the mqtt5 package is asked too."""
ALIASES = ((2, b"alias/two"), (5, b"a5"))
ALPHABET = (
    b"\x00\x01\x02\x03\x04\x05\x08\x09\x0b\x23\x26\x30\x31\x32\x33\x34\x38\x3a\x7f\x80\x81\xff"
)
PROPERTIES = (
    b"", b"\x01\x01", b"\x02\x00\x00\x00\x05", b"\x03\x00\x04json", b"\x08\x00\x01r",
    b"\x09\x00\x02\x01\x02", b"\x0b\x05", b"\x23\x00\x02", b"\x23\x00\x03", b"\x23\x00\x05",
    b"\x26\x00\x01a\x00\x02bc", b"\x26\x00\x00\x00\x00\x26\x00\x01x\x00\x00", b"\x11\x00\x00\x00\x01",
    b"\x01\x00\x23\x00\x05\x02\x00\x00\x00\x09",
)  # fmt: skip


def corpus(version5: bool) -> list[bytes]:
    """Streams of one to four packets: every property, both levels of QoS, other packets between."""
    one = []
    for number, properties in enumerate(PROPERTIES if version5 else PROPERTIES[:6]):
        topic = b"" if properties.startswith(b"\x23") else b"t/%d" % number
        flags = (0, FRAME_RETAIN, FRAME_DUP, FRAME_RETAIN | FRAME_DUP)[number % 4]
        for packet_id in (0, 1 + 300 * number):
            packet = publish(
                topic,
                b"x" * (number % 5),
                packet_id,
                flags,
                version5=version5,
                properties=properties,
            )
            one.append(packet)
    one.append(publish(b"long", b"y" * 70, 7, version5=version5))
    streams = list(one)
    for i, packet in enumerate(one):
        others = one[(i + 1) % len(one)], one[(5 * i + 3) % len(one)]
        streams += [packet + others[0], packet + others[0] + others[1]]
        streams += [packet + b"\xd0\x00" + others[1], b"\x40\x02\x00\x01" + packet]
    return streams


class Framing:
    """One protocol version's streams; `run(n)` raises AssertionError with the first that differs."""

    def __init__(self, version5: bool, seed: int) -> None:
        self._version5 = version5
        self._mutator = Mutator(corpus(version5), WIDTH, ALPHABET, seed)
        self.inputs = self.splits = 0

    def run(self, n: int) -> None:
        """Mutate and compare `n` streams."""
        rows, lengths = self._mutator.batch(n)
        topics = b"".join(topic for _, topic in ALIASES)
        buffer = guarded(len(topics) + n * WIDTH)
        buffer[: len(topics)] = np.frombuffer(topics, np.uint8)
        # right-aligned: the last stream ends where readable memory ends
        offsets = len(topics) + WIDTH * (np.arange(n) + 1) - lengths.astype(np.int64)
        for row, at, length in zip(rows, offsets.tolist(), lengths.tolist(), strict=True):
            buffer[at : at + length] = row[:length]
        self.compare(buffer, offsets, lengths)
        for at, length in zip(offsets[:SAMPLE].tolist(), lengths[:SAMPLE].tolist(), strict=True):
            self._ask_mqtt5(buffer[at : at + length].tobytes())

    def _ask_mqtt5(self, stream: bytes) -> None:
        """The compiled twin against the one that asks the mqtt5 package.

        The kernel does not look into the texts of properties, which nobody reads; the package does,
        so streams that are not UTF-8 are left out.
        """
        with suppress(UnicodeDecodeError):
            stream.decode()
            self._agree(stream)

    def _agree(self, stream: bytes) -> None:
        expected = frame(
            stream,
            version5=self._version5,
            max_packet=MAX_PACKET,
            capacity=CAPACITY - 1,
            aliases=dict(ALIASES),
        )
        topics = b"".join(topic for _, topic in ALIASES)
        buffer = np.frombuffer(bytearray(topics + stream), np.uint8)
        alias_off, alias_len = _aliases()
        rows, out = np.zeros(ROW * CAPACITY, np.int64), np.zeros(4, np.int64)
        twin(
            buffer, len(topics), len(buffer), self._version5, MAX_PACKET, alias_off, alias_len,
            CAPACITY - 1, rows, out,
        )  # fmt: skip
        found = [
            (buffer[a : a + b].tobytes(), buffer[c : c + d].tobytes(), e, f)
            for a, b, c, d, e, f in rows.reshape(-1, ROW)[: out[1]].tolist()
        ]
        got = Framed(found, int(out[0]) - len(topics), STOPS[int(out[3])])
        assert got == expected, stream

    def compare(self, buffer: Any, offsets: Any, lengths: Any) -> None:
        """Kernel and twin on these streams of the buffer."""
        alias_off, alias_len = _aliases()
        columns = [np.zeros(CAPACITY, np.int32) for _ in range(4)]
        stream, cut, splits = first_disagreement(
            buffer, offsets, lengths, self._version5, MAX_PACKET, CAPACITY - 1,
            alias_off, alias_len, *columns, np.zeros(CAPACITY, np.uint16),
            np.zeros(CAPACITY, np.uint8), np.zeros(ROW * CAPACITY, np.int64),
            np.zeros(4, np.int64), np.zeros(4, np.int64),
        )  # fmt: skip
        self.inputs += len(offsets)
        self.splits += splits
        if stream >= 0:
            found = buffer[offsets[stream] :][: lengths[stream]].tobytes()
            raise AssertionError(f"framing differs at split {cut} of {found!r}")


def _aliases() -> tuple[I32, I32]:
    """Where the topics of ALIASES lie at the beginning of a buffer, and their lengths, by alias."""
    alias_off, alias_len = np.zeros(8, np.int32), np.zeros(8, np.int32)
    at = 0
    for alias, topic in ALIASES:
        alias_off[alias], alias_len[alias] = at, len(topic)
        at += len(topic)
    return alias_off, alias_len
