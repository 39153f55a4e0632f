"""Publishes messages to any MQTT 5 broker at their pace, and tells which ones the broker has.

Packets come from the sans-IO mqtt5 codec on plain asyncio protocols: one object per connection, one
write per batch. A device keeps to one connection, so its messages stay in order. At QoS 1 a message
counts when its PUBACK has come; after a lost connection what is unacknowledged is sent again.
"""

import asyncio
import random
import ssl
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mqtt5

from greenlang_iot.model.errors import MqttError
from greenlang_iot.mqtt import codec5
from greenlang_iot.mqtt.words import no_connection
from greenlang_iot.simulate.manifest import Message

BATCH = 64
"""Messages between two looks at the clock and the stop signal."""
TICK = 0.01
"""Seconds of messages that are sent together: few wake-ups, little delay."""
_CONNECT_TIMEOUT = 10.0
_RETRY_FIRST, _RETRY_MAX = 0.1, 2.0
_KEEP_ALIVE = 60
_EXPIRY = 300
_WINDOW = 2_000
"""Most messages unacknowledged per connection; the broker's receive maximum may be lower."""


@dataclass(slots=True, frozen=True)
class Target:
    """A broker, and how to log in. tls: None = plain TCP."""

    host: str = "127.0.0.1"
    port: int = 8883
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = None
    client_id: str = "greenlang-iot-simulator"


@dataclass(slots=True)
class Progress:
    """sent, acknowledged: messages. refused: the broker said no. unheard: nobody had subscribed.

    lag: seconds that sending is behind the messages' own pace.
    """

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    unheard: int = 0
    reconnects: int = 0
    lag: float = 0.0


Record = Callable[[Message, bool], None]
"""Called once per message that left: (message, whether the broker has it and a subscriber for it)."""


class Publisher:
    """`await run(messages)`; `stop()` ends it early. One instance per run."""

    def __init__(
        self,
        target: Target,
        record: Record,
        *,
        qos: int = 1,
        connections: int = 2,
        drain_timeout: float = 10.0,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """record: usually `Manifest.add`. on_progress is called once a second."""
        self.progress = Progress()
        self._record = record
        self._qos = qos
        self._drain_timeout = drain_timeout
        self._on_progress = on_progress
        self._links = [_Link(self, target, i) for i in range(connections)]
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Send nothing more; `run` drains and returns."""
        self._stopping.set()

    async def run(self, messages: Iterable[Message]) -> Progress:
        """Publish at the messages' own pace (`when`) and wait for the last acknowledgements.

        Raises MqttError if a broker cannot be reached at first or refuses the login; later
        failures are retried. Returns when everything is acknowledged or the drain timeout is over.
        """
        ticker = asyncio.create_task(self._tick())
        keepers: list[asyncio.Task[None]] = []
        try:
            for link in self._links:
                await link.connect()
            keepers = [asyncio.create_task(link.keep()) for link in self._links]
            await self._feed(messages)
            await self._drain()
        finally:
            ticker.cancel()
            for task in keepers:
                task.cancel()
            await asyncio.gather(ticker, *keepers, return_exceptions=True)
            for link in self._links:
                link.close()
        return self.progress

    async def _feed(self, messages: Iterable[Message]) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        since_look = 0
        for message in messages:
            ahead = message.when - (loop.time() - start)
            since_look += 1
            if ahead > 0.0 or since_look >= BATCH:
                since_look = 0
                self.progress.lag = max(0.0, -ahead)
                for link in self._links:
                    link.flush()
                await self._pause(ahead + TICK if ahead > 0.0 else 0.0)
                if self._stopping.is_set():
                    return
            link = self._links[zlib.crc32(message.topic.encode()) % len(self._links)]
            while not link.has_room:
                link.flush()
                await link.wait()
                if self._stopping.is_set():
                    return
            link.publish(message, self._qos)
            self.progress.sent += 1

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not past a stop."""
        if seconds == 0.0:
            await asyncio.sleep(0)
            return
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return

    async def _drain(self) -> None:
        """Wait for what is unacknowledged; what stays so is recorded as such."""
        for link in self._links:
            link.flush()
        try:
            async with asyncio.timeout(self._drain_timeout):
                for link in self._links:
                    await link.drained()
        except TimeoutError:
            for link in self._links:
                for message in link.unacknowledged():
                    self._record(message, False)

    async def _tick(self) -> None:
        while self._on_progress is not None:
            await asyncio.sleep(1.0)
            self._on_progress(self.progress)

    def settled(self, message: Message, code: int | None) -> None:
        """A link is done with a message: PUBACK's reason code, or None for QoS 0."""
        if code is None:
            self._record(message, False)
        elif code == mqtt5.PubAckReasonCode.SUCCESS:
            self.progress.acknowledged += 1
            self._record(message, True)
        elif code == mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS:
            self.progress.unheard += 1
            self._record(message, False)
        else:
            self.progress.refused += 1


class _Link(asyncio.Protocol):
    """One client id at the broker; connects again by itself."""

    def __init__(self, owner: Publisher, target: Target, number: int) -> None:
        self._owner = owner
        self._target = target
        self._client_id = f"{target.client_id}-{number}"
        self._transport: asyncio.Transport | None = None
        self._inbox = bytearray()
        self._outbox: list[bytes] = []
        self._flying: dict[int, Message] = {}  # packet id → message, in the order of sending
        self._next_id = 0
        self._window = _WINDOW
        self._writable = True
        self._changed = asyncio.Event()  # room, a drained window, or a lost connection
        self._connack: asyncio.Future[mqtt5.ConnAckPacket] | None = None

    @property
    def has_room(self) -> bool:
        return self._transport is not None and self._writable and len(self._flying) < self._window

    async def connect(self) -> None:
        """TCP, TLS, CONNECT, CONNACK. MqttError says in words what failed."""
        target = self._target
        loop = asyncio.get_running_loop()
        where = f"{target.host}:{target.port}"
        self._connack = loop.create_future()
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                transport, _ = await loop.create_connection(
                    lambda: self,
                    target.host,
                    target.port,
                    ssl=target.tls,
                    server_hostname=target.host if target.tls else None,
                )
                transport.write(self._connect_packet())
                connack = await self._connack
        except (OSError, TimeoutError) as error:
            if transport is not None:
                transport.abort()
            tls = target.tls is not None
            raise no_connection(target.host, target.port, error, tls=tls) from error
        if connack.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
            transport.abort()
            words = connack.reason_code.name.lower().replace("_", " ")
            raise MqttError(f"{where} refused the connection: {words}", reason="refused")
        self._window = min(_WINDOW, connack.receive_max)
        self._transport = transport
        self._send_again()

    def _connect_packet(self) -> bytes:
        password = self._target.password
        return mqtt5.ConnectPacket(
            self._client_id,
            username=self._target.username,
            password=None if password is None else password.encode(),
            clean_start=False,
            keep_alive=_KEEP_ALIVE,
            session_expiry_interval=_EXPIRY,
        ).write()

    def _send_again(self) -> None:
        """Everything unacknowledged, in its old order, as the specification asks for."""
        for packet_id, message in self._flying.items():
            self._write(message, packet_id, duplicate=True)
        self.flush()

    async def keep(self) -> None:
        """Pings, and a new connection whenever the old one is lost, until cancelled."""
        delay = _RETRY_FIRST
        while True:
            if self._transport is not None:
                delay = _RETRY_FIRST
                await self._ping_until_lost()
                continue
            await asyncio.sleep(random.uniform(_RETRY_FIRST, delay))
            delay = min(_RETRY_MAX, 2 * delay)
            try:
                await self.connect()
            except MqttError:
                continue  # progress shows that nothing is acknowledged
            self._owner.progress.reconnects += 1

    async def _ping_until_lost(self) -> None:
        quiet = 0.0
        while self._transport is not None:
            await asyncio.sleep(0.1)
            quiet += 0.1
            if quiet >= _KEEP_ALIVE / 2:
                quiet = 0.0
                self._transport.write(mqtt5.PingReqPacket().write())

    def publish(self, message: Message, qos: int) -> None:
        """Queue a message; `flush` writes. Only while `has_room`."""
        if qos == 0:
            self._outbox.append(mqtt5.PublishPacket(message.topic, message.payload).write())
            self._owner.settled(message, None)
            return
        packet_id = self._next_id % 65_535 + 1
        while packet_id in self._flying:
            packet_id = packet_id % 65_535 + 1
        self._next_id = packet_id
        self._flying[packet_id] = message
        self._write(message, packet_id)

    def _write(self, message: Message, packet_id: int, duplicate: bool = False) -> None:
        packet = mqtt5.PublishPacket(
            message.topic,
            message.payload,
            qos=mqtt5.QoS.AT_LEAST_ONCE,
            packet_id=packet_id,
            duplicate=duplicate,
        )
        self._outbox.append(packet.write())

    def flush(self) -> None:
        """Write what is queued, in one go."""
        if self._outbox and self._transport is not None:
            self._transport.write(b"".join(self._outbox))
            self._outbox.clear()

    async def wait(self) -> None:
        """Until room may have come, or 0.1 s have passed."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), 0.1)
        except TimeoutError:
            return

    async def drained(self) -> None:
        """Until nothing is unacknowledged."""
        while self._flying or self._outbox:
            self.flush()
            await self.wait()

    def unacknowledged(self) -> list[Message]:
        return list(self._flying.values())

    def close(self) -> None:
        """DISCONNECT and close; idempotent."""
        if self._transport is not None:
            self._transport.write(mqtt5.DisconnectPacket().write())
            self._transport.close()
            self._transport = None

    # asyncio.Protocol

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._inbox.clear()
        self._outbox.clear()  # all of it is in _flying, too (QoS 0 may be lost)
        self._writable = True
        self._changed.set()
        if self._connack is not None and not self._connack.done():
            self._connack.set_exception(ConnectionResetError("the broker closed the connection"))

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        self._inbox += data
        view = memoryview(bytes(self._inbox))
        at = 0
        while at < len(view):
            try:
                packet, size = codec5.parse(view[at:])
            except IndexError:
                break  # the rest has not come yet
            at += size
            self._received(packet)
        del self._inbox[:at]

    def _received(self, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.PubAckPacket):
            message = self._flying.pop(packet.packet_id, None)
            if message is not None:
                self._owner.settled(message, int(packet.reason_code))
            self._changed.set()
        elif isinstance(packet, mqtt5.ConnAckPacket):
            if self._connack is not None and not self._connack.done():
                self._connack.set_result(packet)
        elif isinstance(packet, mqtt5.DisconnectPacket) and self._transport is not None:
            self._transport.close()
