"""Replay of dead letters: each goes only where it was refused, and is remembered as replayed.

A letter counts as replayed when its target has acknowledged it; the journal is synced after each group.
After a crash in between a group comes again: sinks and gateway recognise what they have.
"""

import json
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from greenlang_iot.decode.routes import Routes
from greenlang_iot.encode.deadletter import decode, ident, resubmission
from greenlang_iot.formats.maps import Json
from greenlang_iot.formats.topics import NAMESPACE, TopicTemplate
from greenlang_iot.model.errors import GatewayError, SinkError
from greenlang_iot.model.flags import CUT
from greenlang_iot.model.outcomes import DeadLetter
from greenlang_iot.settings.formats import routes
from greenlang_iot.settings.model import InfluxSettings, KafkaSettings, MqttSettings
from greenlang_iot.spool.files import OS_FILES

GROUP: Final = 1_000
"""Letters that are sent, and then remembered, together."""
JOURNAL: Final = "replayed"


@dataclass(slots=True, frozen=True)
class Stored:
    """A dead letter with its name and whether it was replayed."""

    ident: str
    letter: DeadLetter
    replayed: bool

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it is here, each reason once."""
        if self.letter.kind == "message":
            return tuple(dict.fromkeys(str(reason) for _, reason in self.letter.paths))
        return ("sink_refused",) if self.letter.kind == "line" else (self.letter.answer,)

    @property
    def cut(self) -> bool:
        """Is it but the beginning of a message that was larger than the largest packet?"""
        return "too_large" in self.reasons and len(self.letter.payload) == CUT

    @property
    def target(self) -> str:
        """Where a replay sends it: `mqtt`, a sink's name, or nothing.

        An old Sparkplug message would break the numbering of its edge node for everybody who listens;
        the beginning of a message is another message.
        """
        if self.letter.kind == "message" and (self.letter.topic.startswith(NAMESPACE) or self.cut):
            return ""
        return {"message": "mqtt", "line": self.letter.sink}.get(self.letter.kind, "")


class Journal:
    """Names of the letters that were replayed: one a line, in the dead letters' folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL
        try:
            self.done = set(self._path.read_text().split())
        except FileNotFoundError:
            self.done = set()

    def add(self, idents: Iterable[str]) -> None:
        """Remember them durably. Raises OSError."""
        new = [i for i in idents if i not in self.done]
        if not new:
            return
        OS_FILES.make_folder(self._path.parent)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        with open(os.open(self._path, flags, 0o600), "a") as file:
            file.write("".join(i + "\n" for i in new))
            file.flush()
            os.fsync(file.fileno())
        self.done.update(new)


def stored(letters: Iterable[DeadLetter], journal: Journal) -> list[Stored]:
    """Each letter once, though a crash may have left two copies."""
    named = {ident(letter): letter for letter in letters}
    return [Stored(name, letter, name in journal.done) for name, letter in named.items()]


async def from_kafka(settings: KafkaSettings) -> AsyncIterator[DeadLetter]:
    """Every dead letter of the topic, from its beginning to its present end. Raises GatewayError."""
    async for _, value in records(settings, settings.deadletter_topic):
        try:
            yield decode(value)
        except ValueError:
            continue  # another writer's record; the gateway's own are tested to decode


async def records(settings: KafkaSettings, topic: str) -> AsyncIterator[tuple[bytes, bytes]]:
    """(key, value) of a topic's records, from its beginning to its present end. Raises GatewayError.

    A value is empty where the record is a tombstone.
    """
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.errors import KafkaError

    from greenlang_iot.sinks.kafka_client import client_options

    consumer = AIOKafkaConsumer(**client_options(settings), enable_auto_commit=False)
    try:
        await consumer.start()
        numbers = consumer.partitions_for_topic(topic) or await _partitions(consumer, topic)
        parts = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(parts)
        begins = await consumer.beginning_offsets(parts)
        ends = await consumer.end_offsets(parts)
        for part in parts:
            consumer.seek(part, begins[part])
            while await consumer.position(part) < ends[part]:
                batch = await consumer.getmany(part, timeout_ms=1_000)
                for record in batch.get(part, ()):
                    yield record.key or b"", record.value or b""
    except KafkaError as error:
        raise GatewayError(
            f"cannot read {topic} from Kafka at {settings.bootstrap_servers}: {error}"
        ) from error
    finally:
        await consumer.stop()


async def _partitions(consumer: object, topic: str) -> set[int]:
    client = consumer._client  # type: ignore[attr-defined]
    cluster = await client.fetch_all_metadata()
    found: set[int] | None = cluster.partitions_for_topic(topic)
    if found is None:
        raise GatewayError(f"Kafka has no topic {topic}: run `greenlang-iot setup` first.")
    return found


def topics(settings: MqttSettings) -> Routes:
    """Which format each topic has, for `message_of`. Raises InputError."""
    return Routes(TopicTemplate(settings.topic), routes(settings))


def message_of(item: Stored, known: Routes) -> tuple[str, bytes]:
    """(topic, payload) that resubmits only what was rejected; of a format with another shape all of it."""
    letter = item.letter
    found = known.find(letter.topic.encode("utf-8", "surrogatepass"))
    ours = found is None or found[0] is None or isinstance(found[0].format, Json)
    return letter.topic, resubmission(letter) if ours else letter.payload


async def to_influxdb(
    settings: InfluxSettings, items: Sequence[Stored]
) -> AsyncIterator[tuple[Stored, str | None]]:
    """Per letter: None when InfluxDB has it, else what it said. Raises GatewayError."""
    from greenlang_iot.sinks.influx import InfluxSender

    sender = InfluxSender(settings)
    try:
        await sender.open()
        for start in range(0, len(items), GROUP):
            group = items[start : start + GROUP]
            body = b"".join(item.letter.payload.rstrip(b"\n") + b"\n" for item in group)
            outcome = await sender.send(body, sum(item.letter.readings for item in group))
            refused = {one.body: one.answer for one in outcome.refused}
            for item in group:
                yield item, _refusal(item.letter.payload, refused)
    except SinkError as error:
        raise GatewayError(str(error)) from error
    finally:
        await sender.close()


def _refusal(payload: bytes, refused: dict[bytes, str]) -> str | None:
    """What InfluxDB said of a letter's lines; None when it has them all."""
    lines = payload.rstrip(b"\n").split(b"\n")
    words = [refused[line] for line in lines if line in refused]
    if not words:
        return None
    return words[0] if len(lines) == 1 else f"{len(words)} of its {len(lines)} lines: {words[0]}"


async def to_kafka(
    settings: KafkaSettings, items: Sequence[Stored]
) -> AsyncIterator[tuple[Stored, str | None]]:
    """Per letter: None when Kafka has it, else what it said. Raises GatewayError."""
    from greenlang_iot.sinks.kafka import KafkaSender

    sender = KafkaSender(settings, settings.readings_topic)
    try:
        await sender.open()
        for item in items:
            try:
                reading = json.loads(item.letter.payload)
                key, stamp = str(reading["device"]).encode(), int(reading["ts"]) // 1_000_000
            except (ValueError, KeyError, TypeError):
                yield item, "its bytes are no reading of schema v1"
                continue
            try:
                await sender.publish(settings.readings_topic, key, item.letter.payload, stamp)
                yield item, None
            except SinkError as error:
                if error.retryable:
                    raise
                yield item, str(error)
    except SinkError as error:
        raise GatewayError(str(error)) from error
    finally:
        await sender.close()
