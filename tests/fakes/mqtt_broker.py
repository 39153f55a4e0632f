"""A broker of bytes: the test says what it sends, and reads what the client sent."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import mqtt5

from greenlang_iot.model.batches import FrameBatch
from greenlang_iot.mqtt.transport import Connection

CONNECT, PUBACK, SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT = 1, 4, 8, 10, 12, 14


class Peer:
    """One client at the fake broker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *packets: bytes) -> None:
        """All of them in one write."""
        self._writer.write(b"".join(packets))

    async def packet(self) -> bytes:
        """The client's next packet. IncompleteReadError: it closed the connection."""
        head = await self._reader.readexactly(2)
        length, shift = head[1] & 127, 7
        while head[-1] & 128:
            head += await self._reader.readexactly(1)
            length |= (head[-1] & 127) << shift
            shift += 7
        return head + await self._reader.readexactly(length)

    async def expect(self, kind: int) -> bytes:
        packet = await self.packet()
        assert packet[0] >> 4 == kind, packet
        return packet

    async def accept(self, connack: mqtt5.ConnAckPacket | None = None, *late: bytes) -> None:
        """Let an MQTT 5 client in; `late` goes with the CONNACK in one write."""
        await self.expect(CONNECT)
        self.send((connack or mqtt5.ConnAckPacket()).write(), *late)
        packet = await self.packet()
        if packet[0] >> 4 == SUBSCRIBE:
            self.send(b"\x90\x04", packet[2:4], b"\x00\x01")
        else:
            assert packet[0] >> 4 == UNSUBSCRIBE
            self.send(b"\xb0\x04", packet[2:4], b"\x00\x00")

    async def acks(self, n: int) -> list[int]:
        """The packet ids of the next n packets, which are all PUBACKs."""
        return [int.from_bytes((await self.expect(PUBACK))[2:], "big") for _ in range(n)]

    async def closed(self) -> bool:
        """The client sends nothing more and closes."""
        return await self._reader.read() == b""

    def close(self) -> None:
        self._writer.close()


class FakeBroker:
    """Clients in the order in which they came."""

    def __init__(self) -> None:
        self.port = 0
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._all: list[Peer] = []

    async def peer(self) -> Peer:
        return await self._peers.get()

    async def accepted(self, connack: mqtt5.ConnAckPacket | None = None, *late: bytes) -> Peer:
        """The next client, let in (see `Peer.accept`)."""
        peer = await self.peer()
        await peer.accept(connack, *late)
        return peer

    @property
    def waiting(self) -> int:
        """Clients that came and were not looked at."""
        return self._peers.qsize()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self._all.append(peer)
        self._peers.put_nowait(peer)

    def close(self) -> None:
        for peer in self._all:
            peer.close()


@asynccontextmanager
async def fake_broker(context: ssl.SSLContext | None = None) -> AsyncIterator[FakeBroker]:
    """A fake broker on a free loopback port."""
    broker = FakeBroker()
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0, ssl=context, limit=1 << 22)
    broker.port = server.sockets[0].getsockname()[1]
    try:
        yield broker
    finally:
        broker.close()
        server.close()


class Recorder:
    """A handler that keeps what it is told; with `acknowledge` it acknowledges at once."""

    def __init__(self, *, acknowledge: bool = False) -> None:
        self.connection: Connection | None = None
        self.rows: list[tuple[int, bytes, bytes, int]] = []  # connection, topic, payload, packet id
        self.up: list[tuple[int, bool]] = []
        self.down: list[tuple[int, str]] = []
        self.flushes = 0
        self.waited = 0.0  # seconds from receipt to hand-over, of the last flush
        self.on_flush: Callable[[], None] | None = None
        self._acknowledge = acknowledge
        self._changed = asyncio.Event()

    def on_frames(self, frames: FrameBatch) -> None:
        self.flushes += 1
        self.waited = time.monotonic() - frames.received
        self.rows += [
            (frames.connection, frames.topic(i), frames.payload(i), int(frames.packet_id[i]))
            for i in range(frames.n)
        ]
        if self._acknowledge and self.connection is not None:
            self.connection.acknowledge(frames.connection, frames.packet_id[frames.packet_id != 0])
        if self.on_flush is not None:
            self.on_flush()
        self._changed.set()

    def on_connected(self, connection: int, session_present: bool) -> None:
        self.up.append((connection, session_present))
        self._changed.set()

    def on_disconnected(self, connection: int, reason: str) -> None:
        self.down.append((connection, reason))
        self._changed.set()

    async def until(self, *, rows: int = 0, up: int = 0, down: int = 0) -> None:
        """Wait until so many of each were seen."""
        while len(self.rows) < rows or len(self.up) < up or len(self.down) < down:
            self._changed.clear()
            await self._changed.wait()
