"""The loader: speaks to subscribers as a broker does, and is never the limit.

`python -m greenlang_iot.bench.loader FOLDER DEVICES RECORD_BYTES START_MS`: listens with TLS
(certificate in FOLDER), prints its port; waits for subscriptions; then obeys lines on stdin and answers
each with its counts: `go` send, `pause` stop sending and answer when all is acknowledged, `stats`, `end`.
Messages outstanding stay within each client's Receive Maximum; acknowledgements are checked to come in
order. A subscription at QoS 0 gets nothing.
"""

import asyncio
import json
import re
import ssl
import sys
import time
from pathlib import Path

import mqtt5
import numpy as np
import uvloop

from greenlang_iot.bench.workload import PACKET, Workload, topic
from greenlang_iot.simulate.ca import loopback, server_context


class Subscriber(asyncio.Protocol):
    """One connection of the gateway."""

    def __init__(self, loader: "Loader") -> None:
        self.loader = loader
        self.window = 65_535
        self.sent = 0
        self.acked = 0
        self.disorder = 0
        self.workload: Workload | None = None
        self._lap = np.zeros((0, PACKET), np.uint8)
        self._ids = np.zeros(0, np.uint16)
        self._row = 0
        self._pending = b""
        self._writable = True
        self._next_ack = 1
        self._next_id = 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.loader.gone(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.set_write_buffer_limits(high=1 << 20)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.pump()

    def data_received(self, data: bytes) -> None:
        if self.workload is not None and not self._pending and data[0] == 0x40:
            data = self._acks(data)
        self._pending += data
        while self._pending:
            try:
                packet, size = mqtt5.read(memoryview(self._pending))
            except IndexError:
                return
            self._pending = self._pending[size:]
            self._control(packet)
            if self.workload is not None and self._pending[:1] == b"\x40":
                self._pending = self._acks(self._pending)

    def _acks(self, data: bytes) -> bytes:
        """Count a run of PUBACKs; returns what follows it."""
        whole = len(data) // 4 * 4
        table = np.frombuffer(data[:whole], np.uint8).reshape(-1, 4)
        run = int(np.argmin(np.append(table[:, 0] == 0x40, False)))
        ids = table[:run, 2].astype(np.int64) << 8 | table[:run, 3]
        expected = (self._next_ack - 1 + np.arange(run)) % 65_535 + 1
        self.disorder += int(np.count_nonzero(ids != expected))
        self._next_ack = (self._next_ack - 1 + run) % 65_535 + 1
        self.acked += run
        self.loader.acked(self)
        self.pump()
        return data[run * 4 :]

    def _control(self, packet: object) -> None:
        if isinstance(packet, mqtt5.ConnectPacket):
            self.window = packet.receive_max
            self.transport.write(mqtt5.ConnAckPacket().write())
        elif isinstance(packet, mqtt5.SubscribePacket):
            codes = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE] * len(packet.topic_filters)
            self.transport.write(mqtt5.SubAckPacket(packet.packet_id, codes).write())
            filters = [
                f.pattern for f in packet.topic_filters if f.max_qos != mqtt5.QoS.AT_MOST_ONCE
            ]
            if filters:
                self.loader.subscribed(self, filters)
        elif isinstance(packet, mqtt5.PublishPacket) and packet.packet_id:
            self.transport.write(mqtt5.PubAckPacket(packet.packet_id).write())
        elif isinstance(packet, mqtt5.PingReqPacket):
            self.transport.write(mqtt5.PingRespPacket().write())
        elif isinstance(packet, mqtt5.PubAckPacket):
            self.acked += 1

    def pump(self) -> None:
        """Send as the window and the socket allow, in writes of `record` bytes."""
        step = min(max(self.loader.record // PACKET, 1), self.window)
        while self.loader.going and self._writable and self.workload is not None:
            room = self.window - (self.sent - self.acked)
            if self._row == len(self._lap):
                n = self.workload.n
                self._ids = ((self._next_id - 1 + np.arange(n)) % 65_535 + 1).astype(np.uint16)
                self._next_id = (self._next_id - 1 + n) % 65_535 + 1
                self._lap = self.workload.lap(self._ids).copy()
                self._row = 0
            count = min(step, room, len(self._lap) - self._row)
            if count <= 0 or (count < step and room < step):
                return
            self.transport.write(self._lap[self._row : self._row + count].tobytes())
            self._row += count
            self.sent += count


class Loader:
    """All connections, and whether they send."""

    def __init__(self, devices: int, record: int, start_ms: int) -> None:
        self.devices = devices
        self.record = record
        self.start_ms = start_ms
        self.going = False
        self.subscribers: list[Subscriber] = []
        self.lost = 0  # subscribers that left
        self.idle = asyncio.Event()

    def subscribed(self, subscriber: Subscriber, filters: list[str]) -> None:
        """The subscriber gets the devices that its filters match."""
        patterns = [
            re.compile("[^/]+".join(re.escape(part) for part in f.split("+"))) for f in filters
        ]
        numbers = [d for d in range(self.devices) if any(p.fullmatch(topic(d)) for p in patterns)]
        if numbers:
            seed = len(self.subscribers)
            subscriber.workload = Workload(np.array(numbers), seed, self.start_ms)
            self.subscribers.append(subscriber)

    def gone(self, subscriber: Subscriber) -> None:
        """A connection ended."""
        if subscriber in self.subscribers:
            self.subscribers.remove(subscriber)
            self.lost += 1
            self.idle.set()

    def acked(self, subscriber: Subscriber) -> None:
        if not self.going and all(s.sent == s.acked for s in self.subscribers):
            self.idle.set()

    def stats(self) -> dict[str, float]:
        return {
            "subscribers": len(self.subscribers),
            "lost": self.lost,
            "sent": sum(s.sent for s in self.subscribers),
            "acked": sum(s.acked for s in self.subscribers),
            "disorder": sum(s.disorder for s in self.subscribers),
            "cpu_s": time.process_time(),
            "time": time.monotonic(),
        }


async def serve(folder: Path, devices: int, record: int, start_ms: int) -> None:
    """Until `end` or the end of stdin."""
    context: ssl.SSLContext = server_context(loopback(folder)[1])
    loader = Loader(devices, record, start_ms)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Subscriber(loader), "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        if line == "go":
            loader.going = True
            loader.idle.clear()
            for subscriber in loader.subscribers:
                subscriber.pump()
        elif line == "pause":
            loader.going = False
            while any(s.sent != s.acked for s in loader.subscribers):
                loader.idle.clear()
                await loader.idle.wait()
        elif line == "end":
            break
        print(json.dumps(loader.stats()), flush=True)


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:]
    uvloop.run(serve(Path(folder), *map(int, numbers)))
