"""One MQTT client session without I/O: bytes in, frames, events and bytes out.

The life of one network connection (`State`):

    IDLE ─connect()─▶ CONNECTING ─CONNACK─▶ SUBSCRIBING ─last SUBACK─▶ ACTIVE
      ▲                                    (retire: UNSUBSCRIBE, UNSUBACK)    │
      └──────────────── an MqttError from any call, or disconnect() ◀─────────┘

A broker that kept the session may send PUBLISH packets before the SUBACK. Every failure is an
MqttError that says what happened and what to do; afterwards only `connect()` may follow.
Times are seconds of one monotonic clock.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto

import mqtt5
import numpy as np

from greenlang_iot.model.batches import U8, U16, FrameBatch
from greenlang_iot.model.errors import MqttError
from greenlang_iot.model.flags import FRAME_DUP
from greenlang_iot.mqtt import codec5, codec311, kernels, words
from greenlang_iot.mqtt.framing import Framer, Stop
from greenlang_iot.settings.model import BrokerSettings

FILTERS_PER_PACKET = 64
"""Topic filters in one SUBSCRIBE, so that its size stays a few kB."""

SUBSCRIBE_WITHIN = 60.0
"""Seconds in which the broker must answer SUBSCRIBE, or send messages of a kept session meanwhile."""

PING_AFTER = 0.75
"""Share of the keep-alive without a sent packet (or a received byte) that makes a PINGREQ due."""

ANSWER_WITHIN = 0.5
"""Share of the keep-alive in which the broker must answer a PINGREQ with some byte."""


class State(Enum):
    """How far the session is; see the picture above."""

    IDLE = auto()
    CONNECTING = auto()
    SUBSCRIBING = auto()
    ACTIVE = auto()


class Event(Enum):
    """What `Session.advance` stopped for."""

    NEED_DATA = auto()  # nothing more to do with the bytes received
    FLUSH = auto()  # `take()` the frames, then go on
    BLOCKED = auto()  # the window is full: go on after `acknowledge()`
    ACCEPTED = auto()  # CONNACK: `connection` is this connection's number
    READY = auto()  # subscribed (retire: unsubscribed)


class Session:
    """MQTT state of one client id at one broker, over all its network connections.

    filters: topic filters to subscribe at `qos` (0 or 1); with `retire` to unsubscribe.
    next_number: gives the connection number at each successful CONNACK.
    problems: sentences about what this connection was not granted as asked; it works, but a
    person should know. Only if every filter is refused, that is an MqttError.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        client_id: str,
        filters: Sequence[str],
        qos: int,
        max_bytes: int,
        next_number: Callable[[], int],
        *,
        retire: bool = False,
    ) -> None:
        self.state = State.IDLE
        self.connection = 0
        self.session_present = False
        self.problems: list[str] = []
        self.framer = Framer(
            max_bytes,
            version5=broker.protocol == "5",
            receive_maximum=broker.receive_maximum,
            maximum_packet_size=broker.maximum_packet_size,
            topic_alias_maximum=broker.topic_alias_maximum if broker.protocol == "5" else 0,
        )
        codec = codec5 if broker.protocol == "5" else codec311
        self._read: Callable[[memoryview], mqtt5.Packet] = codec.read
        self._write: Callable[[mqtt5.Packet], bytes] = codec.write
        self._broker = broker
        self._client_id = client_id
        self._filters = list(filters)
        self._qos = qos
        self._next_number = next_number
        self._retire = retire
        self._packets = np.zeros(65_536, np.uint8)  # by packet id, of this connection
        self._asked: dict[int, list[str]] = {}  # filters by packet id of unanswered (UN)SUBSCRIBEs
        self._refused = 0  # filters of this connection
        self._had_session = False  # at the broker, since the last connection
        self._largest: int | None = None  # packet that the broker accepts
        self._out = bytearray()
        self._keep_alive = float(broker.keep_alive)
        self._sent = 0.0  # when the last packet was sent
        self._heard = 0.0  # when the last byte was received (or reading went on)
        self._pinged: float | None = None  # when the unanswered PINGREQ was sent
        self._pings = self._pongs = 0  # PINGREQs sent, PINGRESPs heard
        self._reading = True
        self._asked_at = 0.0  # when SUBSCRIBE was sent, or something else than its answer came last

    def connect(self, now: float, *, clean: bool = False) -> None:
        """A new network connection is up: forget the last one, send CONNECT.

        clean: the broker throws away its session.
        """
        broker = self._broker
        if broker.protocol == "3.1.1" and not broker.session_expiry:
            clean = True  # what a session expiry of 0 means in that version
        secret = broker.password
        self.framer.reset()
        self.state = State.CONNECTING
        self.connection = 0
        self.problems = []
        self._packets.fill(_NEVER)
        self._asked = {}
        self._refused = 0
        self._largest = None
        self._out.clear()
        self._keep_alive = float(broker.keep_alive)
        self._heard = now
        self._pinged = None
        self._pings = self._pongs = 0
        self._reading = True
        self._send(
            mqtt5.ConnectPacket(
                self._client_id,
                username=broker.username,
                password=secret.get_secret_value().encode() if secret is not None else None,
                clean_start=clean,
                keep_alive=broker.keep_alive,
                session_expiry_interval=broker.session_expiry,
                receive_max=broker.receive_maximum,
                topic_alias_max=broker.topic_alias_maximum,
                max_packet_size=broker.maximum_packet_size,
            )
        )

    def received(self, nbytes: int, now: float) -> None:
        """`nbytes` were written to the start of `framer.space()`."""
        self.framer.received(nbytes)
        self._heard = now
        self._pinged = None  # any byte proves that the broker lives

    def advance(self) -> Event:
        """Go through the bytes received up to the next event. MqttError ends the connection."""
        while True:
            connecting = self.state is State.CONNECTING
            if connecting and self.framer.unframed and self.framer.next_byte not in _FROM_BROKERS:
                raise words.no_mqtt(self.framer.next_byte)
            stop = Stop.CONTROL if connecting else self.framer.scan()
            if stop is Stop.INCOMPLETE:
                return Event.NEED_DATA
            if stop is Stop.FULL:
                return Event.FLUSH
            if stop is Stop.BLOCKED:
                return Event.BLOCKED
            data = self.framer.control()
            if data is None:
                return Event.NEED_DATA
            event = self._control(self._read(data))
            if event is not None:
                return event

    def take(self, received_ns: int) -> FrameBatch:
        """The frames so far, see `Framer.take`.

        What a broker sends again on the same connection, as some do after a while without a PUBACK, has packet id
        0 here: its first copy is acknowledged. A second PUBACK could be taken for that of a later message which
        bears the packet id by then.
        """
        self._asked_at = self._heard
        frames = self.framer.take(self.connection, received_ns)
        ids, packets = frames.packet_id, self._packets
        if (frames.flags & FRAME_DUP).any() or (packets[ids] == _OPEN).any():
            self._take_again(frames)
        packets[ids] = _OPEN
        packets[0] = _NEVER  # QoS 0
        return frames

    def _take_again(self, frames: FrameBatch) -> None:
        ids, packets = frames.packet_id, self._packets
        for i in np.flatnonzero(ids).tolist():
            known = packets[ids[i]]
            if known == _OPEN or (known == _CLOSED and frames.flags[i] & FRAME_DUP):
                ids[i] = 0
                self.framer.unacknowledged -= 1
            else:
                packets[ids[i]] = _OPEN

    def acknowledge(self, packet_ids: U16, now: float) -> U8:
        """The PUBACKs of these packet ids, as bytes to send; opens the window again."""
        out = np.empty(4 * len(packet_ids), np.uint8)
        kernels.pubacks(packet_ids, out)
        self._packets[packet_ids] = _CLOSED
        self.framer.unacknowledged -= len(packet_ids)
        self._sent = now
        return out

    def publish(self, topic: str, payload: bytes) -> None:
        """A message at QoS 0, with what `outgoing` gives next; not if the broker would not take it."""
        data = self._write(mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_MOST_ONCE))
        if self._largest is None or len(data) <= self._largest:
            self._out += data

    def outgoing(self, now: float) -> bytes:
        """Control packets to send (each byte once)."""
        out = bytes(self._out)
        if out:
            self._out.clear()
            self._sent = now
        return out

    def disconnect(self, *, forget: bool = False, error: MqttError | None = None) -> None:
        """Say goodbye: normally (the broker keeps the session), `forget` it, or name our error."""
        if self.state in (State.IDLE, State.CONNECTING):
            return  # it is the broker that ended it, or that does not know us yet
        code = mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION
        if error is not None:
            code = _OUR_ERRORS.get(error.reason, mqtt5.DisconnectReasonCode.UNSPECIFIED_ERROR)
        expiry = 0 if forget else None
        self._send(mqtt5.DisconnectPacket(reason_code=code, session_expiry_interval=expiry))
        self.state = State.IDLE

    def lost(self, error: Exception | None) -> MqttError:
        """The network connection ended, not by us. error: what the system said, None: an orderly end."""
        before = {State.CONNECTING: "CONNECT", State.SUBSCRIBING: "SUBSCRIBE"}.get(self.state, "")
        if before == "SUBSCRIBE" and self._retire:
            before = "UNSUBSCRIBE"
        self.state = State.IDLE
        self.connection = 0
        broker = self._broker
        return words.lost_connection(
            error, before, version5=broker.protocol == "5", tls=broker.tls is not None
        )

    def reading(self, on: bool, now: float) -> None:
        """Reading was paused or goes on: without reading nobody hears an answer."""
        if on and not self._reading:
            self._heard = self._asked_at = now
            self._pinged = None
        self._reading = on

    def tick(self, now: float) -> float:
        """Keep the connection alive; returns when to call again. MqttError: the broker is silent.

        While reading is paused PINGREQ still goes out and no answer is expected.
        """
        if self.state is State.SUBSCRIBING and self._reading:
            answer_by = self._asked_at + SUBSCRIBE_WITHIN
            if now > answer_by:
                raise MqttError(
                    f"the broker did not answer SUBSCRIBE within {SUBSCRIBE_WITHIN:.0f} s",
                    reason="timeout",
                )
            return min(self._pinged_by(now), answer_by + 0.01)
        return self._pinged_by(now)

    def _pinged_by(self, now: float) -> float:
        """When a PINGREQ, or its answer, is due next; sends it where that is now."""
        period = self._keep_alive
        if self.state in (State.IDLE, State.CONNECTING) or not period:
            return now + PING_AFTER * self._broker.keep_alive
        if self._pinged is None:
            ping_at = min(self._sent, self._heard) + PING_AFTER * period
        else:
            ping_at = self._sent + PING_AFTER * period
            answer_by = self._pinged + ANSWER_WITHIN * period
            if self._reading and now < answer_by:
                return min(ping_at, answer_by)
            if self._reading:
                raise MqttError(
                    f"the broker did not answer a PINGREQ within {ANSWER_WITHIN * period:.1f} s",
                    reason="keep_alive_timeout",
                )
        if now < ping_at:
            return ping_at
        self.ping(now)
        return now + ANSWER_WITHIN * period

    def ping(self, now: float) -> int:
        """Send a PINGREQ, with what `outgoing` gives next; its number, for `answered`."""
        self._send(mqtt5.PingReqPacket())
        self._pinged = self._sent = now
        self._pings += 1
        return self._pings

    def answered(self, ping: int) -> bool:
        """Has the broker answered that PINGREQ? What it sent before its answer was gone through."""
        return self._pongs >= ping

    def _control(self, packet: mqtt5.Packet) -> Event | None:
        if self.state is State.CONNECTING:
            if not isinstance(packet, mqtt5.ConnAckPacket):
                raise _unexpected(packet)
            self._accept(packet)
            return Event.ACCEPTED
        match packet:
            case mqtt5.SubAckPacket() if packet.packet_id in self._asked:
                self._subscribed(packet)
            case mqtt5.UnsubAckPacket() if packet.packet_id in self._asked:
                del self._asked[packet.packet_id]
            case mqtt5.PingRespPacket():
                self._pongs += 1
            case mqtt5.DisconnectPacket():
                self.state = State.IDLE
                raise words.goodbye(packet.reason_code, packet.reason_str, packet.server_reference)
            case _:
                raise _unexpected(packet)
        if self.state is State.SUBSCRIBING and not self._asked:
            self.state = State.ACTIVE
            return Event.READY
        return None

    def _accept(self, packet: mqtt5.ConnAckPacket) -> None:
        if packet.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            raise words.refusal(packet.reason_code, packet.reason_str, packet.server_reference)
        if packet.server_keep_alive is not None:
            self._keep_alive = float(packet.server_keep_alive)
        expiry = packet.session_expiry_interval
        if expiry is not None and expiry < self._broker.session_expiry:
            self.problems.append(
                f"the broker keeps the session for {expiry} s only "
                f"(session_expiry is {self._broker.session_expiry} s)"
            )
        self._largest = packet.max_packet_size
        if not self._retire:
            self._check_features(packet)
        self.session_present = packet.session_present
        if self._had_session and not packet.session_present:
            self.problems.append(
                "the broker has forgotten the session: what it had for it, and what was published meanwhile, "
                "it will not send; let it keep sessions over its restarts (Mosquitto: persistence)"
            )
        self._had_session = self._broker.session_expiry > 0
        self._asked_at = self._heard
        self.connection = self._next_number()
        self.state = State.SUBSCRIBING
        for packet_id, start in enumerate(range(0, len(self._filters), FILTERS_PER_PACKET), 1):
            patterns = self._filters[start : start + FILTERS_PER_PACKET]
            self._asked[packet_id] = patterns
            if self._retire:
                self._send(mqtt5.UnsubscribePacket(packet_id, patterns))
            else:
                wanted = [
                    mqtt5.TopicFilter(
                        pattern,
                        max_qos=mqtt5.QoS(self._qos),
                        retain_as_published=True,
                        retain_handling=mqtt5.RetainHandling.SEND_NEVER,
                    )
                    for pattern in patterns
                ]
                self._send(mqtt5.SubscribePacket(packet_id, wanted))

    def _check_features(self, packet: mqtt5.ConnAckPacket) -> None:
        """A SUBSCRIBE for what the broker does not have would be a protocol error."""
        if not packet.shared_subscription_available and any(
            pattern.startswith("$share/") for pattern in self._filters
        ):
            raise MqttError(
                "the broker has no shared subscriptions; set mqtt.layout to sites",
                reason="shared_subscriptions_not_supported",
                retryable=False,
            )
        if not packet.wildcard_subscription_available and any(
            "+" in pattern or "#" in pattern for pattern in self._filters
        ):
            raise MqttError(
                "the broker has no wildcard subscriptions, which the topic filters need",
                reason="wildcard_subscriptions_not_supported",
                retryable=False,
            )

    def _subscribed(self, packet: mqtt5.SubAckPacket) -> None:
        patterns = self._asked.pop(packet.packet_id)
        if len(patterns) != len(packet.reason_codes):
            raise _unexpected(packet)
        for pattern, code in zip(patterns, packet.reason_codes, strict=True):
            if code.value >= 0x80:
                self._refused += 1
                why = words.subscription_refusal(code)
                self.problems.append(f"the broker refused to subscribe {pattern}: {why}")
            elif code.value < self._qos:
                self.problems.append(
                    f"the broker granted QoS {code.value} for {pattern}, not {self._qos}: "
                    "messages can be lost"
                )
        if self._refused == len(self._filters):
            raise MqttError(self.problems[-1], reason="subscription_refused")

    def _send(self, packet: mqtt5.Packet) -> None:
        data = self._write(packet)
        if self._largest is not None and len(data) > self._largest:
            raise MqttError(
                f"a packet of {len(data)} bytes is larger than the broker's maximum packet size "
                f"of {self._largest}",
                reason="packet_too_large",
                retryable=False,
            )
        self._out += data


_NEVER, _OPEN, _CLOSED = range(3)
"""A packet id was not seen on this connection, is to be acknowledged, was acknowledged."""

_FROM_BROKERS = frozenset(
    (0x20, *range(0x30, 0x40), 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0, 0xE0, 0xF0)
)
"""First bytes of the packets that a broker may send at all."""

_OUR_ERRORS = {
    "packet_too_large": mqtt5.DisconnectReasonCode.PACKET_TOO_LARGE,
    "malformed_packet": mqtt5.DisconnectReasonCode.MALFORMED_PACKET,
    "protocol_error": mqtt5.DisconnectReasonCode.PROTOCOL_ERROR,
    "topic_alias_invalid": mqtt5.DisconnectReasonCode.TOPIC_ALIAS_INVALID,
    "keep_alive_timeout": mqtt5.DisconnectReasonCode.KEEP_ALIVE_TIMEOUT,
}


def _unexpected(packet: mqtt5.Packet) -> MqttError:
    name = type(packet).__name__.removesuffix("Packet").upper()
    return MqttError(f"the broker sent an unexpected {name}", reason="protocol_error")
