"""Alerts to Kafka: every transition to one topic, what is not resolved to a compacted one.

A try ends before the next one begins, and what Kafka took in it is not given again: were an older state published once
more, it would come after a newer one that the sender remembers as delivered, and stand in the compacted topic for ever.
"""

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import orjson

from greenlang_iot.settings.model import KafkaSettings


class Publisher(Protocol):
    """What is needed of `sinks.kafka.KafkaSender`."""

    async def publish(
        self, topic: str, key: bytes, value: bytes | None, timestamp_ms: int
    ) -> None: ...


class _Record(NamedTuple):
    alert: str
    transition: str
    topic: str
    key: bytes
    value: bytes | None
    at_ms: int


class KafkaAlerts:
    """Delivers the head of one queue of transitions, again and again until it returns."""

    def __init__(self, publisher: Publisher, settings: KafkaSettings, instance: str) -> None:
        self._publisher = publisher
        self._settings = settings
        self._instance = instance
        self._taken: set[tuple[str, str]] = set()  # (transition, topic), of what is not delivered

    async def deliver(self, items: list[dict[str, Any]]) -> None:
        """Returns when Kafka has all of them, in order per alert. Raises SinkError."""
        records = [record for item in items for record in self._records(item)]
        # The first transition alone, to learn whether Kafka is there at all; then one round trip for the rest.
        for some in (records[:2], records[2:]):
            await self._publish(r for r in some if (r.transition, r.topic) not in self._taken)
        self._taken.difference_update((r.transition, r.topic) for r in records)

    def _records(self, item: dict[str, Any]) -> Iterator[_Record]:
        alert, transition = item["alert_id"], item["transition_id"]
        value, at_ms = orjson.dumps(item), item["at"] // 1_000_000
        key = (item["device"] or item["site"] or self._instance).encode()
        yield _Record(alert, transition, self._settings.alerts_topic, key, value, at_ms)
        # The compacted topic holds what is not resolved: a resolved alert leaves it.
        state = None if item["state"] == "resolved" else value
        topic = self._settings.alerts_state_topic
        yield _Record(alert, transition, topic, alert.encode(), state, at_ms)

    async def _publish(self, records: Iterable[_Record]) -> None:
        """Queued in this order, so in order per key; all have ended when this returns or raises."""
        given = list(records)
        ended = await asyncio.gather(
            *(self._publisher.publish(r.topic, r.key, r.value, r.at_ms) for r in given),
            return_exceptions=True,
        )
        failed: dict[
            str, BaseException
        ] = {}  # alert → why; what comes after it is given again, too
        for record, error in zip(given, ended, strict=True):
            if error is not None:
                failed.setdefault(record.alert, error)
            elif record.alert not in failed:
                self._taken.add((record.transition, record.topic))
        for error in failed.values():
            raise error
