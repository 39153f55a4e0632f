"""Columns → Kafka record batches (magic 2): one JSON record per reading, key = device id.

The body of a chunk is described in `bodies`; the record's value follows docs/schemas/reading-v1.json.
"""

import struct
from typing import Literal

import cramjam
import numpy as np
import orjson

from greenlang_iot.encode import kernels_records as kernels
from greenlang_iot.encode.bodies import BODY_VERSION
from greenlang_iot.encode.texts import SeriesTexts
from greenlang_iot.model.batches import I32, SLACK, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory, Texts, packed
from greenlang_iot.model.flags import LEARNING, SHED, SUSPECT
from greenlang_iot.model.kinds import kinds
from greenlang_iot.model.pieces import Body, Pieces

Compression = Literal["none", "gzip", "snappy", "zstd"]

_HEAD = kernels.PIECE + kernels.HEADER
"""Room before a partition's records."""
_CODEC = {"none": 0, "gzip": 1, "snappy": 2, "zstd": 4}
_SNAPPY_BLOCK = 32_768
_LONGEST_TEXT = 32_767  # of a value: ReadingBatch.text_len is an int16
_LONGEST_REST = 256  # of a record: varints, numbers, field names


class RecordEncoder:
    """One open chunk of record batches, a batch per partition (model.protocols.OpenChunk).

    max_batch_bytes bounds a batch before compression; one record longer than it stands alone.
    Memory: partitions × (max_batch_bytes + the longest record), touched only as far as it is used.
    """

    def __init__(
        self,
        directory: Directory,
        partitions: int,
        compression: Compression,
        max_batch_bytes: int,
    ) -> None:
        self._partitions = partitions
        self._compression = compression
        self._max_batch_bytes = max_batch_bytes
        self._closed: list[Body] = []
        self._closed_rows = self._closed_size = 0
        self._open_rows = self._open_size = 0
        self._count = np.zeros(partitions, np.int64)
        self._codec = np.zeros(partitions, np.uint8)
        self._base_ms = np.zeros(partitions, np.int64)
        self._max_ms = np.zeros(partitions, np.int64)
        self._tails = _tails()
        self._stride = 0
        self.grow(directory)

    @property
    def rows(self) -> int:
        return self._closed_rows + self._open_rows

    @property
    def size(self) -> int:
        return self._closed_size + self._open_size

    def grow(self, directory: Directory) -> None:
        self._texts = _series_texts(directory, self._partitions)
        longest = self._texts.longest + _LONGEST_TEXT + _LONGEST_REST
        stride = _HEAD + self._max_batch_bytes + longest
        if stride > self._stride:
            for partition in np.flatnonzero(self._count):
                self._close(int(partition))
            self._stride = stride
            self._out = np.empty(self._partitions * stride + SLACK, np.uint8)
            self._start = np.arange(self._partitions, dtype=np.int64) * stride + _HEAD
            self._cursor = self._start.copy()
            self._empty = int(np.add.reduce(self._start))  # what the cursors add up to

    def append(self, batch: ReadingBatch, scores: ScoreBatch) -> int:
        before = self.rows
        texts = self._texts
        millionths = np.empty(batch.n, np.int32)
        row = 0
        while True:
            row = kernels.append_records(
                row,
                batch.n,
                batch.series,
                batch.ts_ns,
                batch.seq,
                batch.flags,
                batch.text_off,
                batch.text_len,
                batch.buffer,
                batch.arena,
                scores.score,
                scores.verdict,
                texts.place,
                texts.blob,
                texts.heads,
                self._tails.blob,
                self._tails.off,
                self._stride,
                self._max_batch_bytes,
                self._out,
                self._cursor,
                self._count,
                self._base_ms,
                self._max_ms,
                millionths,
            )
            self._measure()
            if row == batch.n:
                return self.rows - before
            self._close(self._partition(int(batch.series[row])))

    def _measure(self) -> None:
        self._open_rows = int(np.add.reduce(self._count))
        self._open_size = int(np.add.reduce(self._cursor)) - self._empty

    def _partition(self, series: int) -> int:
        return int(self._texts.heads[4 * self._texts.place[2 * series] + 2])

    def seal(self) -> Body | Pieces:
        """The body; where it fills much of the buffer, pieces of that, and a new buffer is taken."""
        given = self._compression == "none" and 2 * self.size > len(self._out)
        parts: list[Body] = [bytes([BODY_VERSION]), *self._closed, *self._finish(slice(None))]
        self._closed = []
        self._closed_rows = self._closed_size = self._open_rows = self._open_size = 0
        if not given:
            return b"".join(parts)
        self._out = np.empty_like(self._out)
        return Pieces(parts)

    def _close(self, partition: int) -> None:
        """Put the partition's open batch aside."""
        self._closed_rows += int(self._count[partition])
        (piece,) = self._finish(slice(partition, partition + 1))
        self._closed.append(bytes(piece))
        self._closed_size += len(piece)
        self._measure()

    def _finish(self, partitions: slice) -> list[memoryview]:
        """End the open batches of these partitions: what the body holds of each, in the buffer where it is written."""
        buffer = self._out.data
        count, start, cursor = (c[partitions] for c in (self._count, self._start, self._cursor))
        if self._compression != "none":
            for i in np.flatnonzero(count).tolist():
                begin, end = int(start[i]), int(cursor[i])
                self._codec[partitions][i], content = _compressed(
                    self._compression, buffer[begin:end]
                )
                cursor[i] = begin + len(content)
                buffer[begin : cursor[i]] = content
        kernels.write_heads(
            partitions.start or 0,
            count,
            self._codec[partitions],
            start,
            cursor,
            self._base_ms[partitions],
            self._max_ms[partitions],
            self._out,
        )
        places = zip(count.tolist(), start.tolist(), cursor.tolist(), strict=True)
        cursor[:] = start
        count[:] = 0
        return [buffer[begin - _HEAD : end] for records, begin, end in places if records]


def _series_texts(directory: Directory, partitions: int) -> SeriesTexts:
    """Of a device: key, and the JSON up to its type; of a metric and its unit: the JSON up to `ts`."""
    site_org = np.zeros(len(directory.site), np.int32)
    site_org[directory.site_of] = directory.org_of
    partition: I32 = np.empty(directory.n_devices, np.int32)
    kernels.partitions_of(directory.device.blob, directory.device.off, partitions, partition)
    first, kind = kinds(directory.series_metric, directory.series_unit)
    pairs = zip(
        directory.series_metric[first].tolist(), directory.series_unit[first].tolist(), strict=True
    )
    return SeriesTexts(
        directory,
        metrics=[
            (
                b',"metric":%b,"unit":%b,"ts":'
                % (_quoted(directory.metric[metric]), _quoted(directory.unit[unit])),
                b"",
            )
            for metric, unit in pairs
        ],
        kind=kind,
        names=_escaped(directory.device),
        before=[
            b'{"v":1,"org":%b,"site":%b,"device":"'
            % (_quoted(directory.org[org]), _quoted(directory.site[site]))
            for site, org in enumerate(site_org.tolist())
        ],
        before_of=directory.site_of,
        after=[b'","type":%b' % _quoted(directory.type[i]) for i in range(len(directory.type))],
        after_of=directory.type_of,
        number=partition,
        with_key=True,
    )


def _tails() -> Texts:
    """The record's end by `verdict & 7`: LEARNING outranks SUSPECT, SHED is a field of its own."""
    tails = []
    for verdict in range(8):
        word = b"learning" if verdict & LEARNING else b"suspect" if verdict & SUSPECT else b"ok"
        tails.append(b',"verdict":"%b"%b}' % (word, b',"shed":true' if verdict & SHED else b""))
    return packed(tails)


def _quoted(name: str) -> bytes:
    return orjson.dumps(name)


def _escaped(texts: Texts) -> Texts:
    """The texts as they stand between the quotes of a JSON string; mostly the same."""
    blob = texts.blob
    if not np.any((blob < 0x20) | (blob == ord('"')) | (blob == ord("\\"))):
        return texts
    return packed([_quoted(texts[i])[1:-1] for i in range(len(texts))])


def _compressed(compression: Compression, content: memoryview) -> tuple[int, Body]:
    """(codec, content): uncompressed where compressing does not make it smaller."""
    packed: Body
    if compression == "gzip":
        packed = memoryview(cramjam.gzip.compress(content, level=1))
    elif compression == "zstd":
        packed = memoryview(cramjam.zstd.compress(content, level=1))
    else:
        packed = _snappy(content)
    if len(packed) >= len(content):
        return 0, content
    return _CODEC[compression], packed


def _snappy(content: memoryview) -> bytes:
    """Snappy in the blocks of snappy-java, which every Kafka client reads."""
    parts: list[Body] = [b"\x82SNAPPY\x00", struct.pack(">ii", 1, 1)]
    for start in range(0, len(content), _SNAPPY_BLOCK):
        block = memoryview(cramjam.snappy.compress_raw(content[start : start + _SNAPPY_BLOCK]))
        parts += [struct.pack(">i", len(block)), block]
    return b"".join(parts)
