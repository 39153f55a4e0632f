"""The loader: speaks to subscribers as a broker does, or publishes to a real one, and is never the limit.

`python -m greenlang_iot.bench.loader LOAD`, LOAD being a `Load` as JSON: listens (with TLS, certificate in
its folder), prints its port; waits for subscriptions; then obeys lines on stdin and answers each with its
counts: `go` send, `pause` stop sending and answer when all is acknowledged, `rate N` messages a second
(0: as fast as taken), `fresh` forget the latencies so far, `beside S` leave out what was due in the intervals S (JSON, monotonic
seconds) in `latency_beside_ms`, `stats`, `end`.
Messages outstanding stay within each client's Receive Maximum; acknowledgements are checked to come in
order. A subscription at another QoS than the load's gets nothing. MQTT 5 and 3.1.1, as the client asks
(without Receive Maximum, 65,535 may be outstanding).
With `broker` it listens nowhere and prints 0: PUBLISHERS clients of that broker (MQTT 5) send instead, and
the acknowledgements are the broker's.

Latency is from the moment a message was due at the asked rate, whether or not it could be sent then, to its
PUBACK, seen here.
"""

import asyncio
import contextlib
import gc
import json
import re
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import mqtt5
import numpy as np
import uvloop

from greenlang_iot.bench.stalls import Interval, without
from greenlang_iot.bench.workload import SITES, Workload, topic
from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.settings.model import TlsSettings
from greenlang_iot.simulate.broker_connection import variable_length
from greenlang_iot.simulate.ca import loopback, server_context

PATIENCE = 60.0
"""Seconds that a pause waits for acknowledgements."""
TICK = 0.001
"""Seconds between writes at a rate."""
PUBLISHERS = 2
TURN = 1 << 20
"""Bytes that one connection writes before others, and what stdin says, have their turn."""
CONNECT, PUBACK, SUBSCRIBE, PINGREQ = 1, 4, 8, 12


@dataclass(slots=True, frozen=True)
class Load:
    """folder: of the certificate. record: bytes of one write, and so of a TLS record. metrics: per device.
    broker: mqtt://user:password@host:port or mqtts://, of a real one; ca_file: who signed its certificate.
    """

    folder: str
    devices: int
    start_ms: int
    record: int = 16_384
    tls: bool = True
    qos: int = 1
    metrics: int = 1
    broker: str = ""
    ca_file: str = ""


class Subscriber(asyncio.Protocol):
    """One connection of the gateway."""

    def __init__(self, loader: "Loader") -> None:
        self.loader = loader
        self.window = 65_535
        self.sent = 0
        self.acked = 0
        self.disorder = 0
        self.workload: Workload | None = None
        self.version5: bool | None = None  # not known before the CONNECT
        self._due: deque[tuple[int, float]] = deque()  # (sent up to, due since)
        self._paced_from = (0.0, 0)  # (time, sent) when sending began at a rate
        self._lap = np.zeros((0, 0), np.uint8)
        self._ids = np.zeros(0, np.uint16)
        self._row = 0
        self._pending = b""
        self._writable = True
        self._goes_on = False  # a turn of `pump` is due: one at a time, whoever else calls it
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
        if not self.loader.rate:
            self.pump()

    def data_received(self, data: bytes) -> None:
        data, self._pending = self._pending + data, b""
        if self.workload is not None and data[:1] == b"\x40":
            data = self._acks(data)  # also what began in the piece before
        self._pending = data
        while self._pending:
            whole = _first_packet(self._pending)
            if whole is None:
                return
            body, end = whole
            data, self._pending = self._pending[:end], self._pending[end:]
            if self.version5 is None:
                self.version5 = data[body + 6] == 5  # behind the length and MQTT
            if self.version5:
                self._control(mqtt5.read(memoryview(data))[0])
            else:
                self._control311(data[0] >> 4, data[body:])
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
        if self._due:
            now = time.monotonic()
            while self._due and self._due[0][0] <= self.acked:
                _, since = self._due.popleft()
                self.loader.latencies.append((since, now - since))
        self.loader.acked(self)
        if not self.loader.rate:
            self.pump()  # at a rate `tick` does
        return data[run * 4 :]

    def _control(self, packet: object) -> None:
        if isinstance(packet, mqtt5.ConnectPacket):
            self.window = packet.receive_max
            self.transport.write(mqtt5.ConnAckPacket().write())
        elif isinstance(packet, mqtt5.SubscribePacket):
            codes = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE] * len(packet.topic_filters)
            self.transport.write(mqtt5.SubAckPacket(packet.packet_id, codes).write())
            filters = [
                f.pattern for f in packet.topic_filters if f.max_qos.value == self.loader.load.qos
            ]
            if filters:
                self.loader.subscribed(self, filters)
        elif isinstance(packet, mqtt5.PublishPacket) and packet.packet_id:
            self.transport.write(mqtt5.PubAckPacket(packet.packet_id).write())
        elif isinstance(packet, mqtt5.PingReqPacket):
            self.transport.write(mqtt5.PingRespPacket().write())
        elif isinstance(packet, mqtt5.PubAckPacket):
            self.acked += 1

    def take(self, numbers: list[int]) -> None:
        """Send for these devices from now on."""
        load, seed = self.loader.load, len(self.loader.subscribers)
        self.workload = Workload(
            np.array(numbers), seed, load.start_ms, fleet=load.devices, metrics=load.metrics,
            qos=load.qos, version5=bool(self.version5),
        )  # fmt: skip
        self.loader.subscribers.append(self)

    def _control311(self, kind: int, body: bytes) -> None:
        if kind == CONNECT:
            self.transport.write(b"\x20\x02\x00\x00")
        elif kind == SUBSCRIBE:
            at, filters, granted = 2, [], b""
            while at < len(body):
                size = int.from_bytes(body[at : at + 2], "big")
                pattern, qos = body[at + 2 : at + 2 + size].decode(), body[at + 2 + size]
                filters += [pattern] if qos == self.loader.load.qos else []
                granted += bytes([min(qos, 1)])
                at += 3 + size
            self.transport.write(bytes([0x90, 2 + len(granted)]) + body[:2] + granted)
            if filters:
                self.loader.subscribed(self, filters)
        elif kind == PINGREQ:
            self.transport.write(b"\xd0\x00")
        elif kind == PUBACK:
            self.acked += 1

    def start(self) -> None:
        """Begin to send."""
        self._paced_from = (time.monotonic(), self.sent)
        self.pump()

    def pump(self) -> None:
        """Send as the window, the socket and the rate allow, in writes of `record` bytes.

        At a rate it sends what is due now, and not what falls due while it writes: each write would be a
        message or two, in a TLS record of its own.
        """
        if self.workload is None:
            return
        paced, rate = self.loader.rate > 0, self.loader.rate / max(len(self.loader.subscribers), 1)
        step = min(max(self.loader.load.record // self.workload.packet, 1), self.window)
        begun, base = self._paced_from
        due = base + int((time.monotonic() - begun) * rate) + 1 if paced else 0  # the first at once
        least, written = 1 if paced else step, 0
        while self.loader.going and self._writable:
            if written >= TURN:
                if not self._goes_on:
                    self._goes_on = True
                    asyncio.get_running_loop().call_soon(self._go_on)
                return
            room = self.window - (self.sent - self.acked) if self.loader.load.qos else step
            if paced:
                room = min(room, due - self.sent)
            if self._row == len(self._lap):
                n = self.workload.n
                self._ids = ((self._next_id - 1 + np.arange(n)) % 65_535 + 1).astype(np.uint16)
                self._next_id = (self._next_id - 1 + n) % 65_535 + 1
                self._lap = self.workload.lap(self._ids)  # the one before is sent, or copied
                self._row = 0
            count = min(step, room, len(self._lap) - self._row)
            if count <= 0 or (count < least and room < least):
                return
            self.transport.write(self._lap[self._row : self._row + count].tobytes())
            if paced and self.loader.load.qos:
                self._due.append((self.sent + count, begun + (self.sent - base) / rate))
            self._row += count
            self.sent += count
            written += count * self.workload.packet

    def _go_on(self) -> None:
        self._goes_on = False
        self.pump()


class Publisher(Subscriber):
    """One client of a real broker, with every PUBLISHERS-th device from `number` on.

    accepted: done when the broker let it in; ConnectionError where it did not.
    """

    def __init__(self, loader: "Loader", number: int) -> None:
        super().__init__(loader)
        self.version5 = True
        self.accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._number = number

    def connection_lost(self, exc: Exception | None) -> None:
        self._refused("the broker ended the connection")
        super().connection_lost(exc)

    def _refused(self, why: str) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(ConnectionError(why))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        place = broker_at(self.loader.load.broker)
        connect = mqtt5.ConnectPacket(
            f"greenlang-iot-bench-{self._number}",
            username=place.username,
            password=place.password.encode() if place.password else None,
            clean_start=True,
            keep_alive=0,
        )
        self.transport.write(connect.write())

    def _control(self, packet: object) -> None:
        if not isinstance(packet, mqtt5.ConnAckPacket):
            super()._control(packet)
        elif packet.reason_code.value:
            self._refused(f"the broker refuses the loader: {packet.reason_code.name}")
            self.transport.close()
        else:
            self.window = packet.receive_max
            self.take(list(range(self._number, self.loader.load.devices, PUBLISHERS)))
            self.accepted.set_result(None)


class Place(NamedTuple):
    """A real broker, and who asks."""

    host: str
    port: int
    secure: bool
    username: str | None
    password: str | None


def broker_at(url: str) -> Place:
    """The parts of mqtt://user:password@host:port or mqtts://; ports are 1883 and 8883 by default."""
    parts = urlsplit(url)
    secure = parts.scheme == "mqtts"
    port = parts.port or (8883 if secure else 1883)
    return Place(parts.hostname or "127.0.0.1", port, secure, parts.username, parts.password)


def _first_packet(data: bytes) -> tuple[int, int] | None:
    """Where the body of the first packet begins and ends; None: it is not all there."""
    length, begin = variable_length(data, 1)
    return (begin, begin + length) if 0 < begin <= len(data) - length else None


class Loader:
    """All connections, and whether they send."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.going = False
        self.rate = 0.0
        # a write each: when it was due (monotonic seconds), seconds until its PUBACK
        self.latencies: list[tuple[float, float]] = []
        self.beside: list[Interval] = []
        self.subscribers: list[Subscriber] = []
        self.lost = 0  # subscribers that left
        self.idle = asyncio.Event()

    def subscribed(self, subscriber: Subscriber, filters: list[str]) -> None:
        """The subscriber gets the devices that its filters match."""
        patterns = [
            re.compile("[^/]+".join(re.escape(part) for part in f.split("+"))) for f in filters
        ]
        load = self.load
        # where devices share a site, they share what a filter says of them
        first = [topic(d, load.devices) for d in range(min(SITES, load.devices))]
        chosen = [
            site for site, name in enumerate(first) if any(p.fullmatch(name) for p in patterns)
        ]
        numbers = [d for d in range(load.devices) if d % SITES in chosen]
        if numbers:
            subscriber.take(numbers)

    def gone(self, subscriber: Subscriber) -> None:
        """A connection ended."""
        if subscriber in self.subscribers:
            self.subscribers.remove(subscriber)
            self.lost += 1
            self.idle.set()

    def acked(self, subscriber: Subscriber) -> None:
        if not self.going and all(s.sent == s.acked for s in self.subscribers):
            self.idle.set()

    async def tick(self) -> None:
        """Writes at a rate."""
        while True:
            await asyncio.sleep(TICK if self.rate else 10 * TICK)
            if self.rate and self.going:
                for subscriber in self.subscribers:
                    subscriber.pump()

    def latency_ms(self, beside: Sequence[Interval] = ()) -> dict[str, float]:
        """Percentiles over what was acknowledged since `fresh` and not due in one of these, a write at a time."""
        known = np.array(self.latencies).reshape(-1, 2)
        values = known[without(beside, known[:, 0]), 1] * 1e3
        if not len(values):
            return {}
        p50, p99, p999 = np.percentile(values, (50, 99, 99.9)).tolist()
        return {"p50": p50, "p99": p99, "p99.9": p999, "max": float(values.max())}

    def stats(self) -> dict[str, Any]:
        return {
            "subscribers": len(self.subscribers),
            "lost": self.lost,
            "sent": sum(s.sent for s in self.subscribers),
            "acked": sum(s.acked for s in self.subscribers),
            "disorder": sum(s.disorder for s in self.subscribers),
            "cpu_s": time.process_time(),
            "time": time.monotonic(),
            "latency_ms": self.latency_ms(),
            "latency_beside_ms": self.latency_ms(self.beside),
        }


async def serve(load: Load) -> None:
    """Until `end` or the end of stdin."""
    loader = Loader(load)
    loop = asyncio.get_running_loop()
    port = 0
    if load.broker:
        await _publish(loader)
    else:
        context = server_context(loopback(Path(load.folder))[1]) if load.tls else None
        server = await loop.create_server(lambda: Subscriber(loader), "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
    gc.collect()
    gc.freeze()  # going through what was imported would hold everything up for 20 ms
    ticking = asyncio.ensure_future(loader.tick())
    print(port, flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        if line == "go":
            loader.going = True
            loader.idle.clear()
            for subscriber in loader.subscribers:
                subscriber.start()
        elif line == "pause":
            loader.going = False
            await _all_acked(loader)
        elif line.startswith("rate "):
            loader.rate = float(line[5:])
        elif line == "fresh":
            loader.latencies.clear()
            loader.beside = []
        elif line.startswith("beside "):
            loader.beside = json.loads(line[7:])
        elif line == "end":
            break
        print(json.dumps(loader.stats()), flush=True)
    ticking.cancel()


async def _publish(loader: Loader) -> None:
    """Connect all publishers to the real broker."""
    place, load = broker_at(loader.load.broker), loader.load
    ca_file = Path(load.ca_file) if load.ca_file else None
    context = ssl_context(TlsSettings(ca_file=ca_file)) if place.secure else None
    loop = asyncio.get_running_loop()
    for number in range(PUBLISHERS):
        _, publisher = await loop.create_connection(
            partial(Publisher, loader, number),
            place.host,
            place.port,
            ssl=context,
        )
        await publisher.accepted


async def _all_acked(loader: Loader) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while loader.load.qos and any(s.sent != s.acked for s in loader.subscribers):
                loader.idle.clear()
                await loader.idle.wait()


if __name__ == "__main__":
    uvloop.run(serve(Load(**json.loads(sys.argv[1]))))
