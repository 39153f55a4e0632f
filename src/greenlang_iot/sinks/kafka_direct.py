"""One produce request for all batches that a broker leads, past aiokafka's queue.

aiokafka's sender makes two futures and two callbacks of every batch and drains it by itself: 25 µs a
partition of each chunk, however small. `Direct` does the sender's work at once where nothing is odd: the
leader is known, nothing is queued, and nothing is on its way to that broker. Sequence numbers are the
producer's, and the sender is told that broker and partitions are busy: what comes meanwhile waits there.

Any other answer than "all is written" goes to aiokafka's own handler, with the batches as its queue would
hold them: errors, retries under the same sequence numbers, and metadata stay its work. What this relies
on is private to aiokafka 0.14 and pinned by tests.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.producer.sender import SendProduceReqHandler
from aiokafka.structs import TopicPartition

from greenlang_iot.sinks.kafka_batches import FinishedBatch, Part
from greenlang_iot.sinks.kafka_request import DirectRequest


class Flight:
    """One request on its way: what its parts' `pending` is until they are answered.

    future: done when it is answered, and given over where the answer is odd.
    """

    retry_count = 1  # as a MessageBatch says it of one that was sent

    def __init__(
        self,
        node: int,
        topic: str,
        parts: dict[TopicPartition, Part],
        written: Callable[[], None],
        follow: Callable[[Part, MessageBatch], None],
    ) -> None:
        self.node = node
        self.topic = topic
        self.parts = parts
        self.written = written
        self.follow = follow
        self.sequences: list[int] = []  # of the parts, in their order
        self.future: asyncio.Task[None]


class Direct:
    """The requests of one started producer."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self.flights: set[asyncio.Task[None]] = set()
        self._client: AIOKafkaClient = producer.client
        self._sender = producer._sender
        self._queue = producer._message_accumulator
        self._identity = producer._txn_manager
        self._led: dict[str, tuple[Any, dict[int, tuple[TopicPartition, Any]]]] = {}

    def send(
        self,
        topic: str,
        parts: Sequence[Part],
        written: Callable[[], None],
        follow: Callable[[Part, MessageBatch], None],
    ) -> Sequence[Part]:
        """Send what can go at once, a request a broker. The others are returned, in order.

        written(): a broker has written all of its parts. follow(part, batch): the part is aiokafka's
        from here on; the future of the batch tells what becomes of it.
        """
        if self._queue._batches or not self._identity.has_pid() or self._sender.sender_task.done():
            return parts
        led: dict[Any, dict[TopicPartition, Part]] = {}
        leaders = self._leaders(topic)
        for part in parts:
            place, node = leaders[part.partition]
            places = led.get(node)
            if places is None:
                places = led[node] = {}
            elif place in places:
                return parts  # one batch of a partition at a time
            places[place] = part
        rest: list[Part] = []
        for node, places in led.items():
            busy = node in self._sender._in_flight or self._sender._muted_partitions & places.keys()
            if busy or node is None or node < 0:
                rest += places.values()
            else:
                self._start(Flight(node, topic, places, written, follow))
        return rest

    def _leaders(self, topic: str) -> dict[int, tuple[TopicPartition, Any]]:
        """By partition: its name, and who leads it. Looked up anew where the cluster said something since."""
        said = self._client.cluster._partitions.get(topic, {})
        known = self._led.get(topic)
        if known is None or known[0] is not said:
            leaders = {p: (TopicPartition(topic, p), about.leader) for p, about in said.items()}
            known = self._led[topic] = said, leaders
        return known[1]

    def _start(self, flight: Flight) -> None:
        identity, sender = self._identity, self._sender
        for place, part in flight.parts.items():
            flight.sequences.append(identity.sequence_number(place))
            identity.increment_sequence_number(place, part.records)
            part.pending = flight
        sender._in_flight.add(flight.node)
        sender._muted_partitions.update(flight.parts)
        flight.future = asyncio.get_running_loop().create_task(self._fly(flight))
        self.flights.add(flight.future)
        flight.future.add_done_callback(self.flights.discard)

    async def _fly(self, flight: Flight) -> None:
        identity, sender = self._identity, self._sender
        producer = identity.producer_id, identity.producer_epoch
        request = DirectRequest(
            flight.topic,
            flight.parts.values(),
            flight.sequences,
            producer,
            sender._request_timeout_ms,
        )
        outcome: Any = None
        try:
            answer = await self._client.send(flight.node, request)
            if not request.all_written(answer):
                outcome = request.decoded(answer)
        except Exception as error:
            outcome = error
        try:
            if outcome is None:
                for part in flight.parts.values():
                    if part.pending is flight:  # not handed to another producer since
                        part.pending, part.acked = None, True
                flight.written()
            else:
                await self._give_over(flight, producer, outcome)
        finally:
            sender._in_flight.remove(flight.node)
            sender._muted_partitions.difference_update(flight.parts)
            if self._queue._batches and not self._queue._waiter_future.done():
                self._queue._waiter_future.set_result(None)

    async def _give_over(self, flight: Flight, producer: tuple[int, int], outcome: Any) -> None:
        """Have aiokafka's handler do what it does after such an answer or error of its own request."""
        queue, pending = self._queue, self._queue._pending_batches
        batches = {}
        for (place, part), sequence in zip(flight.parts.items(), flight.sequences, strict=True):
            if part.pending is not flight:
                continue  # it was handed to another producer since
            builder = FinishedBatch(part.batch, part.records)
            builder._set_producer_state(*producer, sequence)
            batch = MessageBatch(place, builder, queue._batch_ttl, queue._linger_time)
            batch.drain_ready()
            pending.add(batch)
            batch.future.add_done_callback(lambda _, batch=batch: pending.discard(batch))
            flight.follow(part, batch)
            batches[place] = batch
        if not batches:
            return
        try:
            if self._sender.sender_task.done():
                raise KafkaError("the producer ended")
            handler = SendProduceReqHandler(self._sender, batches)
            handler._client = _Answered(self._client, outcome)
            await handler.do(flight.node)
        except Exception as error:  # no KafkaError of the request, which `do` sorts out
            for batch in batches.values():
                batch.failure(error)


class _Answered:
    """Stands for the client of a handler whose request was sent already."""

    def __init__(self, client: AIOKafkaClient, outcome: Any) -> None:
        self._client = client
        self._outcome = outcome

    async def send(self, node_id: int, request: Any) -> Any:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
