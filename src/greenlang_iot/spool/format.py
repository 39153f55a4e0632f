"""The bytes of a segment file. Pure: reading goes through a function that is passed in.

A segment is a header and then records, all integers little-endian:

    header   magic "GLIOTSEG" · version u32 · CRC-32C u32 · log id u64 · first record number u64 · created i64 (ns)
    record   length u32 · rows u32 · number u64 · CRC-32C u32 · body

The record's CRC covers log id, length, rows, number and body. The log id is random and known to
nobody who sends payloads, so that bytes in a body cannot pass for a record of this log.

Numbers go up by one from record to record. What a reader meets that is not the next record is
either a torn tail (nothing valid comes after it: it was never durable) or damage. After damage the
reader goes on at the next record whose checksum holds and whose number is at most `RESYNC` further;
if there is none it ends the segment. An unchecked record is never returned, and numbers that were
skipped are reported as `Damage`.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from crc32c import crc32c

from greenlang_iot.model.pieces import Body, Pieces

MAGIC = b"GLIOTSEG"
VERSION = 1
MAX_BODY = 1 << 28
"""Longest body in bytes; a longer length field is damage."""
RESYNC = 64
"""How many lost records a reader looks past within a segment before it gives the rest up."""
WINDOW = 1 << 20

_HEADER = struct.Struct("<8sIIQQq")
_RECORD = struct.Struct("<IIQI")
_NUMBER = struct.Struct("<Q")
_NUMBER_OFFSET = 8
HEADER_SIZE = _HEADER.size
RECORD_SIZE = _RECORD.size

ReadAt = Callable[[int, int], bytes]
"""(offset, size) → at most `size` bytes of the file from there on; fewer only at its end."""


class FormatError(Exception):
    """A file is not a segment that this version can read."""


class DamagedHeader(FormatError):
    """The header is torn or fails its check: nothing of the segment can be checked."""


@dataclass(slots=True, frozen=True)
class Header:
    """How a segment begins. created_ns: wall clock, ns since 1970."""

    log: int  # id of the log, 64 random bits
    first: int  # number of the first record
    created_ns: int


@dataclass(slots=True, frozen=True)
class Record:
    """One record as it was read: a sink's chunk, a batch of the lake, a transition. rows: readings in it."""

    number: int
    rows: int
    body: bytes
    end: int = 0  # offset in the segment after this record


@dataclass(slots=True, frozen=True)
class Unwritten:
    """A record on its way to the disk."""

    number: int
    rows: int
    body: bytes | Pieces


@dataclass(slots=True, frozen=True)
class Damage:
    """Records first..last (inclusive) are lost: their bytes did not pass the check, or are gone."""

    first: int
    last: int
    end: int = 0


def encode_header(header: Header) -> bytes:
    """HEADER_SIZE bytes, with their checksum."""
    fields = struct.pack("<QQq", header.log, header.first, header.created_ns)
    return _HEADER.pack(
        MAGIC,
        VERSION,
        crc32c(fields),
        header.log,
        header.first,
        header.created_ns,
    )


def decode_header(data: bytes) -> Header:
    """The header of a segment; FormatError where it is torn, foreign or of another version."""
    if len(data) < HEADER_SIZE:
        raise DamagedHeader("the header is cut short")
    magic, version, crc, log, first, created_ns = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise DamagedHeader("this is not a segment file")
    if version != VERSION:
        raise FormatError(f"segment version {version} is not supported (this is {VERSION})")
    if crc32c(data[HEADER_SIZE - 24 : HEADER_SIZE]) != crc:
        raise DamagedHeader("the header does not match its checksum")
    return Header(log, first, created_ns)


def pieces_of(body: bytes | Pieces) -> Iterable[Body]:
    """The bytes of a body in order, without joining them."""
    return body if isinstance(body, Pieces) else (body,)


def encode_record(log: int, number: int, rows: int, body: bytes | Pieces) -> bytes:
    """The record's header; the body follows it."""
    return _RECORD.pack(len(body), rows, number, _checksum(log, len(body), rows, number, body))


def _checksum(log: int, length: int, rows: int, number: int, body: bytes | Pieces) -> int:
    crc: int = crc32c(struct.pack("<QIIQ", log, length, rows, number))
    for piece in pieces_of(body):
        crc = crc32c(piece, crc)
    return crc


def read_records(read: ReadAt, log: int, start: int, number: int) -> Iterator[Record | Damage]:
    """Records of one segment from offset `start` on, where record `number` is expected.

    In a file that still grows, the end looks like a torn tail: read on from the last `end` later.
    """
    window = _Window(read)
    offset = start
    while True:
        record = _record_at(window, log, offset)
        if record is None or record.number != number:
            found = _resync(window, log, offset, number)
            if found is None:
                return
            record = found
            if record.number > number:
                yield Damage(number, record.number - 1, record.end - RECORD_SIZE - len(record.body))
        yield record
        offset, number = record.end, record.number + 1


def record_heads(read: ReadAt, start: int, number: int) -> Iterator[tuple[int, int]]:
    """(number, rows) of the records of one segment, unchecked, up to the first that is not next."""
    window = _Window(read)
    while len(head := window.get(start, RECORD_SIZE)) == RECORD_SIZE:
        length, rows, found, _ = _RECORD.unpack(head)
        if found != number:
            return
        yield number, rows
        start, number = start + RECORD_SIZE + length, number + 1


def _record_at(window: "_Window", log: int, offset: int) -> Record | None:
    head = window.get(offset, RECORD_SIZE)
    if len(head) < RECORD_SIZE:
        return None
    length, rows, number, crc = _RECORD.unpack(head)
    if length > MAX_BODY:
        return None
    body = window.get(offset + RECORD_SIZE, length)
    if len(body) < length or _checksum(log, length, rows, number, body) != crc:
        return None
    return Record(number, rows, body, offset + RECORD_SIZE + length)


def _resync(window: "_Window", log: int, offset: int, number: int) -> Record | None:
    """The first valid record after `offset` with a number in number..number+RESYNC."""
    rest = window.rest(offset)
    if len(rest) < RECORD_SIZE:
        return None
    for candidate in range(number, number + RESYNC + 1):
        pattern = _NUMBER.pack(candidate)
        at = rest.find(pattern, _NUMBER_OFFSET)
        while at >= 0:
            record = _record_at(window, log, offset + at - _NUMBER_OFFSET)
            if record is not None and record.number == candidate:
                return record
            at = rest.find(pattern, at + 1)
    return None


class _Window:
    """A part of the file in memory, so that small records cost no system call each."""

    def __init__(self, read: ReadAt) -> None:
        self._read = read
        self._at = 0
        self._data = b""

    def get(self, offset: int, size: int) -> bytes:
        start = offset - self._at
        if start < 0 or start + size > len(self._data):
            self._data = self._read(offset, max(size, WINDOW))
            self._at, start = offset, 0
        return self._data[start : start + size]

    def rest(self, offset: int) -> bytes:
        parts = []
        while part := self._read(offset, 1 << 24):
            parts.append(part)
            offset += len(part)
        return b"".join(parts)
