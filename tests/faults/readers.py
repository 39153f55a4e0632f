"""Independent readers: what lies in Kafka, InfluxDB, spool folders and dead letters.

They share the gateway's formats with it (segments, dead letters), never its counters.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from confluent_kafka import Consumer, TopicPartition
from tests.fakes.lineprotocol import parse

from greenlang_iot.encode.bodies import pieces
from greenlang_iot.model.outcomes import DeadLetter
from greenlang_iot.simulate.lake_reader import read_readings
from greenlang_iot.simulate.manifest import Reading
from greenlang_iot.sinks.deadletter import read_dead_letters
from greenlang_iot.sinks.kafka_batches import records_of
from greenlang_iot.spool.format import Record
from greenlang_iot.spool.reader import SegmentReader
from greenlang_iot.spool.status import newest_released

TAGS = ("org", "site", "device", "type")

Identity = tuple[str, str, int]
"""(device, metric, ts in ns): what InfluxDB keeps apart."""


class Found(NamedTuple):
    """What was found for one row of the matrix.

    kafka: copies of every reading. spooled_kafka, refused_kafka, …: not in the sink, but safe.
    """

    kafka: Counter[Reading]
    spooled_kafka: set[Reading]
    refused_kafka: set[Reading]
    influx: set[Identity]
    spooled_influx: set[Identity]
    refused_influx: set[Identity]
    letters: set[tuple[str, bytes]]
    digested: int
    lake: Set[Identity] = frozenset()


class KafkaReader:
    """Reads what was written to a topic since it was made."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "fault-matrix",
                "enable.auto.commit": False,
                "fetch.message.max.bytes": 8 << 20,
                "log_level": 0,  # brokers that are away are the point here
            }
        )
        self._from = self._ends()

    def _ends(self) -> dict[int, int]:
        topic = self._consumer.list_topics(self._topic, timeout=20).topics[self._topic]
        if topic.error is not None:
            return {}  # it is made later
        return {
            number: self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, number), timeout=20
            )[1]
            for number in topic.partitions
        }

    def values(self) -> Iterator[bytes]:
        for _, value in self.records():
            assert value is not None
            yield value

    def records(self) -> Iterator[tuple[bytes | None, bytes | None]]:
        """(key, value), in order per partition."""
        wanted = {
            partition: (self._from.get(partition, 0), end)
            for partition, end in self._ends().items()
            if self._from.get(partition, 0) < end
        }
        self._consumer.assign([TopicPartition(self._topic, p, s) for p, (s, _) in wanted.items()])
        left = sum(end - start for start, end in wanted.values())
        while left:
            found = self._consumer.consume(min(left, 5_000), timeout=20)
            assert found, f"nothing more of {self._topic}, {left} records to come"
            for message in found:
                assert message.error() is None, message.error()
                if message.offset() < wanted[message.partition()][1]:
                    left -= 1
                    yield message.key(), message.value()

    def close(self) -> None:
        self._consumer.close()


def reading_of(value: bytes) -> Reading:
    """One record of the readings topic."""
    document: dict[str, Any] = orjson.loads(value)
    return Reading(
        document["device"],
        document["metric"],
        document["ts"],
        float(document["value"]),
        document.get("seq"),
    )


def readings_of_body(body: bytes) -> Iterator[Reading]:
    """A chunk for Kafka as it lies in the spool; or the value of one refused record."""
    if body[:1] == b"{":
        yield reading_of(body)
        return
    for piece in pieces(body):
        for record in records_of(piece[2]):
            yield reading_of(record.value or b"")


def identities_of_lines(body: bytes) -> Iterator[Identity]:
    for line in body.decode().splitlines():
        if line:
            point = parse(line)
            yield from identities(point.tags["device"], point.fields, point.time or 0)


def identities(device: str, fields: Iterable[str], ts_ns: int) -> Iterator[Identity]:
    for name in fields:
        if not name.endswith("_score"):
            yield device, name, ts_ns


def influx1_identities(rows: Iterable[dict[str, Any]]) -> Iterator[Identity]:
    """Rows of `SELECT * FROM telemetry` from InfluxDB 1.x."""
    for row in rows:
        fields = [n for n, v in row.items() if n not in ("name", "time", *TAGS) and v is not None]
        yield from identities(row["device"], fields, int(row["time"]))


def lake_identities(lake: Path) -> set[Identity]:
    """Of every reading in the lake, compacted or not."""
    return {(r.device, r.metric, r.ts_ns) for r in read_readings(lake)}


def spooled(folder: Path, sink: str) -> Iterator[bytes]:
    """Bodies of the records that wait in the spools of one sink, of whatever shard."""
    for log in sorted(folder.glob(f"shard-*/{sink}")):
        reader = SegmentReader(log, newest_released(log) + 1, sync=False)
        while items := reader.poll():
            for item in items:
                if isinstance(item, Record):
                    yield item.body


def read_all(
    data_dir: Path,
    kafka: Counter[Reading],
    influx: set[Identity],
    letters: Iterable[DeadLetter] = (),
) -> Found:
    """Add spools and dead letters to what the sinks hold. letters: those that are not in files."""
    spool = data_dir / "spool"
    found = Found(kafka, set(), set(), influx, set(), set(), set(), 0)
    for body in spooled(spool, "kafka"):
        found.spooled_kafka.update(readings_of_body(body))
    for body in spooled(spool, "influxdb"):
        found.spooled_influx.update(identities_of_lines(body))
    digested = 0
    for letter in chain(read_dead_letters(data_dir / "dead-letter"), letters):
        if letter.kind == "message":
            found.letters.add((letter.topic, letter.payload))
        elif letter.kind == "digest":
            digested += letter.count
        elif letter.sink == "kafka":
            found.refused_kafka.update(readings_of_body(letter.payload))
        else:
            found.refused_influx.update(identities_of_lines(letter.payload))
    return found._replace(digested=digested)
