"""KafkaSender's requests past aiokafka's queue: the real producer against a broker that follows a script."""

import asyncio
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiokafka.producer.message_accumulator import MessageBatch
from crc32c import crc32c

from greenlang_iot.encode.bodies import BODY_VERSION
from greenlang_iot.model.errors import SinkError
from greenlang_iot.model.outcomes import Outcome
from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks import kafka_direct
from greenlang_iot.sinks.kafka import KafkaSender
from greenlang_iot.sinks.kafka_batches import KafkaRecord, batch_of, records_of

TOPIC = "iot.readings"
PARTITIONS = 3
SILENT, CUT, GARBAGE = "silent", "cut", "garbage"
NOT_LEADER, TOO_LARGE, OUT_OF_ORDER, DUPLICATE = 6, 10, 45, 46


@dataclass(slots=True)
class Written:
    """A batch as the broker got it."""

    producer: int
    sequence: int
    values: list[bytes]


@dataclass(slots=True)
class Broker:
    """Two nodes at one address.

    leaders: of the partitions, −1 where there is none.
    script: for request number n (from 0) and its partitions: SILENT, CUT (no answer, the batches are
    written), GARBAGE, or what differs from 0 among the partitions' errors. held: requests wait for it.
    timeout: seconds of a request; far more than a test needs, but where it is to be over.
    """

    version: int = 7
    leaders: tuple[int, ...] = (0, 0, 0)
    script: Callable[[int, list[int]], str | dict[int, int]] = lambda n, partitions: {}
    held: asyncio.Event | None = None
    timeout: float = 20.0
    requests: list[list[int]] = field(default_factory=list)  # the partitions of each
    log: dict[int, list[Written]] = field(default_factory=lambda: defaultdict(list))
    producers: int = 0
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                request = await reader.readexactly(size)
                answer = await self._answer(*struct.unpack_from(">hhi", request), request)
                if answer is None:
                    continue
                if answer == CUT.encode():
                    break
                writer.write(struct.pack(">i", len(answer) + 4) + request[4:8] + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def _answer(
        self, key: int, version: int, correlation: int, request: bytes
    ) -> bytes | None:
        if key == 18:
            apis = ((0, 3, self.version), (3, 1, 1), (18, 0, 0), (22, 0, 0))
            return struct.pack(">hi", 0, len(apis)) + b"".join(
                struct.pack(">hhh", *api) for api in apis
            )
        if key == 3:
            out = struct.pack(">i", 2)
            for node in range(2):
                out += (
                    struct.pack(">ih", node, 9) + b"127.0.0.1" + struct.pack(">ih", self.port, -1)
                )
            out += struct.pack(">iihh", 0, 1, 0, len(TOPIC)) + TOPIC.encode()
            out += b"\0" + struct.pack(">i", PARTITIONS)
            for partition, leader in enumerate(self.leaders):
                out += struct.pack(">hiiiiii", 0, partition, leader, 1, 0, 1, 0)
            return out
        if key == 22:
            self.producers += 1
            return struct.pack(">ihqh", 0, 0, self.producers, 0)
        assert (key, version) == (0, self.version)
        if self.held is not None:
            await self.held.wait()
        return self._produce(request)

    def _produce(self, request: bytes) -> bytes | None:
        batches = dict(produced(request, round(self.timeout * 1000)))
        number, partitions = len(self.requests), [*batches]
        self.requests.append(partitions)
        said = self.script(number, partitions)
        errors = said if isinstance(said, dict) else {}
        if said != SILENT:
            for partition, batch in batches.items():
                if not errors.get(partition):
                    self._write(partition, batch, errors)
        if isinstance(said, str):
            return {SILENT: None, CUT: CUT.encode(), GARBAGE: b"\xff" * 30}[said]
        out = struct.pack(">ih", 1, len(TOPIC)) + TOPIC.encode() + struct.pack(">i", len(batches))
        for partition in partitions:
            out += struct.pack(">ihqq", partition, errors.get(partition, 0), 7, -1)
            out += struct.pack(">q", 0) if self.version >= 5 else b""
        return out + struct.pack(">i", 0)

    def _write(self, partition: int, batch: bytes, errors: dict[int, int]) -> None:
        (crc,) = struct.unpack_from(">I", batch, 17)
        assert crc == crc32c(batch[21:])
        producer, epoch, sequence = struct.unpack_from(">qhi", batch, 43)
        assert epoch == 0
        last = [w for w in self.log[partition] if w.producer == producer]
        expected = last[-1].sequence + len(last[-1].values) if last else 0
        if last and sequence == last[-1].sequence:
            errors[partition] = DUPLICATE
            return
        if sequence != expected:
            errors[partition] = OUT_OF_ORDER
            return
        values = [record.value or b"" for record in records_of(batch)]
        self.log[partition].append(Written(producer, sequence, values))

    def values(self, partition: int) -> list[bytes]:
        return [value for written in self.log[partition] for value in written.values]


def produced(request: bytes, within: int) -> Iterator[tuple[int, bytes]]:
    """Partition and batch of each of the batches in a produce request. within: its timeout in ms."""
    (client,) = struct.unpack_from(">h", request, 8)
    at = 10 + client
    transaction, acks, timeout, topics, name = struct.unpack_from(">hhiih", request, at)
    assert (transaction, acks, topics) == (-1, -1, 1)
    assert timeout == within
    at += 14
    assert request[at : at + name] == TOPIC.encode()
    (count,) = struct.unpack_from(">i", request, at + name)
    at += name + 4
    for _ in range(count):
        partition, size = struct.unpack_from(">ii", request, at)
        yield partition, request[at + 8 : at + 8 + size]
        at += 8 + size
    assert at == len(request)


@asynccontextmanager
async def sending(broker: Broker) -> AsyncIterator[KafkaSender]:
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0)
    broker.port = server.sockets[0].getsockname()[1]
    settings = KafkaSettings(timeout=broker.timeout, bootstrap_servers=f"127.0.0.1:{broker.port}")
    sender = KafkaSender(settings, TOPIC)
    try:
        yield sender
    finally:
        await sender.close()
        server.close()


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[MessageBatch]:
    """The batches that were made in aiokafka's way."""
    made: list[MessageBatch] = []
    begin = MessageBatch.__init__

    def note(self: MessageBatch, *arguments: object) -> None:
        begin(self, *arguments)
        made.append(self)

    monkeypatch.setattr(MessageBatch, "__init__", note)
    return made


def body(*parts: tuple[int, list[bytes]]) -> bytes:
    """A chunk's body: per part its partition and the records' values."""
    out = bytes([BODY_VERSION])
    for partition, values in parts:
        batch = batch_of([KafkaRecord(1_000 + i, b"key", v) for i, v in enumerate(values)])
        out += struct.pack("<III", partition, len(values), len(batch)) + batch
    return out


EACH = body((0, [b"a", b"b"]), (1, [b"c"]), (2, [b"d"]))
LATER = body((0, [b"e"]), (2, [b"f", b"g"]))


@pytest.mark.parametrize("version", range(3, 8))
async def test_a_chunk_is_one_request_and_sequences_go_on(
    version: int, queued: list[MessageBatch]
) -> None:
    broker = Broker(version)
    async with sending(broker) as sender:
        assert await sender.send(EACH, 4) == Outcome(4)
        assert await sender.send(LATER, 3) == Outcome(3)
    assert broker.requests == [[0, 1, 2], [0, 2]]
    assert [written.sequence for written in broker.log[0]] == [0, 2]
    assert [broker.values(p) for p in range(3)] == [[b"a", b"b", b"e"], [b"c"], [b"d", b"f", b"g"]]
    assert queued == []


async def test_each_broker_gets_a_request_of_its_own() -> None:
    broker = Broker(
        leaders=(0, 1, 0), script=lambda n, partitions: {1: NOT_LEADER} if n < 2 else {}
    )
    async with sending(broker) as sender:
        assert await sender.send(EACH, 4) == Outcome(4)
        assert await sender.send(LATER, 3) == Outcome(3)
    assert sorted(broker.requests) == [[0, 2], [0, 2], [1], [1]]
    assert [broker.values(p) for p in range(3)] == [[b"a", b"b", b"e"], [b"c"], [b"d", b"f", b"g"]]


async def test_a_partition_without_a_leader_waits_in_the_queue(queued: list[MessageBatch]) -> None:
    broker = Broker(leaders=(0, -1, 0))
    async with sending(broker) as sender:
        await sender.open()
        task = asyncio.create_task(sender.send(EACH, 4))
        while not broker.requests:
            await asyncio.sleep(0)
        assert broker.requests == [[0, 2]]
        assert sender._producer is not None
        assert sender._producer._sender._in_flight <= {0}
        broker.leaders = (0, 1, 0)
        assert await task == Outcome(4)
    assert broker.requests == [[0, 2], [1]]
    assert len(queued) == 1


async def test_nothing_overtakes_what_is_in_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker(leaders=(0, -1, 0))
    async with sending(broker) as sender:
        await sender.open()
        first = asyncio.create_task(sender.send(body((1, [b"a"])), 1))
        await asyncio.sleep(0)
        assert sender._producer is not None
        assert len(sender._producer._message_accumulator._batches) == 1
        monkeypatch.setattr(sender._producer.client.cluster, "leader_for_partition", lambda _: 1)
        second = asyncio.create_task(sender.send(body((1, [b"b"])), 1))
        assert await first == await second == Outcome(1)
    assert broker.values(1) == [b"a", b"b"]


@pytest.mark.parametrize("late", [0, NOT_LEADER])
async def test_an_answer_after_the_producer_was_given_up_counts_for_nothing(
    late: int, queued: list[MessageBatch]
) -> None:
    broker = Broker(script=lambda n, partitions: {1: late} if n == 0 else {}, held=asyncio.Event())
    assert broker.held is not None
    async with sending(broker) as sender:
        await sender.open()
        task = asyncio.create_task(sender.send(EACH, 4))
        while sender._direct is None or not sender._direct.flights:
            await asyncio.sleep(0)
        (flight,) = sender._direct.flights
        sender._replace()
        broker.held.set()
        await asyncio.wait([flight])
        assert sender.resent == 4, "they may be written"
        assert await task == Outcome(4)
    assert broker.requests == [[0, 1, 2], [0, 1, 2]]
    assert [written.producer for written in broker.log[0]] == [1, 2]
    assert queued == []


async def test_what_one_partition_answers_is_aiokafkas_to_try_again(
    queued: list[MessageBatch],
) -> None:
    broker = Broker(script=lambda n, partitions: {1: NOT_LEADER} if n < 2 else {})
    async with sending(broker) as sender:
        assert await sender.send(EACH, 4) == Outcome(4)
        assert await sender.send(LATER, 3) == Outcome(3)
        assert sender.resent == 0
    assert broker.requests == [[0, 1, 2], [1], [1], [0, 2]]
    assert [broker.values(p) for p in range(3)] == [[b"a", b"b", b"e"], [b"c"], [b"d", b"f", b"g"]]
    assert broker.producers == 1
    assert len(queued) == 3, "the second chunk needed no queue"


@pytest.mark.parametrize("what", [CUT, GARBAGE])
async def test_an_answer_that_is_lost_is_asked_for_under_the_same_sequence(what: str) -> None:
    broker = Broker(script=lambda n, partitions: what if n == 0 else {})
    async with sending(broker) as sender:
        if what == GARBAGE:
            with pytest.raises(SinkError, match="did not take a batch"):
                await sender.send(EACH, 4)
        else:
            assert await sender.send(EACH, 4) == Outcome(4)
            assert broker.requests == [[0, 1, 2], [0, 1, 2]]
            assert broker.values(0) == [b"a", b"b"]
            assert broker.producers == 1
            assert sender.resent == 0


async def test_a_broker_that_says_nothing_is_asked_again_by_aiokafka() -> None:
    # shorter than PROBE_EVERY: the probe would end the connection
    broker = Broker(script=lambda n, partitions: SILENT if n == 0 else {}, timeout=0.9)
    async with sending(broker) as sender:
        with pytest.raises(SinkError) as caught:
            await sender.send(EACH, 4)
        assert caught.value.reason == "timeout"
        assert await sender.send(EACH, 4) == Outcome(4)
        assert await sender.send(LATER, 3) == Outcome(3)
    assert broker.requests[:2] == [[0, 1, 2], [0, 1, 2]]
    assert broker.values(0) == [b"a", b"b", b"e"]


async def test_a_refused_batch_is_halved_and_the_others_are_not_sent_again() -> None:
    def script(n: int, partitions: list[int]) -> dict[int, int]:
        return {0: TOO_LARGE} if 0 in partitions and n < 2 else {}

    broker = Broker(script=script)
    async with sending(broker) as sender:
        outcome = await sender.send(EACH, 4)
    assert outcome.delivered == 3
    assert [refused.body for refused in outcome.refused] == [b"a"]
    assert [broker.values(p) for p in range(3)] == [[b"b"], [b"c"], [b"d"]]


async def test_a_lost_sequence_gets_a_new_producer() -> None:
    broker = Broker(script=lambda n, partitions: {1: OUT_OF_ORDER} if n == 0 else {})
    async with sending(broker) as sender:
        assert await sender.send(EACH, 4) == Outcome(4)
        assert sender.resent == 0
    assert broker.requests == [[0, 1, 2], [1]]
    assert [written.producer for written in broker.log[1]] == [2]


async def test_what_comes_meanwhile_waits_in_the_queue_and_then_goes(
    queued: list[MessageBatch],
) -> None:
    broker = Broker(held=asyncio.Event())
    assert broker.held is not None
    async with sending(broker) as sender:
        await sender.open()
        first = asyncio.create_task(sender.send(EACH, 4))
        second = asyncio.create_task(sender.send(LATER, 3))
        while len(queued) < 2:
            await asyncio.sleep(0)
        assert sender._direct is not None
        assert len(sender._direct.flights) == 1
        broker.held.set()
        assert await first == Outcome(4)
        assert await second == Outcome(3)
    assert broker.requests == [[0, 1, 2], [0, 2]]
    assert broker.values(0) == [b"a", b"b", b"e"]


async def test_two_batches_of_a_partition_go_one_after_the_other() -> None:
    broker = Broker()
    async with sending(broker) as sender:
        assert await sender.send(body((0, [b"a"]), (1, [b"b"]), (0, [b"c"])), 3) == Outcome(3)
    assert broker.values(0) == [b"a", b"c"]
    assert broker.requests == [[0, 1], [0]]


async def test_the_sequence_wraps_to_zero() -> None:
    broker = Broker()
    async with sending(broker) as sender:
        await sender.open()
        assert sender._producer is not None
        identity = sender._producer._txn_manager
        for place in [kafka_direct.TopicPartition(TOPIC, p) for p in range(PARTITIONS)]:
            identity._sequence_numbers[place] = 2**31 - 1
        broker.log[0].append(Written(1, 2**31 - 2, [b"before"]))
        assert await sender.send(body((0, [b"a"])), 1) == Outcome(1)
        broker.log[0].append(Written(1, -1, [b""]))  # so that 0 is what is expected
        assert await sender.send(body((0, [b"b"])), 1) == Outcome(1)
    assert [w.sequence for w in broker.log[0] if w.values in ([b"a"], [b"b"])] == [2**31 - 1, 0]
    assert broker.producers == 1


async def test_a_request_on_its_way_does_not_hold_up_the_end() -> None:
    broker = Broker(script=lambda n, partitions: SILENT, timeout=2.0)
    async with sending(broker) as sender:
        await sender.open()
        task = asyncio.create_task(sender.send(EACH, 4))
        while not broker.requests:
            assert not task.done()
            await asyncio.sleep(0)
        task.cancel()
        async with asyncio.timeout(20):
            await sender.close()
        assert sender.resent == 4, "they may be written"


async def test_an_odd_answer_where_the_producer_ended_fails_the_batches() -> None:
    broker = Broker(script=lambda n, partitions: {1: NOT_LEADER}, held=asyncio.Event())
    assert broker.held is not None
    async with sending(broker) as sender:
        await sender.open()
        task = asyncio.create_task(sender.send(EACH, 4))
        while sender._direct is None or not sender._direct.flights:
            await asyncio.sleep(0)
        assert sender._producer is not None
        sender._producer._sender.sender_task.cancel()
        broker.held.set()
        with pytest.raises(SinkError, match="the producer ended"):
            await task
        broker.script = lambda n, partitions: {}
        assert await sender.send(EACH, 4) == Outcome(4)
    assert broker.producers == 2


async def test_a_mistake_in_the_handler_fails_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(*_: object) -> None:
        raise RuntimeError("a mistake")

    broker = Broker(script=lambda n, partitions: {1: NOT_LEADER})
    monkeypatch.setattr(kafka_direct.SendProduceReqHandler, "handle_response", mistake)
    async with sending(broker) as sender:
        with pytest.raises(SinkError, match="a mistake"):
            await sender.send(EACH, 4)
