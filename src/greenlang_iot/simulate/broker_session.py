"""One client's session in the embedded broker: what it is owed, in order. No I/O, no clock.

A QoS 1 message is never dropped: it is in flight (sent, not acknowledged) or queued. When more
than `max_queued_bytes` are queued, the session is *full* and the broker withholds PUBACKs from
those who publish to it, until it is not.
"""

from collections import deque
from dataclasses import asdict, dataclass
from struct import Struct
from typing import Protocol

from mqtt5 import DisconnectReasonCode, PublishPacket, Will

RETAIN = 0x01
QOS_BITS = 0x06
DUP = 0x08
_PUBLISH = 0x30
_OVERHEAD = 200
"""Bytes that a queued message costs beyond its own."""

PACKET_IDS = tuple(i.to_bytes(2, "big") for i in range(65_536))
_LENGTH = Struct(">H")


@dataclass(slots=True)
class BrokerCounters:
    """What the broker did since its start, in messages."""

    received: int = 0  # PUBLISH packets from clients, wills included
    unrouted: int = 0  # received, and nobody had subscribed
    delivered: int = 0  # first copies sent to subscribers
    redelivered: int = 0  # copies sent again after a reconnect
    acked: int = 0  # PUBACKs from subscribers
    withheld: int = 0  # PUBACKs to publishers that had to wait for a full session
    dropped_qos0: int = 0  # QoS 0 to a subscriber whose socket was full
    dropped_too_large: int = 0  # over the subscriber's maximum packet size
    discarded: int = 0  # QoS 1 messages that an ending session was still owed
    connects: int = 0
    refused: int = 0
    taken_over: int = 0
    not_retained: int = 0  # delivered, but the store of retained messages was full

    @property
    def dropped(self) -> int:
        """Messages that a subscriber should have had and never will."""
        return self.dropped_qos0 + self.dropped_too_large + self.discarded

    def as_dict(self) -> dict[str, int]:
        return {**asdict(self), "dropped": self.dropped}


class Message:
    """One PUBLISH as bytes: `head` (fixed header and topic), a packet id if QoS 1, `tail`."""

    __slots__ = ("first", "head", "size", "tail", "topic")

    def __init__(self, topic: bytes, first: int, head: bytes, tail: bytes) -> None:
        self.topic = topic
        self.first = first  # first byte of `head`
        self.head = head
        self.tail = tail  # properties (never a topic alias) and payload
        self.size = len(head) + len(tail) + _OVERHEAD

    @classmethod
    def of(cls, source: PublishPacket | Will, topic: str) -> "Message":
        """What a PUBLISH or a will publishes, with its properties but without a topic alias."""
        packet = PublishPacket(
            topic,
            source.payload or b"",
            qos=source.qos,
            retain=source.retain,
            packet_id=1 if int(source.qos) else None,
            payload_format_indicator=source.payload_format_indicator,
            message_expiry_interval=source.message_expiry_interval,
            content_type=source.content_type,
            response_topic=source.response_topic,
            correlation_data=source.correlation_data,
            user_properties=source.user_properties,
        ).write()
        start = 2
        while packet[start - 1] & 0x80:
            start += 1
        end = start + 2 + _LENGTH.unpack_from(packet, start)[0]
        tail = packet[end + 2 :] if packet[0] & QOS_BITS else packet[end:]
        return cls(packet[start + 2 : end], packet[0], packet[:end], tail)

    def head_for(self, first: int) -> bytes:
        """Fixed header and topic, with another QoS, retain or DUP flag."""
        if first == self.first:
            return self.head
        remaining = 2 + len(self.topic) + len(self.tail) + (2 if first & QOS_BITS else 0)
        header = bytearray((first,))
        while remaining > 0x7F:
            header.append(remaining & 0x7F | 0x80)
            remaining >>= 7
        header.append(remaining)
        return bytes(header) + _LENGTH.pack(len(self.topic)) + self.topic

    @property
    def empty(self) -> bool:
        """True if the payload is empty: as a retained message it deletes the topic's."""
        # Properties are preceded by their length; the payload is what follows them.
        length, shift, i = 0, 0, 0
        while True:
            byte = self.tail[i]
            length |= (byte & 0x7F) << shift
            i, shift = i + 1, shift + 7
            if not byte & 0x80:
                return len(self.tail) == i + length


class Outlet(Protocol):
    """The connection, as sessions and the router see it."""

    writable: bool
    session: "Session | None"

    def send(self, *parts: bytes) -> None:
        """Write parts of packets, in order, at the end of this loop iteration."""

    def release(self, session: "Session") -> None:
        """The session that withheld this publisher's PUBACKs is no longer full."""

    def disconnect(self, reason: DisconnectReasonCode, words: str) -> None:
        """Tell the client why and close."""

    def close(self) -> None:
        """Write what was collected, then close."""


class Session:
    """State that outlives the connection; `connection` is None while the client is away."""

    def __init__(self, client_id: str, counters: BrokerCounters, max_queued_bytes: int) -> None:
        self.client_id = client_id
        self.connection: Outlet | None = None
        self.expiry = 0  # seconds; 0xFFFFFFFF = never
        self.will: Will | None = None
        self.subscriptions: set[str] = set()
        self.holding: set[Outlet] = set()  # publishers whose PUBACKs wait for this session
        self._counters = counters
        self._bound = max_queued_bytes
        self._quota = 0
        self._max_packet = 0
        self._next_id = 0
        self._inflight: dict[int, tuple[Message, int]] = {}  # packet id → message, first byte
        # packet id (0 = not sent yet), message, first byte; those sent before come first
        self._queue: deque[tuple[int, Message, int]] = deque()
        self._queued_bytes = 0

    @property
    def full(self) -> bool:
        return self._queued_bytes > self._bound

    @property
    def owed(self) -> int:
        """QoS 1 messages not acknowledged by this client yet."""
        return len(self._inflight) + len(self._queue)

    def attach(self, connection: Outlet, receive_maximum: int, max_packet: int) -> None:
        """The client is back under `connection`; call `pump` once the CONNACK is sent."""
        self.connection = connection
        self._quota = receive_maximum
        self._max_packet = max_packet

    def detach(self) -> None:
        """The client is away: what is in flight will be sent again, in order, with DUP."""
        self.connection = None
        for packet_id, (message, first) in reversed(self._inflight.items()):
            self._queue.appendleft((packet_id, message, first | DUP))
            self._queued_bytes += message.size
        self._inflight.clear()

    def end(self) -> None:
        """The session is over; what it was still owed is discarded and counted."""
        self._counters.discarded += self.owed
        self._inflight.clear()
        self._queue.clear()
        self._queued_bytes = 0
        self._release()

    def offer(self, message: Message, qos: int, retain: bool) -> bool:
        """Send or queue; True if the session is full now (withhold the publisher's PUBACK)."""
        first = _PUBLISH | qos << 1 | retain
        connection = self.connection
        if not qos:
            if connection is not None:
                self._send_qos0(connection, message, first)
            return False
        if (
            connection is not None
            and not self._queue
            and connection.writable
            and len(self._inflight) < self._quota
        ):
            self._send(connection, 0, message, first)
            return False
        self._queue.append((0, message, first))
        self._queued_bytes += message.size
        return self._queued_bytes > self._bound

    def acknowledge(self, packet_id: int) -> None:
        """The client's PUBACK; call `pump` when no more of them are at hand."""
        if self._inflight.pop(packet_id, None) is not None:
            self._counters.acked += 1

    def pump(self) -> None:
        """Send from the queue as far as socket and send quota allow."""
        queue, connection = self._queue, self.connection
        if connection is None:
            return
        while queue and connection.writable and len(self._inflight) < self._quota:
            packet_id, message, first = queue.popleft()
            self._queued_bytes -= message.size
            self._send(connection, packet_id, message, first)
        if self.holding and not self.full:
            self._release()

    def _send(self, connection: Outlet, packet_id: int, message: Message, first: int) -> None:
        if len(message.head) + len(message.tail) + 2 > self._max_packet:
            self._counters.dropped_too_large += 1
            return
        if packet_id:
            self._counters.redelivered += 1
        else:
            self._counters.delivered += 1
            packet_id = self._free_id()
        self._inflight[packet_id] = (message, first)
        connection.send(message.head_for(first), PACKET_IDS[packet_id], message.tail)

    def _send_qos0(self, connection: Outlet, message: Message, first: int) -> None:
        if len(message.head) + len(message.tail) > self._max_packet:
            self._counters.dropped_too_large += 1
        elif connection.writable:
            self._counters.delivered += 1
            connection.send(message.head_for(first), message.tail)
        else:
            self._counters.dropped_qos0 += 1

    def _free_id(self) -> int:
        """The next packet id that is not in flight; at most 65,535 are, so there is one.

        Ids of the queue need no look: messages that have one stand first in it, so a message gets
        a new id only when all those are in flight.
        """
        packet_id = self._next_id
        while True:
            packet_id = packet_id % 65_535 + 1
            if packet_id not in self._inflight:
                self._next_id = packet_id
                return packet_id

    def _release(self) -> None:
        held, self.holding = self.holding, set()
        for publisher in held:
            publisher.release(self)
