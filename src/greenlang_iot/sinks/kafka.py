"""The Kafka sink: finished record batches through aiokafka's idempotent producer, acks=all.

aiokafka goes on trying an idempotent batch for ever, and that is wanted: batches stay in its queue per
partition, in order, with the sequence number that keeps a second try from being a second copy. So a
`send` that ran out of time does not take its batches back. The sender remembers them, and when the
same body comes again (the runner's retry, or the spool after a pause) it waits for what is missing
instead of sending twice. Past `chunk_bytes × (in_flight + 1)` of remembered bytes the oldest answered
are forgotten, and while none is, nothing new is taken.

A batch that the broker refuses leaves a gap in its partition's sequence, so the producer is then
replaced by one with a new id, and everything remembered is handed to the new one, in order. Only
there copies can arise: readings on the wire whose answer was still open. `resent` counts them. The same
is done where aiokafka's own task has ended: what it had queued would wait for ever.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from operator import attrgetter
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.structs import TopicPartition

from greenlang_iot.encode.bodies import pieces
from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.model.outcomes import Outcome
from greenlang_iot.model.pieces import Body, Pieces
from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks.kafka_batches import FinishedBatch, KafkaRecord, Part, batch_of
from greenlang_iot.sinks.kafka_client import client_options, sink_error, why_unreachable
from greenlang_iot.sinks.kafka_delivery import Delivery
from greenlang_iot.sinks.kafka_direct import Direct
from greenlang_iot.sinks.kafka_request import never_join

log = structlog.get_logger(__name__)
PROBE_EVERY: Final = 1.0
"""Seconds without any answer after which a waiting send asks whether a broker is there at all."""

_partition_of = DefaultPartitioner()
_PARTITION, _RECORDS = attrgetter("partition"), attrgetter("records")


class KafkaSender:
    """Sends record batches to `topic` and single records to any topic (model.protocols.Sender).

    Every call ends within `settings.timeout`. Not for use by more than one event loop.
    """

    def __init__(self, settings: KafkaSettings, topic: str) -> None:
        self.resent = 0  # readings sent again without knowing whether they had arrived
        self._settings = settings
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None
        self._direct: Direct | None = None  # of that producer
        self._broken = False  # a batch failed: its partition's sequence has a gap
        self._opening = asyncio.Lock()
        self._waiting = 0  # of those that have to be handed over before others
        self._deliveries: list[Delivery] = []
        self._discarding: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connect and check the topic. Raises SinkError."""
        async with self._within(self._deadline()):
            await self._ready(self._topic)

    async def send(self, body: Body | Pieces, rows: int) -> Outcome:
        """Deliver a body of encode.bodies; `refused` holds the JSON values of refused records."""
        try:
            parts = [Part(*piece) for piece in pieces(body)]
        except ValueError as error:
            raise SinkError(str(error), reason="bad_body", retryable=False) from error
        return await self._deliver(self._admit(self._topic, body, parts))

    async def publish(self, topic: str, key: bytes, value: bytes | None, timestamp_ms: int) -> None:
        """One record, durable when this returns; `value=None` deletes the key from a compacted topic.

        Raises SinkError; not retryable where the broker refuses the record itself.
        """
        async with self._within(self._deadline()):
            producer = await self._ready(topic)
            partitions = sorted(await producer.partitions_for(topic))
        batch = batch_of([KafkaRecord(timestamp_ms, key, value)])
        part = Part(_partition_of(key, partitions, partitions), 1, batch)
        outcome = await self._deliver(self._admit(topic, batch, [part]))
        if outcome.refused:
            raise SinkError(
                f"Kafka refused a record for {topic}: {outcome.refused[0].answer}",
                reason="refused",
                retryable=False,
            )

    async def close(self) -> None:
        """Close the connections; what is unanswered stays unknown. Idempotent."""
        self._replace()
        if self._discarding:
            await asyncio.wait(self._discarding, timeout=self._settings.timeout)
        for task in self._discarding:
            task.cancel()

    # ---- one delivery ---------------------------------------------------------------------------

    async def _deliver(self, delivery: Delivery) -> Outcome:
        deadline = self._deadline()
        delivery.awaited = True
        try:
            delivery.judge()  # what was answered while nobody waited
            delivery.failure = None  # is tried again
            while not delivery.done:
                producer = self._usable(delivery.topic)
                if producer is None:
                    async with self._within(deadline):
                        producer = await self._ready(delivery.topic)
                self._hand_over_up_to(producer, delivery)
                await self._answers(delivery, deadline)
                delivery.judge()
                failure, delivery.failure = delivery.failure, None
                if failure is not None:
                    raise sink_error(
                        failure, f"Kafka did not take a batch for {delivery.topic}"
                    ) from failure
        finally:
            delivery.awaited = False
        self._deliveries.remove(delivery)
        return Outcome(sum(map(_RECORDS, delivery.parts)), delivery.refused)

    def _admit(self, topic: str, body: Body | Pieces, parts: list[Part]) -> Delivery:
        """The remembered delivery of the same bytes, or a new one. Raises SinkError when full."""
        for known in self._deliveries:
            if not known.awaited and known.topic == topic and known.body == body:
                return known
        idle = [known for known in self._deliveries if not known.awaited]
        held = sum(len(known.body) for known in idle)
        limit = self._settings.chunk_bytes * (self._settings.in_flight + 1)
        for known in idle:
            if held > limit and not known.pending:
                self._deliveries.remove(known)
                held -= len(known.body)
        if held > limit:
            raise SinkError(
                f"Kafka has not answered {len(idle)} earlier chunks", reason="backlog", down=True
            )
        delivery = Delivery(topic, body, parts)
        self._deliveries.append(delivery)
        return delivery

    async def _answers(self, delivery: Delivery, deadline: float) -> None:
        """Wait until nothing of the delivery is on its way. Raises SinkError."""
        loop = asyncio.get_running_loop()
        while delivery.pending:
            delivery.changed.clear()
            try:
                async with asyncio.timeout_at(min(deadline, loop.time() + PROBE_EVERY)):
                    await delivery.changed.wait()
            except TimeoutError:
                if loop.time() >= deadline:
                    raise SinkError(
                        f"Kafka has not acknowledged a chunk for {delivery.topic} in time",
                        reason="timeout",
                    ) from None
                await self._probe(delivery.topic, deadline)

    async def _probe(self, topic: str, deadline: float) -> None:
        """Say why nothing is answered: raises SinkError where no broker or no topic is there."""
        producer = self._producer
        if producer is None:
            return
        async with self._within(deadline):
            try:
                cluster = await producer.client.fetch_all_metadata()
            except KafkaError as error:
                if self._replaced(producer):
                    return
                raise SinkError(
                    f"no Kafka broker of {self._settings.bootstrap_servers} answers",
                    reason="no_brokers",
                    down=True,
                ) from error
        if topic not in cluster.topics():
            raise _topic_missing(topic)

    # ---- the producer ---------------------------------------------------------------------------

    def _usable(self, topic: str) -> AIOKafkaProducer | None:
        """The producer, where `_ready` would have nothing to do."""
        producer = self._producer
        if producer is None or self._broken or self._waiting:
            return None
        known = producer.client.cluster.partitions_for_topic(topic)
        return producer if known is not None else None

    async def _ready(self, topic: str) -> AIOKafkaProducer:
        """The producer, connected and knowing the topic; a new one is given all that is remembered."""
        self._waiting += 1
        try:
            async with self._opening:
                if self._broken:
                    await self._last_answers()
                    self._replace()
                producer = self._producer
                if producer is None:
                    producer = self._producer = await self._start()
                    self._direct = Direct(producer)
                    producer._sender.sender_task.add_done_callback(partial(self._ended, producer))
                    for delivery in self._deliveries:
                        delivery.judge()
                        with contextlib.suppress(SinkError):  # its own send() reports that
                            await self._learn(producer, delivery.topic)
                            self._hand_over(producer, delivery)
                await self._learn(producer, topic)
                return producer
        finally:
            self._waiting -= 1

    async def _start(self) -> AIOKafkaProducer:
        try:
            options = client_options(self._settings)
        except InputError as error:  # a certificate is being replaced, or was taken away
            raise SinkError(str(error), reason="tls", down=True) from error
        producer = AIOKafkaProducer(**options, enable_idempotence=True, acks="all")
        never_join(producer.client)
        try:
            await producer.start()
        except (KafkaError, OSError) as error:
            what = f"cannot connect to Kafka at {self._settings.bootstrap_servers}"
            cause = await why_unreachable(self._settings) or error
            raise sink_error(cause, what) from cause
        finally:
            if producer._sender.sender_task is None:
                await producer.stop()
        return producer

    def _ended(self, producer: AIOKafkaProducer, task: asyncio.Task[None]) -> None:
        """Nobody sends any more what the producer has queued; it fails, and is handed to another."""
        if self._replaced(producer):
            return
        error = None if task.cancelled() else task.exception()
        log.error("the Kafka producer ended: another is begun", topic=self._topic, why=repr(error))
        self._broken = True
        producer._message_accumulator.fail_all(error or KafkaError("the producer ended"))

    async def _learn(self, producer: AIOKafkaProducer, topic: str) -> None:
        """Have the producer follow a topic; never by a request that would create it."""
        if producer.client.cluster.partitions_for_topic(topic) is not None:
            return
        try:
            if topic not in (await producer.client.fetch_all_metadata()).topics():
                raise _topic_missing(topic)
            await producer.partitions_for(topic)
        except KafkaError as error:
            raise sink_error(error, f"Kafka says nothing of topic {topic}") from error

    def _hand_over_up_to(self, producer: AIOKafkaProducer, delivery: Delivery) -> None:
        """First what came before it: an earlier one that failed before it was queued is not overtaken."""
        for known in self._deliveries:
            if known is delivery:
                break
            if known.topic == delivery.topic and not (known.pending or known.done):
                self._hand_over(producer, known)
        self._hand_over(producer, delivery)

    def _hand_over(self, producer: AIOKafkaProducer, delivery: Delivery) -> None:
        """Queue what is not acknowledged and not on its way, synchronously: so order is kept.

        `send_batch` would do the same after waiting until the partition's queue is empty, which takes
        a task per partition and loses the order of two chunks.
        """
        if self._replaced(producer):
            return  # the caller comes again
        known = producer.client.cluster.partitions_for_topic(delivery.topic) or set()
        waiting = [
            part
            for part in delivery.parts
            if not part.acked and part.pending is None and part.error is None
        ]
        if missing := set(map(_PARTITION, waiting)) - known:
            raise SinkError(
                f"Kafka topic {delivery.topic} has no partition {min(missing)}: set "
                "sinks.kafka.partitions to the topic's number, or run setup",
                reason="partition_missing",
                down=True,
            )

        def follow(part: Part, batch: MessageBatch) -> None:
            part.pending = batch
            batch.future.add_done_callback(
                lambda _: self._answered(producer, delivery, part, batch)
            )

        assert self._direct is not None
        for part in self._direct.send(delivery.topic, waiting, delivery.changed.set, follow):
            batch = producer._message_accumulator._append_batch(
                FinishedBatch(part.batch, part.records),
                TopicPartition(delivery.topic, part.partition),
            )
            follow(part, batch)

    def _answered(
        self,
        producer: AIOKafkaProducer,
        delivery: Delivery,
        part: Part,
        batch: MessageBatch,
    ) -> None:
        error = batch.future.exception()
        if part.pending is not batch:
            return  # the part was handed to another producer since
        part.pending = None
        part.acked = error is None
        part.error = error
        if error is not None:
            delivery.failed = True
            if not self._replaced(producer):
                self._broken = True
        delivery.changed.set()

    async def _last_answers(self) -> None:
        """Let a broken producer's other batches be answered, so that few of them stay in doubt."""
        futures = [
            part.pending.future
            for delivery in self._deliveries
            for part in delivery.parts
            if part.pending is not None
        ]
        if futures:
            await asyncio.wait(futures, timeout=PROBE_EVERY)

    def _replaced(self, producer: AIOKafkaProducer) -> bool:
        return producer is not self._producer

    def _replace(self) -> None:
        """Give the producer up; what it has not answered is to be handed to the next one."""
        producer, self._producer = self._producer, None
        direct, self._direct = self._direct, None
        self._broken = False
        if producer is None or direct is None:
            return
        for delivery in self._deliveries:
            for part in delivery.parts:
                if part.pending is not None and not part.pending.future.done():
                    if part.pending.retry_count:  # it has been on the wire
                        self.resent += part.records
                    part.pending = None
                    delivery.changed.set()
        task = asyncio.get_running_loop().create_task(_discard(producer, direct))
        self._discarding.add(task)
        task.add_done_callback(self._discarding.discard)

    # ---- time -----------------------------------------------------------------------------------

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._settings.timeout

    @contextlib.asynccontextmanager
    async def _within(self, deadline: float) -> AsyncIterator[None]:
        """Past the deadline: the SinkError of brokers that are silent."""
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError as late:
            raise SinkError(
                f"Kafka at {self._settings.bootstrap_servers} does not answer in time",
                reason="timeout",
                down=True,
            ) from late


def _topic_missing(topic: str) -> SinkError:
    return SinkError(
        f"Kafka has no topic {topic}: run setup, or create it", reason="topic_missing", down=True
    )


async def _discard(producer: AIOKafkaProducer, direct: Direct) -> None:
    """Close a producer without waiting for the batches it still has.

    `producer.stop()` would wait until all are delivered. Its task lets a request that is on the wire
    end (at most its time-out) when it is cancelled.
    """
    task = producer._sender.sender_task
    task.cancel()
    producer._closed = True
    await asyncio.wait([task, *direct.flights])
    await producer.client.close()
