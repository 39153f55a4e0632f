"""The body of a chunk of Kafka record batches, as it is sent and as it lies in the spool (version 1).

    u8 version = 1, then per record batch
    u32 partition · u32 records · u32 length · `length` bytes (integers little endian)

A record batch is finished but for the fields only the sender knows: producer id, producer epoch and
base sequence are −1 and the CRC is 0. Batches of one partition stand in their order of writing.
Light to import: who sends bodies needs no kernels.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from greenlang_iot.model.pieces import Body, Pieces

BODY_VERSION = 1
BATCH_HEADER = struct.Struct(">qiibIhiqqqhii")
"""baseOffset, batchLength, partitionLeaderEpoch, magic, crc, attributes, lastOffsetDelta,
baseTimestamp, maxTimestamp, producerId, producerEpoch, baseSequence, records."""

PIECE = struct.Struct("<III")
_CUT = (0, 0, 0)


class Piece(NamedTuple):
    """One record batch of a body."""

    partition: int
    records: int
    batch: memoryview


def pieces(body: Body | Pieces) -> Iterator[Piece]:
    """The record batches of a body, in order; ValueError where it is not one of ours."""
    if isinstance(body, Pieces):  # as `RecordEncoder.seal` makes them
        parts = iter(body)
        next(parts)
        for part in parts:
            partition, records, _ = PIECE.unpack_from(part)
            yield Piece(partition, records, memoryview(part)[PIECE.size :])
        return
    view = memoryview(body)
    end, head, least, unpack_from = len(view), PIECE.size, BATCH_HEADER.size, PIECE.unpack_from
    if end == 0 or view[0] != BODY_VERSION:
        raise ValueError("not a body of Kafka record batches, or of a newer version")
    pos = 1
    while pos < end:
        begin = pos + head
        partition, records, length = unpack_from(view, pos) if begin <= end else _CUT
        pos = begin + length
        if length < least or pos > end:
            raise ValueError("a body of Kafka record batches is cut short")
        yield Piece(partition, records, view[begin:pos])
