"""A counting Kafka broker: speaks what an idempotent producer needs, checks every record.

`python -m greenlang_iot.bench.counting_kafka PARTITIONS [DEVICES START_MS]`: prints its port; a line on
stdin prints its counts. Checked per batch: CRC-32C, magic, record count against the offsets, base
sequence in order per partition; and each record of `iot.readings` where DEVICES is given.
APIs: ApiVersions v0, Metadata v1 (any topic exists), InitProducerId v0, Produce v3.
"""

import asyncio
import struct
import sys
from collections.abc import Callable

import uvloop
from aiokafka import codec
from crc32c import crc32c

from greenlang_iot.bench.inbox import Inbox, spared
from greenlang_iot.bench.tally import Delay, Tally, answer_stdin
from greenlang_iot.model.batches import U8

READINGS = b"iot.readings"
_CODECS: dict[int, Callable[[bytes], bytes]] = {
    1: codec.gzip_decode,
    2: codec.snappy_decode,
    4: codec.zstd_decode,
}
"""By the codec in a batch's attributes."""
TOPICS = (b"iot.readings", b"iot.alerts", b"iot.alerts.state", b"iot.deadletter")


class Counts:
    """Of all connections. records: of the topic of readings; others: of every other topic."""

    records = 0
    others = 0
    batches = 0
    nbytes = 0
    bad_crc = 0
    bad_batch = 0
    out_of_order = 0
    repeated = 0
    requests = 0


class Reader:
    """Walks a request."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data = data
        self.at = at

    def unpack(self, fmt: str) -> int:
        (value,) = struct.unpack_from(">" + fmt, self.data, self.at)
        self.at += struct.calcsize(fmt)
        return int(value)

    def string(self) -> bytes:
        size = self.unpack("h")
        if size < 0:
            return b""
        self.at += size
        return bytes(self.data[self.at - size : self.at])


def text(value: bytes) -> bytes:
    return struct.pack(">h", len(value)) + value


class Connection(Inbox):
    """One client; what the log knows is shared by all. The answer goes out before records are looked at."""

    sequences: dict[tuple[bytes, int, int, int], int] = {}  # noqa: RUF012
    producers = 0
    offsets: dict[tuple[bytes, int], int] = {}  # noqa: RUF012
    partitions = 12
    port = 0
    tally: Tally | None = None

    def __init__(self) -> None:
        super().__init__()
        self._batches: list[tuple[bytes, int, int]] = []  # topic and bytes of those to look at

    def take(self, data: U8, n: int) -> int:
        done = 0
        while n - done >= 4:
            size = int.from_bytes(data[done : done + 4].tobytes(), "big")
            if n - done < 4 + size:
                break
            self._request(data.data, done + 4)
            for topic, first, stop in self._batches:
                self._check(topic, data[first:], stop - first)
            self._batches = []
            done += 4 + size
        return done

    def _request(self, data: memoryview, at: int) -> None:
        reader = Reader(data, at)
        key, version, correlation = reader.unpack("h"), reader.unpack("h"), reader.unpack("i")
        reader.string()
        handler = {18: self._versions, 3: self._metadata, 22: self._producer, 0: self._produce}
        body = handler[key](reader, version)
        answer = struct.pack(">ii", 4 + len(body), correlation) + body
        self.answer(answer, Delay.seconds if key == 0 else 0.0)

    def _versions(self, reader: Reader, version: int) -> bytes:
        apis = ((0, 3, 3), (3, 1, 1), (18, 0, 0), (22, 0, 0))
        return struct.pack(">hi", 0, len(apis)) + b"".join(struct.pack(">hhh", *a) for a in apis)

    def _metadata(self, reader: Reader, version: int) -> bytes:
        count = reader.unpack("i")
        topics = [reader.string() for _ in range(count)] if count >= 0 else list(TOPICS)
        body = struct.pack(">ii", 1, 0) + text(b"127.0.0.1") + struct.pack(">i", self.port)
        body += struct.pack(">h", -1) + struct.pack(">i", 0) + struct.pack(">i", len(topics))
        for topic in topics:
            body += struct.pack(">h", 0) + text(topic) + b"\0" + struct.pack(">i", self.partitions)
            for partition in range(self.partitions):
                body += struct.pack(">hiiiiii", 0, partition, 0, 1, 0, 1, 0)
        return body

    def _producer(self, reader: Reader, version: int) -> bytes:
        Connection.producers += 1
        return struct.pack(">ihqh", 0, 0, Connection.producers, 0)

    def _produce(self, reader: Reader, version: int) -> bytes:
        Counts.requests += 1
        reader.string()
        reader.unpack("h")
        reader.unpack("i")
        topics = reader.unpack("i")
        body = struct.pack(">i", topics)
        for _ in range(topics):
            topic, partitions = reader.string(), reader.unpack("i")
            body += text(topic) + struct.pack(">i", partitions)
            for _ in range(partitions):
                partition, size = reader.unpack("i"), reader.unpack("i")
                base = self._append(topic, partition, reader.data, reader.at)
                self._batches.append((topic, reader.at, reader.at + size))
                reader.at += size
                body += struct.pack(">ihqq", partition, 0, base, -1)
        return body + struct.pack(">i", 0)

    def _append(self, topic: bytes, partition: int, data: memoryview, at: int) -> int:
        """The base offset of the batch at data[at:], if its producer is in step."""
        producer, epoch, sequence, count = struct.unpack_from(">qhii", data, at + 43)
        key = (topic, partition, producer, epoch)
        expected = self.sequences.get(key, 0)
        Counts.repeated += sequence < expected
        Counts.out_of_order += sequence > expected
        self.sequences[key] = sequence + count
        base = self.offsets.get((topic, partition), 0)
        self.offsets[topic, partition] = base + count
        return base

    def _check(self, topic: bytes, data: U8, size: int) -> None:
        """The batch data[:size], which has SPARE bytes behind it."""
        length, magic, crc = struct.unpack_from(">i4xbI", data.data, 8)
        (last,) = struct.unpack_from(">i", data.data, 23)
        base_ms, count = struct.unpack_from(">q22xi", data.data, 27)
        Counts.batches += 1
        if topic == READINGS:
            Counts.records += count
        else:
            Counts.others += count
        Counts.nbytes += size
        Counts.bad_crc += crc32c(data[21:size]) != crc
        Counts.bad_batch += not (magic == 2 and last == count - 1 and length == size - 12)
        if self.tally is not None and topic == READINGS:
            first, codec_of = 61, int(data[22]) & 7
            if codec_of:
                plain = _CODECS[codec_of](data[61:size].tobytes())
                data, first, size = spared(plain), 0, len(plain)
            Counts.bad_batch += self.tally.records(data, first, size, base_ms) != count


async def serve() -> None:
    """Until the end of stdin."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0)
    Connection.port = server.sockets[0].getsockname()[1]

    def counts() -> dict[str, int]:
        own = {name: value for name, value in vars(Counts).items() if isinstance(value, int)}
        return own | (Connection.tally.counts() if Connection.tally else {})

    await answer_stdin(Connection.port, counts)


if __name__ == "__main__":
    Connection.partitions = int(sys.argv[1])
    if len(sys.argv) > 3:
        Connection.tally = Tally(int(sys.argv[2]), int(sys.argv[3]))
    uvloop.run(serve())
