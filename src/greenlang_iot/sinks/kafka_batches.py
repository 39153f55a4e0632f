"""Finished record batches in aiokafka's producer.

`FinishedBatch` stands where the producer expects its own BatchBuilder. What it relies on is private to
aiokafka 0.14 and pinned by a contract test: the producer calls `_set_producer_state` once before the
first `_build`, puts what `_build` returns into a request, and asks `record_count`, `size` and
`closed`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from crc32c import crc32c

from greenlang_iot.encode.bodies import BATCH_HEADER
from greenlang_iot.model.pieces import Body, Pieces

# of a batch: up to the CRC; from behind it to the producer; behind the producer; and behind the header
_LENGTH, _ATTRIBUTES, _COUNT = slice(17), slice(21, 43), slice(57, BATCH_HEADER.size)
_RECORDS = slice(BATCH_HEADER.size, None)
_PRODUCER = struct.Struct(">qhi")
"""Its id, epoch and base sequence."""
_CRC = struct.Struct(">I")
_NO_LIMIT = 2**31 - 1


def finished(
    batch: Body, identity: tuple[int, int, int], before: bytes = b""
) -> tuple[bytes, memoryview]:
    """Header and records of a batch with its producer id, epoch and base sequence; only the header is new, behind `before`."""
    view = memoryview(batch)
    records = view[_RECORDS]
    checked = b"".join((view[_ATTRIBUTES], _PRODUCER.pack(*identity), view[_COUNT]))
    crc = _CRC.pack(crc32c(records, crc32c(checked)))
    return b"".join((before, view[_LENGTH], crc, checked)), records


class FinishedBatch(BatchBuilder):  # type: ignore[misc]
    """A record batch that is written already: only producer id, epoch, sequence and CRC are new."""

    def __init__(self, batch: Body, records: int) -> None:
        # BatchBuilder.__init__ would allocate a builder that nobody fills.
        self._batch = batch
        self._relative_offset = records
        self._buffer: Pieces | None = None
        self._closed = True
        self._producer = (-1, -1, -1)

    def _set_producer_state(
        self, producer_id: int, producer_epoch: int, base_sequence: int
    ) -> None:
        # aiokafka counts on below zero after 2**31 − 1, the protocol goes back to 0.
        self._producer = (producer_id, producer_epoch, base_sequence & 0x7FFFFFFF)

    def _build(self) -> Pieces:
        if self._buffer is None:
            self._buffer = Pieces(finished(self._batch, self._producer))
        return self._buffer

    def size(self) -> int:
        return len(self._batch)


class Part:
    """One record batch: acknowledged, or on its way (`pending`), or to be handed over (again).

    pending: a MessageBatch in aiokafka's queue, or the Flight that it is part of.
    """

    acked = False
    pending: Any = None
    error: BaseException | None = None

    def __init__(self, partition: int, records: int, batch: Body) -> None:
        self.partition = partition
        self.records = records
        self.batch = batch


@dataclass(slots=True, frozen=True)
class KafkaRecord:
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


def records_of(batch: Body) -> Iterator[KafkaRecord]:
    """The records of a batch (slow: only for the few batches that a broker refuses)."""
    for record in MemoryRecords(bytes(batch)).next_batch():
        yield KafkaRecord(record.timestamp, record.key, record.value)


def batch_of(records: list[KafkaRecord], codec: int = 0) -> bytes:
    """One record batch of at least one record. codec: as in the batch's attributes."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, _NO_LIMIT)
    for offset, record in enumerate(records):
        builder.append(offset, record.timestamp_ms, record.key, record.value, [])
    return bytes(builder.build())


def codec_of(batch: Body) -> int:
    """The compression codec in a batch's attributes."""
    return memoryview(batch)[_ATTRIBUTES.start + 1] & 7
