"""One client's socket at the embedded broker: bytes in, packets to the router, bytes out.

PUBLISH and PUBACK, which are nearly all packets, are cut from the received bytes by hand; all
others go through the `mqtt5` codec. What is sent is collected and written once per loop iteration,
so that one TLS record holds many packets.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

import mqtt5

from greenlang_iot.mqtt import codec5
from greenlang_iot.simulate.broker_router import ProtocolError, Reason, Router
from greenlang_iot.simulate.broker_session import PACKET_IDS, QOS_BITS, Message, Session

_WRITE_AT: Final = 262_144
"""Bytes collected that are written at once, so that the transport can say when it is full."""

_V311_REFUSED: Final = b"\x20\x02\x00\x01"  # CONNACK 3.1.1: unacceptable protocol version
_PUBACK: Final = b"\x40\x02"
_PINGRESP: Final = b"\xd0\x00"


class Connections:
    """The open connections of one broker."""

    def __init__(self) -> None:
        self.open: set[Connection] = set()
        self.none_left = asyncio.Event()
        self.none_left.set()
        self._flushing: list[Connection] = []

    def opened(self, connection: "Connection") -> None:
        """A socket was accepted."""
        self.open.add(connection)
        self.none_left.clear()

    def closed(self, connection: "Connection") -> None:
        """The socket is gone."""
        self.open.discard(connection)
        if not self.open:
            self.none_left.set()

    def to_flush(self, connection: "Connection") -> None:
        """`connection` has something to write at the end of this loop iteration."""
        if not self._flushing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._flushing.append(connection)

    def _flush(self) -> None:
        flushing, self._flushing = self._flushing, []
        for connection in flushing:
            if not connection.closing:
                connection.flush()


class Connection(asyncio.Protocol):
    """See the module. The router sets `session` when it accepts the CONNECT. now: seconds."""

    def __init__(self, router: Router, connections: Connections, now: Callable[[], float]) -> None:
        self.writable = True
        self.session: Session | None = None
        self.keep_alive = 0
        self.last_seen = now()
        self._router = router
        self._connections = connections
        self._now = now
        self.closing = False
        self._transport: asyncio.Transport
        self._rest = b""
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._aliases: dict[int, str] = {}
        self._holders: set[Session] = set()  # full sessions that keep our PUBACKs back
        self._held: list[int] = []  # packet ids of those PUBACKs, in receive order

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's TLS transport is not a subclass of asyncio.Transport, only looks like one
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1_048_576)
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        for session in self._holders:
            session.holding.discard(self)
        self._router.left(self)
        self._connections.closed(self)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.session is not None:
            self.session.pump()

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self.last_seen = self._now()
        if self._rest:
            data = self._rest + data
        try:
            self._rest = data[self._parse(data) :]
        except ProtocolError as error:
            self.disconnect(error.reason, str(error))

    # packets in

    def _parse(self, data: bytes) -> int:
        """Handle all whole packets of `data`; returns where the first incomplete one begins."""
        at, end = 0, len(data)
        acknowledged = False
        while end - at >= 2 and not self.closing:
            length = data[at + 1]
            body = at + 2
            if length & 0x80:
                length, body = variable_length(data, at + 1)
                if not body:
                    break
            stop = body + length
            if stop - at > self._router.options.max_packet_size:
                raise ProtocolError(Reason.PACKET_TOO_LARGE, f"a packet of {stop - at} bytes")
            if stop > end:
                break
            kind = data[at] & 0xF0
            if self.session is None:
                self._on_first(data[at:stop])
            elif kind == 0x30:
                self._on_publish(data, at, body, stop)
            elif kind == 0x40:
                if length < 2:
                    raise ProtocolError(Reason.MALFORMED_PACKET, "a truncated PUBACK")
                # reason code and properties of a PUBACK change nothing for us
                self.session.acknowledge(data[body] << 8 | data[body + 1])
                acknowledged = True
            else:
                self._on_other(_read(data[at:stop]))
            at = stop
        if acknowledged and self.session is not None:
            self.session.pump()
        return at

    def _on_first(self, packet: bytes) -> None:
        if packet[0] == 0x10 and packet[2:9] in (b"\x00\x04MQTT\x04", b"\x00\x06MQIsd"):
            self._router.counters.refused += 1
            self.send(_V311_REFUSED)
            self.close()
            return
        connect = _read(packet)
        if not isinstance(connect, mqtt5.ConnectPacket):
            raise ProtocolError(Reason.PROTOCOL_ERROR, "the first packet must be CONNECT")
        self.keep_alive = connect.keep_alive
        self._router.connect(self, connect)

    def _on_publish(self, data: bytes, at: int, body: int, stop: int) -> None:
        first = data[at]
        topic = body + 2
        props = topic + (data[body] << 8 | data[body + 1])
        packet_id = 0
        if first & QOS_BITS:
            if first & 0x04:
                raise ProtocolError(Reason.QOS_NOT_SUPPORTED, "QoS 2 is not supported")
            if props + 3 > stop:
                raise ProtocolError(Reason.MALFORMED_PACKET, "a truncated PUBLISH")
            packet_id = data[props] << 8 | data[props + 1]
            if not packet_id:
                raise ProtocolError(Reason.MALFORMED_PACKET, "packet id 0")
            message_end, props = props, props + 2
        else:
            message_end = props
        if props >= stop:
            raise ProtocolError(Reason.MALFORMED_PACKET, "a truncated PUBLISH")
        if data[props]:  # properties: a topic alias must not be passed on
            message = self._with_properties(data[at:stop])
        else:
            message = Message(
                data[topic:message_end], first, data[at:message_end], data[props:stop]
            )
        try:
            full = self._router.publish(message, self.session)
        except ValueError as error:
            raise ProtocolError(Reason.TOPIC_NAME_INVALID, str(error)) from error
        if full:
            self._withhold(full)
        if packet_id:
            if self._holders:
                self._hold(packet_id)
            else:
                self.send(_PUBACK, PACKET_IDS[packet_id])

    def _with_properties(self, packet: bytes) -> Message:
        """The message of a PUBLISH with properties; its topic alias is resolved and taken out."""
        publish = _read(packet)
        assert isinstance(publish, mqtt5.PublishPacket)
        if publish.subscription_ids:
            raise ProtocolError(Reason.PROTOCOL_ERROR, "a client sends no subscription identifier")
        topic = publish.topic
        if publish.topic_alias is not None:
            if not 0 < publish.topic_alias <= self._router.options.topic_alias_maximum:
                raise ProtocolError(Reason.TOPIC_ALIAS_INVALID, f"alias {publish.topic_alias}")
            if topic:
                self._aliases[publish.topic_alias] = topic
            elif publish.topic_alias in self._aliases:
                topic = self._aliases[publish.topic_alias]
            else:
                raise ProtocolError(Reason.PROTOCOL_ERROR, "a topic alias never set")
        return Message.of(publish, topic)

    def _on_other(self, packet: mqtt5.Packet) -> None:
        assert self.session is not None
        if isinstance(packet, mqtt5.PingReqPacket):
            self.send(_PINGRESP)
        elif isinstance(packet, mqtt5.SubscribePacket):
            self._router.subscribe(self, self.session, packet)
        elif isinstance(packet, mqtt5.UnsubscribePacket):
            self.send(self._router.unsubscribe(self.session, packet).write())
        elif isinstance(packet, mqtt5.DisconnectPacket):
            if packet.session_expiry_interval is not None:
                if packet.session_expiry_interval and not self.session.expiry:
                    raise ProtocolError(Reason.PROTOCOL_ERROR, "the session was to end at once")
                self.session.expiry = packet.session_expiry_interval
            if packet.reason_code != Reason.DISCONNECT_WITH_WILL_MESSAGE:
                self.session.will = None
            self.close()
        else:
            raise ProtocolError(Reason.PROTOCOL_ERROR, f"{type(packet).__name__} not expected here")

    # back pressure towards this client as a publisher

    def _withhold(self, full: list[Session]) -> None:
        self._holders.update(full)
        for session in full:
            session.holding.add(self)

    def _hold(self, packet_id: int) -> None:
        self._held.append(packet_id)
        self._router.counters.withheld += 1
        if len(self._held) > self._router.options.receive_maximum:
            raise ProtocolError(Reason.RECEIVE_MAX_EXCEEDED, "more than the receive maximum")

    def release(self, session: Session) -> None:
        """`session` is no longer full: send what was withheld, unless another one still is."""
        self._holders.discard(session)
        if not self._holders:
            for packet_id in self._held:
                self.send(_PUBACK, PACKET_IDS[packet_id])
            self._held.clear()

    # bytes out

    def send(self, *parts: bytes) -> None:
        """Write parts of packets, in order, at the end of this loop iteration."""
        if not self._out:
            self._connections.to_flush(self)
        self._out += parts
        self._out_bytes += sum(map(len, parts))
        if self._out_bytes > _WRITE_AT:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if self._out:
            self._transport.write(b"".join(self._out))
            self._out.clear()
            self._out_bytes = 0

    def disconnect(self, reason: mqtt5.DisconnectReasonCode, words: str) -> None:
        """Tell the client why (if it got as far as a session) and close."""
        if self.session is not None:
            self.send(mqtt5.DisconnectPacket(reason_code=reason, reason_str=words).write())
        self.close()

    def close(self) -> None:
        """Write what was collected, then close; no more packets are handled."""
        if not self.closing:
            self.closing = True
            self.flush()
            for session in self._holders:
                session.holding.discard(self)
            self._router.left(self)
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection, without writing what is left."""
        self._out.clear()
        self._transport.abort()


def variable_length(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends) of the variable byte integer at `at`; (0, 0) while it is incomplete."""
    value = 0
    for i in range(4):
        if at + i >= len(data):
            return 0, 0
        value |= (data[at + i] & 0x7F) << 7 * i
        if not data[at + i] & 0x80:
            return value, at + i + 1
    raise ProtocolError(Reason.MALFORMED_PACKET, "a remaining length of more than four bytes")


def _read(packet: bytes) -> mqtt5.Packet:
    try:
        return codec5.parse(memoryview(packet))[0]
    except (ValueError, IndexError) as error:
        raise ProtocolError(Reason.MALFORMED_PACKET, str(error)) from error
