"""Alerts in Kafka: whatever is slow or fails, the compacted topic ends with the newest state."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.alerts import change

from greenlang_iot.model.errors import SinkError
from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks.kafka_alerts import KafkaAlerts

LATE, DEAD = "late", "dead"


class Kafka:
    """As KafkaSender: what was late is remembered, and the same bytes are not sent a second time then.

    answers: of the next publications: "" yes, late (it is written, and nobody hears of it in time), dead.
    """

    def __init__(self, answers: list[str]) -> None:
        self.written: dict[str, list[tuple[bytes, bytes | None]]] = {}
        self.busy = 0
        self._answers = answers
        self._remembered: set[tuple[str, bytes, bytes | None]] = set()

    async def publish(self, topic: str, key: bytes, value: bytes | None, at_ms: int) -> None:
        record = topic, key, value
        if record in self._remembered:
            self._remembered.remove(record)
            return
        answer = self._answers.pop(0) if self._answers else ""
        if answer != DEAD:
            self.written.setdefault(topic, []).append((key, value))
        if answer == LATE:
            self._remembered.add(record)
        self.busy += 1
        await asyncio.sleep(0)
        self.busy -= 1
        if answer:
            raise SinkError(answer, reason="timeout")


async def deliver(kafka: Kafka, items: list[dict[str, Any]]) -> None:
    """As the courier does: half as many after a failure."""
    alerts = KafkaAlerts(kafka, KafkaSettings(), "gateway")
    waiting, at_once = list(items), len(items)
    while waiting:
        batch = waiting[:at_once]
        try:
            await alerts.deliver(batch)
        except SinkError:
            assert not kafka.busy, "it went on beside the next try"
            at_once = max(1, len(batch) // 2)
            continue
        del waiting[: len(batch)]
    assert alerts._taken == set()


ITEMS = [
    change(alert, number, "open" if number % 2 else "resolved", at=number, device=f"d-{alert}")
    for number in (1, 2, 3, 4)
    for alert in "ab"
]


@given(answers=st.lists(st.sampled_from(["", "", LATE, DEAD]), max_size=40))
@settings(max_examples=300, deadline=None)
def test_every_transition_arrives_and_the_newest_state_is_the_last(answers: list[str]) -> None:
    dead, both = DEAD in answers, LATE in answers and DEAD in answers
    kafka = Kafka(answers)
    asyncio.run(deliver(kafka, ITEMS))
    topics = KafkaSettings()
    for alert in "ab":
        key = f"d-{alert}".encode()
        values = [v for k, v in kafka.written[topics.alerts_topic] if k == key]
        numbers = [
            n for v in dict.fromkeys(values) for n in range(5) if v and b'"number":%d' % n in v
        ]
        assert set(numbers) == {1, 2, 3, 4}
        states = [v for k, v in kafka.written[topics.alerts_state_topic] if k == alert.encode()]
        if not dead:  # else one may be written before an older one, which was not
            assert numbers == [1, 2, 3, 4]
        if not both:  # else what is remembered may be older than one that was not written before it
            assert states[-1] is None


async def test_what_kafka_took_is_not_given_again_after_what_it_remembers() -> None:
    """The state "open" was taken, the tombstone was late: "open" once more would have stood for ever."""
    kafka = Kafka(["", "", "", LATE])
    await deliver(kafka, [change("a", 1), change("a", 2, "resolved")])
    states = kafka.written[KafkaSettings().alerts_state_topic]
    assert [value is None for _, value in states] == [False, True]


async def test_the_first_alone_says_whether_kafka_is_there() -> None:
    kafka = Kafka([DEAD, DEAD])
    alerts = KafkaAlerts(kafka, KafkaSettings(), "gateway")
    with pytest.raises(SinkError, match=DEAD):
        await alerts.deliver(ITEMS)
    assert kafka.written == {}
