"""Produce requests whose bytes are never joined.

aiokafka encodes a request from the inside out and copies every batch at each level: eleven copies, 0.3 µs
a record. `never_join` makes a client's produce requests answer `encode()` with their pieces; the one
place that uses them, `writer.write(size + (header + request))` in `AIOKafkaConnection.send`, then gives
them to the transport one by one. What it relies on is private to aiokafka 0.14 and pinned by a contract
test.
"""

import asyncio
import struct
from collections.abc import Collection, Sequence
from io import BytesIO
from operator import attrgetter
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest

from greenlang_iot.model.pieces import Body, Pieces
from greenlang_iot.sinks.kafka_batches import Part, finished

_ANSWERED: Final = {version: "ihqqq" if version >= 5 else "ihqq" for version in range(3, 8)}
"""By version of the request, what is answered for a partition: its number, an error, offset, time, ..."""

_PARTITION = attrgetter("partition")
_DIRECT = struct.Struct(">hhii")
"""No transactional id, acks, time-out, number of topics."""
_BATCH = struct.Struct(">ii")
"""A partition, and the size of its batch."""


class PiecesWriter:
    """A connection's StreamWriter that also takes pieces. Raises OSError where it has just been closed."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    def write(self, data: Body | Pieces) -> None:
        try:
            if isinstance(data, Pieces):
                self._writer.writelines(data)
            else:
                self._writer.write(data)
        except RuntimeError as error:  # uvloop's; aiokafka knows what an OSError means
            raise ConnectionResetError(str(error)) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)


class PiecesRequest(ProduceRequest):  # type: ignore[misc]
    """A ProduceRequest of batches in pieces."""

    def build(self, request_struct_class: Any) -> Any:
        request = super().build(request_struct_class)
        # An idempotent producer needs version 3, since when the schema is as it is written here.
        request.encode = self._pieces
        return request

    def _pieces(self) -> Pieces:
        parts: list[Body] = [
            _text(self._transactional_id),
            struct.pack(">hii", self._required_acks, self._timeout, len(self._topics)),
        ]
        for topic, batches in self._topics:
            parts += (_text(topic), struct.pack(">i", len(batches)))
            for partition, batch in batches:
                parts.append(struct.pack(">ii", partition, len(batch)))
                parts.extend(batch if isinstance(batch, Pieces) else (batch,))
        return Pieces(parts)


class DirectRequest(PiecesRequest):
    """One topic's batches for one broker, acks=all; the answer comes as bytes.

    parts: one of each partition. sequences: their first sequence numbers. producer: its id and epoch.
    """

    def __init__(
        self,
        topic: str,
        parts: Collection[Part],
        sequences: Sequence[int],
        producer: tuple[int, int],
        timeout_ms: int,
    ) -> None:
        super().__init__(None, -1, timeout_ms, [])
        self._topic = topic
        self._parts = parts
        self._sequences = sequences
        self._producer = producer
        self._version = 0
        self._answer: Any = None

    def build(self, request_struct_class: Any) -> Any:
        request = super().build(request_struct_class)
        self._version = request.API_VERSION
        self._answer = request.RESPONSE_TYPE
        request.RESPONSE_TYPE = _Undecoded
        return request

    def _pieces(self) -> Pieces:
        parts: list[Body] = [_DIRECT.pack(-1, self._required_acks, self._timeout, 1) + self._head()]
        producer, epoch = self._producer
        for part, sequence in zip(self._parts, self._sequences, strict=True):
            batch = part.batch
            place = _BATCH.pack(part.partition, len(batch))
            parts += finished(batch, (producer, epoch, sequence & 0x7FFFFFFF), place)
        return Pieces(parts)

    def _head(self) -> bytes:
        """How the topic begins, here and in the answer."""
        return _text(self._topic) + struct.pack(">i", len(self._parts))

    def all_written(self, answer: bytes) -> bool:
        """Whether it says of each partition that its batch is written."""
        head, item = struct.pack(">i", 1) + self._head(), _ANSWERED[self._version]
        items = struct.Struct(">" + item * len(self._parts))
        # behind them is the time to throttle
        if not answer.startswith(head) or len(answer) != len(head) + items.size + 4:
            return False
        said = items.unpack_from(answer, len(head))
        every = len(item)
        partitions = map(_PARTITION, self._parts)
        return not any(said[1::every]) and sorted(said[::every]) == sorted(partitions)

    def decoded(self, answer: bytes) -> Any:
        """The answer as aiokafka reads it."""
        return self._answer.decode(BytesIO(answer))


class _Undecoded:
    """A response's type: its bytes."""

    @staticmethod
    def decode(data: BytesIO) -> bytes:
        return data.read()


def never_join(client: AIOKafkaClient) -> None:
    """Have this client send its produce requests without joining their bytes."""
    send, get_connection = client.send, client._get_conn

    def send_pieces(node_id: int, request: Any, **options: Any) -> Any:
        if type(request) is ProduceRequest:
            request = PiecesRequest(
                request._transactional_id, request._required_acks, request._timeout, request._topics
            )
        return send(node_id, request, **options)

    async def connection_for_pieces(*arguments: Any, **options: Any) -> Any:
        connection = await get_connection(*arguments, **options)
        writer = connection._writer if connection is not None else None
        if writer is not None and not isinstance(writer, PiecesWriter):
            connection._writer = PiecesWriter(writer)
        return connection

    client.send, client._get_conn = send_pieces, connection_for_pieces


def _text(value: str | None) -> bytes:
    if value is None:
        return b"\xff\xff"
    raw = value.encode()
    return struct.pack(">h", len(raw)) + raw
