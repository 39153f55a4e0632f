"""The slow, obvious twin of encode/records.py: one record after the other with struct and orjson."""

import math
import struct
from dataclasses import dataclass, field

import numpy as np
import orjson

from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import (
    DUPLICATE,
    HAS_SEQ,
    LEARNING,
    SHED,
    SUSPECT,
    TEXT_IN_ARENA,
)


def murmur2(key: bytes) -> int:
    """MurmurHash2 as Java's clients compute it (seed 0x9747b28c), as an unsigned 32-bit number."""
    mask, m = 0xFFFFFFFF, 0x5BD1E995
    h = 0x9747B28C ^ len(key)
    whole = len(key) // 4 * 4
    for (k,) in struct.iter_unpack("<I", key[:whole]):
        k = k * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if tail := key[whole:]:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


def varint(value: int) -> bytes:
    value = value * 2 if value >= 0 else -value * 2 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def value_of(directory: Directory, batch: ReadingBatch, scores: ScoreBatch, row: int) -> bytes:
    """The JSON of one reading (schema v1)."""
    series = int(batch.series[row])
    device = int(directory.series_device[series])
    flags = int(batch.flags[row])
    source = batch.arena if flags & TEXT_IN_ARENA else batch.buffer
    start = int(batch.text_off[row])
    text = source[start : start + int(batch.text_len[row])].tobytes()
    score = math.floor((1 - 10.0 ** -float(scores.score[row])) * 1e6 + 0.5) / 1e6
    verdict = int(scores.verdict[row])
    word = "learning" if verdict & LEARNING else "suspect" if verdict & SUSPECT else "ok"
    fields = [
        b'"v":1',
        b'"org":' + orjson.dumps(directory.org[int(directory.org_of[device])]),
        b'"site":' + orjson.dumps(directory.site[int(directory.site_of[device])]),
        b'"device":' + orjson.dumps(directory.device[device]),
        b'"type":' + orjson.dumps(directory.type[int(directory.type_of[device])]),
        b'"metric":' + orjson.dumps(directory.metric[int(directory.series_metric[series])]),
        b'"unit":' + orjson.dumps(directory.unit[int(directory.series_unit[series])]),
        b'"ts":%d' % int(batch.ts_ns[row]),
        b'"value":' + text,
    ]
    if flags & HAS_SEQ:
        fields.append(b'"seq":%d' % int(batch.seq[row]))
    fields.append(b'"score":' + f"{score:.6f}".encode())
    fields.append(b'"verdict":"%b"' % word.encode())
    if verdict & SHED:
        fields.append(b'"shed":true')
    return b"{" + b",".join(fields) + b"}"


@dataclass
class OpenBatch:
    """One record batch in the making."""

    base_ms: int = 0
    max_ms: int = 0
    records: list[bytes] = field(default_factory=list)

    def record(self, ms: int, key: bytes, value: bytes) -> bytes:
        base = self.base_ms if self.records else ms
        body = b"".join(
            [
                b"\0",
                varint(ms - base),
                varint(len(self.records)),
                varint(len(key)),
                key,
                varint(len(value)),
                value,
                b"\0",
            ]
        )
        return varint(len(body)) + body

    def add(self, ms: int, record: bytes) -> None:
        if not self.records:
            self.base_ms = self.max_ms = ms
        self.max_ms = max(self.max_ms, ms)
        self.records.append(record)

    def finish(self, partition: int) -> bytes:
        content = b"".join(self.records)
        n = len(self.records)
        header = struct.pack(
            ">qiibIhiqqqhii",
            0,
            49 + len(content),
            -1,
            2,
            0,
            0,
            n - 1,
            self.base_ms,
            self.max_ms,
            -1,
            -1,
            -1,
            n,
        )
        return struct.pack("<III", partition, n, len(header) + len(content)) + header + content


def body(
    directory: Directory,
    batches: list[tuple[ReadingBatch, ScoreBatch]],
    partitions: int,
    max_batch_bytes: int,
) -> bytes:
    """What RecordEncoder without compression seals after appending all `batches`."""
    closed: list[bytes] = []
    opened = [OpenBatch() for _ in range(partitions)]
    for batch, scores in batches:
        for row in np.flatnonzero(~batch.flags[: batch.n] & DUPLICATE).tolist():
            key = directory.device.raw(int(directory.series_device[batch.series[row]]))
            partition = (murmur2(key) & 0x7FFFFFFF) % partitions
            ms = int(batch.ts_ns[row]) // 1_000_000
            value = value_of(directory, batch, scores, row)
            current = opened[partition]
            record = current.record(ms, key, value)
            size = 61 + sum(map(len, current.records)) + len(record)
            if current.records and size > max_batch_bytes:
                closed.append(current.finish(partition))
                current = opened[partition] = OpenBatch()
                record = current.record(ms, key, value)
            current.add(ms, record)
    closed += [batch.finish(p) for p, batch in enumerate(opened) if batch.records]
    return b"\x01" + b"".join(closed)
