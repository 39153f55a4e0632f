"""The receive buffer of a connection and the PUBLISH packets found in it. Pure.

Layout of the one buffer (every region with SLACK readable bytes on both sides):

    SLACK | receive region | SLACK | arena | SLACK

The arena holds the topics of aliases for the frames of one flush, so that `FrameBatch.topic_off`
points into the same buffer for every frame.
"""

from enum import IntEnum

import numpy as np

from greenlang_iot.model.batches import SLACK, FrameBatch
from greenlang_iot.model.errors import MqttError
from greenlang_iot.model.flags import CUT, FRAME_CUT, FRAME_DUP, FRAME_RETAIN
from greenlang_iot.mqtt import codec5, kernels

ARENA = 131_072
"""Bytes for topics of aliases in one flush; at least one topic (65,535) must fit."""

BYTES_PER_FRAME = 64
"""Assumed when the columns are sized: with smaller packets a flush is only cut in two."""


class Stop(IntEnum):
    """Why `Framer.scan` stopped."""

    INCOMPLETE = kernels.INCOMPLETE  # all whole packets are framed
    CONTROL = kernels.CONTROL  # next is another packet: `control()`
    FULL = kernels.FULL  # `take()` first
    BLOCKED = 6  # the window is full: acknowledge first


class Framer:
    """Bytes in, FrameBatch out; holds at most `receive_maximum` unacknowledged messages.

    max_bytes: size of the receive region; it is enlarged to hold one packet of
    `maximum_packet_size` bytes.

    A larger message ends the connection in MQTT 5, where the broker was told the limit. 3.1.1 has no way to
    tell it, and the broker would send the message again after every new connection: there its first bytes
    become a frame with FRAME_CUT, and the rest is passed over.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        version5: bool,
        receive_maximum: int = 65_535,
        maximum_packet_size: int = 262_144,
        topic_alias_maximum: int = 0,
    ) -> None:
        size = max(max_bytes, maximum_packet_size)
        self._first = SLACK
        self._last = SLACK + size
        self._arena_first = self._last + SLACK
        self._arena_last = self._arena_first + (ARENA if topic_alias_maximum else 0)
        self._buffer = np.zeros(self._arena_last + SLACK, np.uint8)
        self._view = self._buffer.data
        self._version5 = version5
        self._receive_maximum = receive_maximum
        self._maximum_packet_size = maximum_packet_size
        self._alias_maximum = topic_alias_maximum
        self._columns = size // BYTES_PER_FRAME
        self._topic_off = np.zeros(self._columns, np.int32)
        self._topic_len = np.zeros(self._columns, np.int32)
        self._payload_off = np.zeros(self._columns, np.int32)
        self._payload_len = np.zeros(self._columns, np.int32)
        self._packet_id = np.zeros(self._columns, np.uint16)
        self._flags = np.zeros(self._columns, np.uint8)
        self._out = np.zeros(4, np.int64)
        # by alias, where its topic lies in the buffer; known for the frames of this flush only
        self._alias_off = np.zeros(topic_alias_maximum + 1, np.int32)
        self._alias_len = np.zeros(topic_alias_maximum + 1, np.int32)
        self._placed = False
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new network connection."""
        self._start = self._first  # first byte that is not framed
        self._end = self._first  # end of the bytes received
        self._n = 0
        self._aliases: dict[int, bytes] = {}
        self._forget_places()
        self.unacknowledged = 0
        self._cut = False  # a frame that waits for `take()` is cut
        self._beyond = 0  # bytes of the last cut message that are still to come

    @property
    def frames(self) -> int:
        """Frames waiting for `take()`."""
        return self._n

    @property
    def nearly_full(self) -> bool:
        """The receive region is three quarters full."""
        return self._end - self._first >= (self._last - self._first) * 3 // 4

    @property
    def window_full(self) -> bool:
        """As many messages are unacknowledged as may be."""
        return self.unacknowledged >= self._receive_maximum

    @property
    def unframed(self) -> int:
        """Bytes that are not framed."""
        return self._end - self._start

    @property
    def next_byte(self) -> int:
        """The first byte that is not framed; only with `unframed`."""
        return self._view[self._start]

    def space(self) -> memoryview:
        """Where the next bytes go: the free end of the receive region (may be empty)."""
        return self._view[self._end : self._last]

    def received(self, nbytes: int) -> None:
        """`nbytes` were written to the start of `space()`."""
        self._end += nbytes

    def scan(self) -> Stop:
        """Frame what can be framed. MqttError where a packet breaks the protocol."""
        if self._beyond and not self._passed_over():
            return Stop.INCOMPLETE
        while True:
            allowed = self._n + self._receive_maximum - self.unacknowledged
            kernels.frame(
                self._buffer,
                self._start,
                self._end,
                self._version5,
                self._maximum_packet_size,
                self._alias_off,
                self._alias_len,
                self._n,
                min(self._columns, allowed),
                self._topic_off,
                self._topic_len,
                self._payload_off,
                self._payload_len,
                self._packet_id,
                self._flags,
                self._out,
            )
            self._start, self._n, acks, reason = self._out.tolist()
            self.unacknowledged += acks
            if reason == kernels.FULL:
                return Stop.BLOCKED if self.window_full else Stop.FULL
            if reason == kernels.TOO_LARGE:
                stop = self._cut_short()
                if stop is not None:
                    return stop
                continue
            if reason == kernels.MALFORMED:
                raise _malformed("a length")
            if reason != kernels.UNUSUAL:
                return Stop(reason)
            if not self._frame_unusual():
                return Stop.FULL

    def control(self) -> memoryview | None:
        """The next packet, whole, and step over it; None: it is incomplete."""
        bounds = self._next_packet()
        if bounds is None:
            return None
        start, self._start = self._start, bounds[1]
        return self._view[start : bounds[1]]

    def take(self, connection: int, received_ns: int) -> FrameBatch:
        """The frames so far. Buffer and columns are reused by the next `space()` or `scan()`."""
        n, cut = self._n, self._cut
        self._n, self._cut = 0, False
        self._forget_places()
        return FrameBatch(
            connection=connection,
            buffer=self._buffer,
            n=n,
            topic_off=self._topic_off[:n],
            topic_len=self._topic_len[:n],
            payload_off=self._payload_off[:n],
            payload_len=self._payload_len[:n],
            packet_id=self._packet_id[:n],
            flags=self._flags[:n],
            received_ns=received_ns,
            cut=cut,
        )

    def compact(self) -> None:
        """Move the incomplete tail to the front; frames must have been taken."""
        tail = self._end - self._start
        if self._start > self._first:
            self._buffer[self._first : self._first + tail] = self._buffer[self._start : self._end]
            self._start = self._first
            self._end = self._first + tail

    def _next_packet(self) -> tuple[int, int] | None:
        """Where the next packet's body starts and where it ends; None: it is incomplete."""
        known = self._variable_byte_integer(self._start + 1)
        if known is None:
            return None
        length, body = known
        end = body + length
        if end - self._start > self._maximum_packet_size:
            raise self._too_large()
        return (body, end) if end <= self._end else None

    def _variable_byte_integer(self, at: int) -> tuple[int, int] | None:
        """Its value and where it ends; None: its bytes are not all there."""
        value = 0
        for i in range(4):
            if at + i >= self._end:
                return None
            byte = self._view[at + i]
            value |= (byte & 127) << 7 * i
            if not byte & 128:
                return value, at + i + 1
        raise _malformed("a length")

    def _frame_unusual(self) -> bool:
        """Frame one PUBLISH with a topic alias or a subscription identifier.

        False: the arena has no room for its topic. MqttError where it is no valid QoS 0/1 PUBLISH.
        """
        bounds = self._next_packet()
        assert bounds is not None, "the kernel calls only whole packets unusual"
        start, (body, end) = self._start, bounds
        qos = (self._view[start] >> 1) & 3
        if qos == 2:
            raise MqttError("the broker sent QoS 2, which was not asked", reason="protocol_error")
        if not self._version5 or qos == 3:
            raise _malformed("a PUBLISH")
        topic = body + 2
        topic_end = topic + (self._view[body] << 8 | self._view[body + 1])
        try:
            packet, at = self._view[start:end], topic_end + 2 * qos - start
            alias, payload = codec5.alias_and_payload(packet, at)
        except (ValueError, IndexError) as error:
            raise _malformed(f"a PUBLISH: {error}") from error
        payload += start
        packet_id = (self._view[topic_end] << 8 | self._view[topic_end + 1]) if qos else 0
        if qos == 1 and not packet_id:
            raise _malformed("a packet id of 0")
        place: tuple[int, int] | None = (topic, topic_end - topic)
        if alias is not None:
            place = self._place(alias, bytes(self._view[topic:topic_end]), topic)
        elif topic == topic_end:
            raise _malformed("a PUBLISH without a topic")
        if place is None:
            return False
        n = self._n
        self._topic_off[n], self._topic_len[n] = place
        self._payload_off[n], self._payload_len[n] = payload, end - payload
        self._packet_id[n] = packet_id
        head = self._view[start]
        self._flags[n] = FRAME_RETAIN * (head & 1) | FRAME_DUP * (head >> 3 & 1)
        self._n += 1
        self.unacknowledged += qos
        self._start = end
        return True

    def _cut_short(self) -> Stop | None:
        """Frame the beginning of a PUBLISH that is over the largest packet; None: scan on behind it.

        MqttError for any other packet, for MQTT 5, and where it is no valid QoS 0/1 PUBLISH.
        """
        start, view = self._start, self._view
        head = view[start]
        qos = (head >> 1) & 3
        if self._version5 or head >> 4 != 3:
            raise self._too_large()
        if qos > 1:
            raise MqttError("the broker sent QoS 2, which was not asked", reason="protocol_error")
        known = self._variable_byte_integer(start + 1)
        assert known is not None, "the kernel knows its length"
        length, body = known
        end, topic = body + length, body + 2
        if topic > self._end:
            return Stop.INCOMPLETE
        topic_len = view[body] << 8 | view[body + 1]
        payload = topic + topic_len + 2 * qos
        if not topic_len or payload > end:
            raise _malformed("a PUBLISH")
        wanted = min(payload + CUT, end)
        if wanted > self._end:
            if wanted - start > self._last - self._first:
                raise self._too_large()  # not even its topic has room
            return Stop.INCOMPLETE
        packet_id = (view[payload - 2] << 8 | view[payload - 1]) if qos else 0
        if qos and not packet_id:
            raise _malformed("a packet id of 0")
        if self.window_full:
            return Stop.BLOCKED
        n = self._n
        if n == self._columns:
            return Stop.FULL
        self._topic_off[n], self._topic_len[n] = topic, topic_len
        self._payload_off[n], self._payload_len[n] = payload, wanted - payload
        self._packet_id[n] = packet_id
        self._flags[n] = FRAME_CUT | FRAME_RETAIN * (head & 1) | FRAME_DUP * (head >> 3 & 1)
        self._n += 1
        self._cut = True
        self.unacknowledged += qos
        self._beyond = end - start
        return None if self._passed_over() else Stop.INCOMPLETE

    def _passed_over(self) -> bool:
        """Step over what came of a cut message; whether that is all of it."""
        passed = min(self._beyond, self._end - self._start)
        self._start += passed
        self._beyond -= passed
        return not self._beyond

    def _place(self, alias: int, topic: bytes, at: int) -> tuple[int, int] | None:
        """Offset and length of the alias's topic; with a topic (lying at `at`) it is redefined.

        None: the arena has no room for it.
        """
        if not 0 < alias <= self._alias_maximum:
            allowed = f"1 to {self._alias_maximum}" if self._alias_maximum else "none"
            raise MqttError(
                f"the broker used topic alias {alias}, allowed: {allowed} (topic_alias_maximum)",
                reason="topic_alias_invalid",
            )
        if topic:
            self._aliases[alias] = topic
        else:
            known = self._aliases.get(alias)
            if known is None:
                raise MqttError(
                    f"the broker used topic alias {alias} before it named its topic",
                    reason="protocol_error",
                )
            topic, at = known, self._arena_end
            if at + len(topic) > self._arena_last:
                return None
            self._buffer[at : at + len(topic)] = np.frombuffer(topic, np.uint8)
            self._arena_end += len(topic)
        self._alias_off[alias] = at
        self._alias_len[alias] = len(topic)
        self._placed = True
        return at, len(topic)

    def _forget_places(self) -> None:
        """The places of aliases hold for one flush, because its bytes and the arena are reused."""
        self._arena_end = self._arena_first
        if self._placed:
            self._alias_len.fill(0)
            self._placed = False

    def _too_large(self) -> MqttError:
        return MqttError(
            f"the broker sent a packet of more than {self._maximum_packet_size} bytes "
            "(maximum_packet_size)",
            reason="packet_too_large",
        )


def _malformed(what: str) -> MqttError:
    return MqttError(f"the broker sent a malformed packet: {what}", reason="malformed_packet")
