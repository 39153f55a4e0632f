"""Who gets what at the embedded broker: sessions, subscriptions, retained messages, wills. No socket.

It never drops a QoS 1 message: where a session's queue is full, `publish` names it, and the connection
withholds PUBACKs from the publishers.
"""

import asyncio
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

import mqtt5

from greenlang_iot.simulate.broker_session import (
    QOS_BITS,
    RETAIN,
    BrokerCounters,
    Message,
    Outlet,
    Session,
)
from greenlang_iot.simulate.broker_topics import (
    Options,
    Subscriptions,
    matches,
    split_share,
    valid_topic,
)

_NEVER = 0xFFFFFFFF
_NONE: list[Session] = []

Reason = mqtt5.DisconnectReasonCode


@dataclass(slots=True, frozen=True)
class BrokerOptions:
    """Bounds and access of a broker."""

    receive_maximum: int = 65_535  # unacknowledged messages a publisher may have
    max_packet_size: int = 1_048_576  # bytes
    topic_alias_maximum: int = 1_024  # of publishers
    max_queued_bytes: int = 268_435_456  # per session; beyond it PUBACKs are withheld
    max_retained: int = 100_000  # topics
    max_sessions: int = 100_000
    connect_timeout: float = 10.0  # seconds from TCP connect to CONNECT
    users: Mapping[str, str] = field(default_factory=dict)  # empty: everybody may connect


class ProtocolError(Exception):
    """The client broke the protocol; it is told why and disconnected."""

    def __init__(self, reason: mqtt5.DisconnectReasonCode, words: str) -> None:
        super().__init__(words)
        self.reason = reason


class Router:
    """The sessions of a broker and what is published to them. Runs in an event loop, for its timers."""

    def __init__(self, options: BrokerOptions) -> None:
        self.options = options
        self.counters = BrokerCounters()
        self._sessions: dict[str, Session] = {}
        self._subscriptions: Subscriptions[Session] = Subscriptions()
        self._retained: dict[bytes, Message] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}  # client id → end of its session
        self._wills: dict[str, asyncio.TimerHandle] = {}  # client id → delayed will

    def close(self) -> None:
        """No will is sent and no session ends any more."""
        for timer in (*self._ends.values(), *self._wills.values()):
            timer.cancel()

    # clients

    def connect(self, connection: Outlet, packet: mqtt5.ConnectPacket) -> None:
        """Answer a CONNECT: refuse it, or give the connection its session."""
        refusal = self._refusal(packet)
        if refusal is not None:
            self.counters.refused += 1
            code, words = refusal
            connection.send(mqtt5.ConnAckPacket(reason_code=code, reason_str=words).write())
            connection.close()
            return
        client_id = packet.client_id or f"auto-{secrets.token_hex(8)}"
        session = self._sessions.get(client_id)
        if session is not None and session.connection is not None:
            self.counters.taken_over += 1
            session.connection.disconnect(Reason.SESSION_TAKEN_OVER, "the client id connected anew")
            session = self._sessions.get(client_id)  # it may have ended with that connection
        if session is not None and packet.clean_start:
            self._end(session)
            session = None
        present = session is not None
        if session is None:
            session = Session(client_id, self.counters, self.options.max_queued_bytes)
            self._sessions[client_id] = session
        self._cancel_timers(client_id)
        session.will = packet.will
        session.expiry = packet.session_expiry_interval
        session.attach(connection, packet.receive_max, packet.max_packet_size or _NEVER)
        connection.session = session
        self.counters.connects += 1
        connection.send(
            mqtt5.ConnAckPacket(
                session_present=present,
                assigned_client_id=None if packet.client_id else client_id,
                receive_max=self.options.receive_maximum,
                topic_alias_max=self.options.topic_alias_maximum,
                max_packet_size=self.options.max_packet_size,
                max_qos=mqtt5.QoS.AT_LEAST_ONCE,
                subscription_id_available=False,
            ).write()
        )
        session.pump()

    def _refusal(self, packet: mqtt5.ConnectPacket) -> tuple[mqtt5.ConnAckReasonCode, str] | None:
        """Why this CONNECT is refused, or None."""
        code = mqtt5.ConnAckReasonCode
        users = self.options.users
        if users:
            expected = users.get(packet.username or "", "")
            given = packet.password or b""
            if not hmac.compare_digest(given, expected.encode()) or packet.username not in users:
                return code.BAD_USER_NAME_OR_PASSWORD, "user name or password is wrong"
        if packet.authentication_method is not None:
            return code.BAD_AUTHENTICATION_METHOD, "no authentication method is supported"
        if packet.will is not None:
            if packet.will.qos == mqtt5.QoS.EXACTLY_ONCE:
                return code.QUALITY_NOT_SUPPORTED, "QoS 2 is not supported"
            try:
                valid_topic(packet.will.topic.encode())
            except ValueError as error:
                return code.TOPIC_NAME_INVALID, str(error)
        if len(self._sessions) >= self.options.max_sessions:
            return code.QUOTA_EXCEEDED, "too many sessions"
        return None

    def left(self, connection: Outlet) -> None:
        """The client is away: its will, and the end of its session, now or later; idempotent."""
        session, connection.session = connection.session, None
        if session is None:
            return
        session.detach()
        if not session.expiry:
            self._end(session)
            return
        loop = asyncio.get_running_loop()
        if session.will is not None:
            delay = min(session.will.will_delay_interval, session.expiry)
            if delay:
                self._wills[session.client_id] = loop.call_later(delay, self._send_will, session)
            else:
                self._send_will(session)
        if session.expiry != _NEVER:
            self._ends[session.client_id] = loop.call_later(session.expiry, self._end, session)

    def _end(self, session: Session) -> None:
        """The session is over: its will, its subscriptions, what it was owed."""
        self._cancel_timers(session.client_id)
        self._send_will(session)
        for pattern in session.subscriptions:
            self._subscriptions.remove(pattern, session)
        session.end()
        del self._sessions[session.client_id]

    def _cancel_timers(self, client_id: str) -> None:
        for timers in (self._ends, self._wills):
            timer = timers.pop(client_id, None)
            if timer is not None:
                timer.cancel()

    def _send_will(self, session: Session) -> None:
        will, session.will = session.will, None
        if will is not None:
            self.publish(Message.of(will, will.topic), session)

    # messages

    def publish(self, message: Message, sender: Session | None) -> list[Session]:
        """Hand a message to everybody who subscribed; returns the sessions that are full now.

        Raises ValueError where the topic name is invalid.
        """
        self.counters.received += 1
        route = self._subscriptions.route(message.topic)
        first = message.first
        if first & RETAIN:
            self._retain(message)
        if not route.sessions and not route.groups:
            self.counters.unrouted += 1
            return _NONE
        targets = route.sessions
        if route.groups:
            targets = targets + [group.pick(_is_connected) for group in route.groups]
        full = _NONE
        for session, options in targets:
            if options.no_local and session is sender:
                continue
            qos = 1 if options.qos and first & QOS_BITS else 0
            if session.offer(message, qos, bool(options.retain_as_published and first & RETAIN)):
                full = [*full, session]
        return full

    def _retain(self, message: Message) -> None:
        if message.empty:
            self._retained.pop(message.topic, None)
        elif message.topic in self._retained or len(self._retained) < self.options.max_retained:
            self._retained[message.topic] = message
        else:
            self.counters.not_retained += 1

    def subscribe(
        self, connection: Outlet, session: Session, packet: mqtt5.SubscribePacket
    ) -> None:
        """Take the subscriptions over, answer, then send the retained messages they ask for."""
        if packet.subscription_id is not None:
            raise ProtocolError(
                Reason.SUBSCRIPTION_IDS_NOT_SUPPORTED, "subscription identifiers are not supported"
            )
        codes: list[mqtt5.SubAckReasonCode] = []
        wanted: list[tuple[str, int]] = []
        for topic_filter in packet.topic_filters:
            pattern = topic_filter.pattern
            try:
                group, _ = split_share(pattern)
            except ValueError:
                codes.append(mqtt5.SubAckReasonCode.TOPIC_FILTER_INVALID)
                continue
            if group is not None and topic_filter.no_local:
                raise ProtocolError(Reason.PROTOCOL_ERROR, "no local on a shared subscription")
            qos = min(1, int(topic_filter.max_qos))
            options = Options(qos, topic_filter.no_local, topic_filter.retain_as_published)
            new = self._subscriptions.add(pattern, session, options)
            session.subscriptions.add(pattern)
            codes.append(mqtt5.SubAckReasonCode(qos))
            handling = topic_filter.retain_handling
            always = handling == mqtt5.RetainHandling.SEND_ALWAYS
            if group is None and (always or (new and handling != mqtt5.RetainHandling.SEND_NEVER)):
                wanted.append((pattern, qos))
        connection.send(mqtt5.SubAckPacket(packet.packet_id, codes).write())
        for pattern, qos in wanted:
            for topic, message in self._retained.items():
                if matches(pattern, topic.decode()):
                    session.offer(message, qos if message.first & QOS_BITS else 0, True)

    def unsubscribe(
        self, session: Session, packet: mqtt5.UnsubscribePacket
    ) -> mqtt5.UnsubAckPacket:
        """Take the subscriptions back; the answer says which of them existed."""
        codes: list[mqtt5.UnsubAckReasonCode] = []
        for pattern in packet.patterns:
            if pattern in session.subscriptions:
                session.subscriptions.discard(pattern)
                self._subscriptions.remove(pattern, session)
                codes.append(mqtt5.UnsubAckReasonCode.SUCCESS)
            else:
                codes.append(mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED)
        return mqtt5.UnsubAckPacket(packet.packet_id, codes)


def _is_connected(session: Session) -> bool:
    return session.connection is not None
