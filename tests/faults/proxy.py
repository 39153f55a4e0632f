"""A recording TLS proxy between broker and gateway, which can also be told to misbehave.

It terminates TLS on both sides and keeps what was forwarded and what was acknowledged on the wire: a
PUBACK counts at the moment its bytes are read from the gateway, whether or not they go any further.
"""

import asyncio
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from tests.faults import wire
from tests.faults.network import FAR, Network

from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.settings.model import TlsSettings
from greenlang_iot.simulate.ca import Identity, server_context

GOODBYE = 1.0
"""Seconds for the last bytes of a connection that one side has ended."""
Key = tuple[str, bytes]
"""(topic, payload) of a message."""

T = TypeVar("T")


class Record:
    """What went over the wire. Times are of `time.monotonic`."""

    def __init__(self) -> None:
        self.forwarded: Counter[Key] = Counter()
        self.acked: Counter[Key] = Counter()
        self.first_forwarded: dict[Key, float] = {}
        self.waited: dict[Key, float] = {}
        """Seconds from the first time forwarded to the first acknowledgement."""
        self.last_ack = 0.0
        self.client_ids: set[str] = set()
        self.stray_acks = 0
        """PUBACKs of packet ids that were not open: a mistake of the gateway in any case."""
        self.reused_ids = 0
        """PUBLISHs with a packet id that was open on their connection: a mistake of the broker."""
        self.connections = 0


class Proxy:
    """Listens on `port` in a thread of its own; `close()` ends it.

    hold: nothing passes in either direction, connections stay. hold_new: who connects is let in later. dribble: bytes go one at a time.
    delay: seconds before each piece is passed on. swallow_acks: PUBACKs are recorded and dropped.
    hide_dup: the DUP flag is cleared. last_word: what the gateway is told when the broker ends a
    connection (a broker's own last packet is lost where its close resets the connection). network: it listens at the far end of it.
    """

    def __init__(
        self, broker_port: int, ca_file: Path, identity: Identity, network: Network | None = None
    ) -> None:
        self.record = Record()
        self.hold = False
        self.hold_new = False
        self.dribble = False
        self.delay = 0.0
        self.swallow_acks = False
        self.hide_dup = False
        self.last_word = b""
        self.host = "127.0.0.1" if network is None else FAR
        self.port = 0
        self._network = network
        self._broker_port = broker_port
        self._upstream_tls = ssl_context(TlsSettings(ca_file=ca_file))
        self._server_tls = server_context(identity)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.listen()

    def listen(self) -> None:
        """Accept connections (again, on the same port)."""
        self._call(self._listen())

    def refuse(self) -> None:
        """Refuse connections and cut those there are."""
        self._call(self._refuse())

    def cut(self) -> None:
        """Cut every connection, on both sides."""
        self._call(self._cut())

    def reload(self, identity: Identity) -> None:
        """Show another certificate to whoever connects from now on."""
        self._server_tls.load_cert_chain(identity.cert_file, identity.key_file)

    def close(self) -> None:
        self._call(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        if self._network is None:
            listening = socket.create_server((self.host, self.port))
        else:
            listening = self._network.listen(self.port)
        self.port = listening.getsockname()[1]
        self._server = await asyncio.start_server(
            self._accept, sock=listening, ssl=self._server_tls
        )

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._cut()

    async def _cut(self) -> None:
        for link in list(self._links):
            link.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.hold_new:
            await asyncio.sleep(0.02)
        try:
            upstream = await asyncio.open_connection(
                "127.0.0.1", self._broker_port, ssl=self._upstream_tls
            )
        except OSError:
            writer.transport.abort()
            return
        link = _Link(self, (reader, writer), upstream)
        self._links.add(link)
        self.record.connections += 1
        try:
            await link.run()
        finally:
            self._links.discard(link)


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection of the gateway and its counterpart to the broker."""

    def __init__(self, proxy: Proxy, gateway: Streams, broker: Streams) -> None:
        self._proxy = proxy
        self._gateway = gateway
        self._broker = broker
        self._open: dict[int, deque[Key]] = {}  # packet id → messages, PUBACKs come in this order
        self._aliases: dict[int, bytes] = {}

    def cut(self) -> None:
        for _, writer in (self._gateway, self._broker):
            writer.transport.abort()

    async def run(self) -> None:
        pumps = [
            asyncio.ensure_future(self._pump(self._broker[0], self._gateway[1], self._down)),
            asyncio.ensure_future(self._pump(self._gateway[0], self._broker[1], self._up)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        # What was said last (PUBACKs, a DISCONNECT with its reason) still goes out.
        if pumps[0].done():
            self._gateway[1].write(self._proxy.last_word)
        for _, writer in (self._gateway, self._broker):
            writer.close()
        await asyncio.wait(pumps, timeout=GOODBYE)
        self.cut()
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look: Callable[[wire.Packet], bytes],
    ) -> None:
        proxy, splitter = self._proxy, wire.Splitter()
        try:
            while data := await reader.read(65_536):
                while proxy.hold:
                    await asyncio.sleep(0.02)
                out = b"".join(look(packet) for packet in splitter.feed(data))
                if proxy.delay:
                    await asyncio.sleep(proxy.delay)
                if proxy.dribble:
                    for byte in out:
                        writer.write(bytes((byte,)))
                        await writer.drain()
                elif out:
                    writer.write(out)
                    await writer.drain()
        except OSError:
            return

    def _down(self, packet: wire.Packet) -> bytes:
        if packet.kind != wire.PUBLISH:
            return packet.raw
        record, message = self._proxy.record, wire.publish(packet)
        topic = message.topic or self._aliases[message.alias]
        if message.alias:
            self._aliases[message.alias] = topic
        if message.packet_id:
            key = topic.decode(), message.payload
            waiting = self._open.setdefault(message.packet_id, deque())
            record.reused_ids += bool(waiting)
            waiting.append(key)
            record.forwarded[key] += 1
            record.first_forwarded.setdefault(key, time.monotonic())
        if self._proxy.hide_dup and packet.flags & wire.DUP:
            return bytes((packet.raw[0] & ~wire.DUP,)) + packet.raw[1:]
        return packet.raw

    def _up(self, packet: wire.Packet) -> bytes:
        record = self._proxy.record
        if packet.kind == wire.CONNECT:
            record.client_ids.add(wire.client_id(packet))
        if packet.kind != wire.PUBACK:
            return packet.raw
        packet_id = wire.acknowledged(packet)
        if waiting := self._open.get(packet_id):
            key = waiting.popleft()
            record.acked[key] += 1
            record.last_ack = time.monotonic()
            record.waited.setdefault(key, record.last_ack - record.first_forwarded[key])
        elif packet_id:
            record.stray_acks += 1
        return b"" if self._proxy.swallow_acks else packet.raw
