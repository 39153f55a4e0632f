"""KafkaSender on a producer that answers when the test says so."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import uvloop
from aiokafka import errors
from aiokafka.structs import TopicPartition
from structlog.testing import capture_logs
from tests.fakes.pki import Pki

from greenlang_iot.encode.bodies import BODY_VERSION
from greenlang_iot.model.errors import SinkError
from greenlang_iot.model.outcomes import Outcome
from greenlang_iot.settings.model import KafkaSettings, TlsSettings
from greenlang_iot.sinks import kafka
from greenlang_iot.sinks.kafka import KafkaSender
from greenlang_iot.sinks.kafka_batches import (
    FinishedBatch,
    KafkaRecord,
    batch_of,
    records_of,
)

TOPIC = "iot.readings"


class FakeCluster:
    """What a client knows of the topics."""

    def __init__(self, topics: dict[str, int]) -> None:
        self._topics = topics

    def topics(self) -> set[str]:
        return set(self._topics)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._topics[topic])) if topic in self._topics else None


class FakeProducer:
    """Keeps what is queued in `batches` for the test to answer, or answers by `mood` at once."""

    made: list["FakeProducer"]
    start_error: Exception | None
    metadata_error: Exception | None
    topics: dict[str, int]
    mood: Callable[[list[bytes]], Exception | None] | None

    def __init__(self, **options: object) -> None:
        assert options["enable_idempotence"] is True
        assert options["acks"] == "all"
        self.batches: list[SimpleNamespace] = []
        self.closed = asyncio.Event()
        self.client = SimpleNamespace(
            cluster=FakeCluster(self.topics),
            fetch_all_metadata=self._metadata,
            close=self._close,
            send=None,
            _get_conn=None,
        )
        self._sender = SimpleNamespace(sender_task=None)
        # Something is queued: nothing goes past the queue (test_kafka_direct.py).
        self._message_accumulator = SimpleNamespace(
            _append_batch=self._append, _batches=[None], fail_all=self._fail_all
        )
        self._txn_manager = None
        type(self).made.append(self)

    async def _metadata(self) -> FakeCluster:
        if self.metadata_error is not None:
            raise self.metadata_error
        return FakeCluster(self.topics)

    async def _close(self) -> None:
        self.closed.set()

    async def start(self) -> None:
        if self.start_error is not None:
            raise self.start_error
        self.end = asyncio.Event()
        self._sender.sender_task = asyncio.create_task(self._life())

    async def _life(self) -> None:
        await self.end.wait()
        raise errors.KafkaError("Unexpected error during batch delivery")

    async def stop(self) -> None:
        self.closed.set()

    async def partitions_for(self, topic: str) -> set[int]:
        return set(range(self.topics[topic]))

    def _append(self, builder: FinishedBatch, tp: TopicPartition) -> SimpleNamespace:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch = SimpleNamespace(future=future, retry_count=1, builder=builder, tp=tp)
        self.batches.append(batch)
        if self.mood is not None:
            asyncio.get_running_loop().call_soon(
                self.answer, len(self.batches) - 1, self.mood(self.queued()[-1][1])
            )
        return batch

    def _fail_all(self, error: Exception) -> None:
        for batch in self.batches:
            if not batch.future.done():
                batch.future.set_exception(error)

    def queued(self) -> list[tuple[int, list[bytes]]]:
        """(partition, values) of each batch in the order of the queue."""
        return [
            (b.tp.partition, [r.value for r in records_of(b.builder._build())])
            for b in self.batches
        ]

    def answer(self, which: int, error: Exception | None = None) -> None:
        future = self.batches[which].future
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeProducer]:
    FakeProducer.made = []
    FakeProducer.start_error = FakeProducer.metadata_error = None
    FakeProducer.mood = None
    FakeProducer.topics = {TOPIC: 3, "iot.alerts": 3}
    monkeypatch.setattr(kafka, "AIOKafkaProducer", FakeProducer)
    monkeypatch.setattr(kafka, "PROBE_EVERY", 0.02)
    return FakeProducer


def body(*parts: tuple[int, list[bytes]]) -> bytes:
    """A chunk's body: per part its partition and the records' values."""
    out = bytes([BODY_VERSION])
    for partition, values in parts:
        batch = batch_of([KafkaRecord(1_000 + i, b"key", v) for i, v in enumerate(values)])
        for number in (partition, len(values), len(batch)):
            out += number.to_bytes(4, "little")
        out += batch
    return out


def sender(**values: object) -> KafkaSender:
    return KafkaSender(KafkaSettings(**{"timeout": 20.0, **values}), TOPIC)


def patient(kafka_sender: KafkaSender) -> None:
    """What it sends from now on has more time than any machine stands still."""
    settings = kafka_sender._settings
    kafka_sender._settings = settings.model_copy(update={"timeout": 20.0})


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until the condition holds."""
    for _ in range(1_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the loop ran 1,000 turns in vain")


async def started(
    kafka_sender: KafkaSender, chunk: bytes, batches: int
) -> tuple[asyncio.Task[Outcome], FakeProducer]:
    """A running send, and the newest producer once it has `batches` batches."""
    task = asyncio.create_task(kafka_sender.send(chunk, 0))
    await until(lambda: bool(FakeProducer.made) and len(FakeProducer.made[-1].batches) == batches)
    return task, FakeProducer.made[-1]


async def test_all_batches_of_a_chunk_are_on_their_way_together() -> None:
    chunk = body((2, [b"a", b"b"]), (0, [b"c"]), (2, [b"d"]))
    task, producer = await started(sender(), chunk, 3)
    assert producer.queued() == [(2, [b"a", b"b"]), (0, [b"c"]), (2, [b"d"])]
    for i in (1, 0, 2):
        assert not task.done()
        producer.answer(i)
    assert await task == Outcome(4)


async def test_a_retry_waits_for_what_is_missing_and_sends_nothing_twice() -> None:
    one = sender(timeout=0.2)
    chunk = body((0, [b"a"]), (1, [b"b"]))
    task, producer = await started(one, chunk, 2)
    producer.answer(0)
    with pytest.raises(SinkError) as caught:
        await task
    assert (caught.value.reason, caught.value.retryable) == ("timeout", True)
    assert not caught.value.down, "a broker answers, it is only slow"
    patient(one)
    retry = asyncio.create_task(one.send(bytearray(chunk), 2))
    await asyncio.sleep(0.01)
    producer.answer(1)
    assert await retry == Outcome(2)
    assert len(producer.batches) == 2
    assert one.resent == 0


async def test_an_answer_between_two_tries_counts() -> None:
    one = sender(timeout=0.2)
    chunk = body((0, [b"a"]))
    task, producer = await started(one, chunk, 1)
    with pytest.raises(SinkError):
        await task
    patient(one)
    producer.answer(0)
    await asyncio.sleep(0)
    assert await one.send(chunk, 1) == Outcome(1)
    assert len(producer.batches) == 1
    again, producer = await started(one, chunk, 2)  # the same bytes once more are a new chunk
    producer.answer(1)
    assert await again == Outcome(1)


def test_time_that_is_up_before_the_wait_begins_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """In uvloop, as in a shard: its timers are not all those of asyncio."""

    async def late() -> None:
        one = sender()
        await one.open()
        now = asyncio.get_running_loop().time()
        monkeypatch.setattr(one, "_deadline", lambda: now - 1)
        with pytest.raises(SinkError) as caught:
            await one.send(body((0, [b"a"])), 1)
        assert (caught.value.reason, caught.value.down) == ("timeout", False)

    uvloop.run(late())


async def test_dead_brokers_are_noticed_before_the_time_is_up(fake: type[FakeProducer]) -> None:
    one = sender()
    task, _ = await started(one, body((0, [b"a"])), 1)
    fake.metadata_error = errors.KafkaError("no node")
    begin = asyncio.get_running_loop().time()
    with pytest.raises(SinkError) as caught:
        await task
    assert (caught.value.reason, caught.value.down) == ("no_brokers", True)
    assert asyncio.get_running_loop().time() - begin < 10


async def test_poison_is_halved_until_the_record_is_found(fake: type[FakeProducer]) -> None:
    one = sender()
    values = [json.dumps({"n": i}).encode() for i in range(5)]
    fake.mood = staticmethod(
        lambda held: errors.MessageSizeTooLargeError() if values[3] in held else None
    )
    outcome = await one.send(body((1, values), (0, [b"x"])), 6)
    assert outcome.delivered == 5
    assert [(r.body, r.readings) for r in outcome.refused] == [(values[3], 1)]
    assert "MESSAGE_SIZE_TOO_LARGE" in outcome.refused[0].answer
    assert len(fake.made) <= 5, "halving five records takes three rounds more"
    assert one.resent == 0
    for used in fake.made[:-1]:
        await asyncio.wait_for(used.closed.wait(), 30)


async def test_a_lost_sequence_gets_a_new_producer_and_keeps_the_order(
    fake: type[FakeProducer],
) -> None:
    one = sender()
    first, producer = await started(one, body((0, [b"a"]), (1, [b"b"])), 2)
    second, _ = await started(one, body((0, [b"c"]), (2, [b"d"])), 4)
    producer.answer(1)
    producer.answer(0, errors.OutOfOrderSequenceNumber())
    producer.answer(2, errors.OutOfOrderSequenceNumber())
    # d is never answered: it may be in Kafka or not
    await until(lambda: len(fake.made) == 2 and len(fake.made[1].batches) == 3)
    assert fake.made[1].queued() == [(0, [b"a"]), (0, [b"c"]), (2, [b"d"])]
    assert one.resent == 1
    for i in range(3):
        fake.made[1].answer(i)
    assert await first == Outcome(2)
    assert await second == Outcome(2)


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_a_producer_whose_task_ended_is_noticed_at_once_and_begun_anew(
    fake: type[FakeProducer], how: str
) -> None:
    """What its queue holds would wait for ever: nobody sends it any more."""
    one = KafkaSender(KafkaSettings(timeout=30.0), TOPIC)
    chunk = body((0, [b"a"]))
    task, producer = await started(one, chunk, 1)
    if how == "cancelled":
        producer._sender.sender_task.cancel()
    else:
        producer.end.set()
    with capture_logs() as told:
        async with asyncio.timeout(20):
            with pytest.raises(SinkError) as caught:
                await task
    assert (caught.value.reason, caught.value.retryable) == ("broker_error", True)
    assert [entry["event"] for entry in told] == ["the Kafka producer ended: another is begun"]
    again = asyncio.create_task(one.send(chunk, 1))
    await until(lambda: len(fake.made) == 2 and bool(fake.made[1].batches))
    fake.made[1].answer(0)
    assert await again == Outcome(1)
    await one.close()


async def test_a_producer_whose_task_ended_while_nothing_was_queued_is_not_used_again(
    fake: type[FakeProducer],
) -> None:
    one = KafkaSender(KafkaSettings(timeout=30.0), TOPIC)
    await one.open()
    fake.made[0]._sender.sender_task.cancel()
    await until(fake.made[0]._sender.sender_task.done)
    task = asyncio.create_task(one.send(body((0, [b"a"])), 1))
    await until(lambda: len(fake.made) == 2 and bool(fake.made[1].batches))
    fake.made[1].answer(0)
    assert await task == Outcome(1)
    assert fake.made[0].batches == []
    await one.close()


async def test_authorisation_is_down_and_tried_again_next_time(fake: type[FakeProducer]) -> None:
    one = sender()
    chunk = body((0, [b"a"]))
    task, producer = await started(one, chunk, 1)
    producer.answer(0, errors.TopicAuthorizationFailedError(TOPIC))
    with pytest.raises(SinkError) as caught:
        await task
    assert (caught.value.reason, caught.value.down) == ("unauthorized", True)
    again = asyncio.create_task(one.send(chunk, 1))
    await until(lambda: len(fake.made) == 2 and bool(fake.made[1].batches))
    fake.made[1].answer(0)
    assert await again == Outcome(1)


async def test_certificates_that_are_being_replaced_are_read_again(
    fake: type[FakeProducer], tmp_path: Path
) -> None:
    """A file that is missing for a moment is a sink that is away, not the end of the shard."""
    ca_file = tmp_path / "ca.crt"
    one = sender(security_protocol="SSL", tls=TlsSettings(ca_file=ca_file))
    with pytest.raises(SinkError, match=r"tls.ca_file .* cannot be read: No such file") as caught:
        await one.open()
    assert (caught.value.reason, caught.value.down) == ("tls", True)
    Pki(tmp_path).ca_file.rename(ca_file)
    await one.open()
    assert len(fake.made) == 1
    await one.close()


async def test_what_is_remembered_is_bounded() -> None:
    one = sender(timeout=0.2, chunk_bytes=1_024, in_flight=1)
    chunks = [body((0, [bytes([65 + i]) * 900])) for i in range(4)]
    for i, chunk in enumerate(chunks[:3]):
        task, producer = await started(one, chunk, i + 1)
        with pytest.raises(SinkError):
            await task
    with pytest.raises(SinkError) as caught:
        await one.send(chunks[3], 1)
    assert (caught.value.reason, caught.value.down) == ("backlog", True)
    assert len(producer.batches) == 3
    patient(one)
    producer.answer(0)  # the oldest is answered: it can be forgotten
    await asyncio.sleep(0)
    task, producer = await started(one, chunks[3], 4)
    producer.answer(3)
    assert await task == Outcome(1)


async def test_what_failed_before_it_was_queued_is_not_overtaken(fake: type[FakeProducer]) -> None:
    """The chunk of later readings came from its back-off first: a device's readings were out of order."""
    fake.topics = {}
    one, first, second = sender(), body((0, [b"a"])), body((0, [b"b"]))
    with pytest.raises(SinkError, match="no topic"):
        await one.send(first, 1)
    fake.topics[TOPIC] = 1
    later, producer = await started(one, second, 2)
    assert producer.queued() == [(0, [b"a"]), (0, [b"b"])]
    producer.answer(0)
    producer.answer(1)
    assert await later == Outcome(1)
    assert await one.send(first, 1) == Outcome(1)
    assert len(producer.batches) == 2
    await one.close()


async def nothing_new(settings: KafkaSettings) -> None:
    """Stands for why_unreachable."""


async def test_open_says_why_it_fails_and_can_be_repeated(
    fake: type[FakeProducer], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sender()
    monkeypatch.setattr(kafka, "why_unreachable", nothing_new)
    fake.start_error = errors.KafkaConnectionError("refused")
    with pytest.raises(SinkError, match=r"127\.0\.0\.1:9092") as caught:
        await one.open()
    assert (caught.value.reason, caught.value.down) == ("no_brokers", True)
    assert fake.made[0].closed.is_set()
    fake.start_error = None
    fake.topics = {}
    with pytest.raises(SinkError, match="run setup") as caught:
        await one.open()
    assert caught.value.reason == "topic_missing"
    fake.topics = {TOPIC: 2}
    await one.close()
    await one.open()
    with pytest.raises(SinkError, match="no partition 2") as caught:
        await one.send(body((2, [b"a"])), 1)
    assert caught.value.reason == "partition_missing"
    await one.close()
    await one.close()
    assert all(producer.closed.is_set() for producer in fake.made)


async def test_a_body_of_another_version_is_never_delivered() -> None:
    with pytest.raises(SinkError) as caught:
        await sender().send(b"\x09", 1)
    assert (caught.value.reason, caught.value.retryable) == ("bad_body", False)


async def test_published_records_are_partitioned_by_key(fake: type[FakeProducer]) -> None:
    one = sender()
    task = asyncio.create_task(one.publish("iot.alerts", b"d007", b"{}", 5_000))
    await until(lambda: bool(fake.made) and bool(fake.made[0].batches))
    (batch,) = fake.made[0].batches
    assert (batch.tp.topic, batch.tp.partition) == (
        "iot.alerts",
        kafka._partition_of(b"d007", [0, 1, 2], []),
    )
    assert list(records_of(batch.builder._build())) == [KafkaRecord(5_000, b"d007", b"{}")]
    fake.made[0].answer(0)
    assert await task is None


async def test_a_published_record_refused_is_not_retryable(fake: type[FakeProducer]) -> None:
    one = sender()
    task = asyncio.create_task(one.publish("iot.alerts", b"k", None, 5_000))
    await until(lambda: bool(fake.made) and bool(fake.made[0].batches))
    fake.made[0].answer(0, errors.InvalidTimestampError())
    with pytest.raises(SinkError, match="INVALID_TIMESTAMP") as caught:
        await task
    assert (caught.value.reason, caught.value.retryable) == ("refused", False)
