"""A proxy between gateway and Kafka that can answer produce requests itself, with an error.

What it answers was not forwarded, as a broker writes nothing of a batch that it refuses. It can also be away,
cut what is under way, and keep Kafka's answers to itself.
"""

import asyncio
import struct
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka.protocol import produce

PRODUCE = 0
NOT_LEADER, NOT_ENOUGH_REPLICAS, OUT_OF_ORDER, UNKNOWN_PRODUCER = 6, 19, 45, 59
"""Error codes of the protocol."""

T = TypeVar("T")
_HEAD = struct.Struct(">hhi")  # API key, version, correlation id


class KafkaProxy:
    """Listens on `port` in a thread of its own. `refuse(code, times)`: answer so many requests.

    away: who connects is cut at once. hold: answers stay here. delay: seconds that each answer takes.
    """

    def __init__(self) -> None:
        self.away = False
        self.hold = False
        self.delay = 0.0
        self.port = 0
        self.broker_port = 0
        self._code = self._times = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._listen())

    @property
    def left(self) -> int:
        """How many requests it will still refuse."""
        return self._times

    def refuse(self, code: int, times: int) -> None:
        self._code, self._times = code, times

    def cut(self) -> None:
        """Cut every connection; what Kafka has read of it, it may write."""
        self._call(self._cut())

    def close(self) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.away:
                raise ConnectionResetError
            upstream = await asyncio.open_connection("127.0.0.1", self.broker_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, upstream[1]}
        waiting: set[int] = set()  # correlation ids that the broker has to answer
        pumps = [
            asyncio.ensure_future(self._requests(reader, writer, upstream[1], waiting)),
            asyncio.ensure_future(self._answers(upstream[0], writer, waiting)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for one in (writer, upstream[1]):
            one.transport.abort()
            self._writers.discard(one)
        for pump in pumps:
            pump.cancel()  # it may wait for an answer that is kept
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        broker: asyncio.StreamWriter,
        waiting: set[int],
    ) -> None:
        while (frame := await _frame(reader)) is not None:
            key, version, correlation = _HEAD.unpack_from(frame)
            if key == PRODUCE and self._times > 0:
                self._times -= 1
                while waiting:  # answers go in the order of requests
                    await asyncio.sleep(0.005)
                body = struct.pack(">i", correlation) + self._refusal(frame, version)
                writer.write(struct.pack(">i", len(body)) + body)
                continue
            waiting.add(correlation)
            broker.write(struct.pack(">i", len(frame)) + frame)
            await broker.drain()

    async def _answers(
        self, broker: asyncio.StreamReader, writer: asyncio.StreamWriter, waiting: set[int]
    ) -> None:
        while (frame := await _frame(broker)) is not None:
            await asyncio.sleep(self.delay)
            while self.hold:
                await asyncio.sleep(0.02)
            waiting.discard(struct.unpack_from(">i", frame)[0])
            writer.write(struct.pack(">i", len(frame)) + frame)
            await writer.drain()

    def _refusal(self, frame: bytes, version: int) -> bytes:
        (client,) = struct.unpack_from(">h", frame, _HEAD.size)
        body = frame[_HEAD.size + 2 + max(client, 0) :]
        request = getattr(produce, f"ProduceRequest_v{version}").decode(body)
        more = [-1, -1][: (version >= 2) + (version >= 5)]  # append time, start offset
        if version >= 8:
            more += [[], None]
        topics = [
            (topic, [(partition, self._code, -1, *more) for partition, _ in partitions])
            for topic, partitions in request.topics
        ]
        answer = getattr(produce, f"ProduceResponse_v{version}")
        encoded: bytes = answer(topics=topics, throttle_time_ms=0).encode()
        return encoded


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next request or answer without its length; None when the connection ended."""
    try:
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        return await reader.readexactly(size)
    except (asyncio.IncompleteReadError, OSError):
        return None
