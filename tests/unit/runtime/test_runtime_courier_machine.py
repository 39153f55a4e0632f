"""The courier between outboxes and targets that come and go, with the parent ended and started again: every transition
reaches every target at least once, in order per alert, and Kafka's compacted topic ends with what is open."""

import asyncio
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from tests.fakes.alerts import opened

from greenlang_iot.model.errors import SinkError
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime import alert_targets
from greenlang_iot.runtime import courier as module
from greenlang_iot.runtime.alert_targets import Target
from greenlang_iot.runtime.courier import Courier
from greenlang_iot.settings.model import Settings
from greenlang_iot.sinks.alert_store import AlertStore
from greenlang_iot.sinks.kafka_alerts import KafkaAlerts
from greenlang_iot.sinks.outbox import Outbox

FAST = {
    "POLL_EVERY": 0.0,
    "TICK_EVERY": 0.0,
    "RELEASE_EVERY": 0.0,
    "GATHER": 1,
    "DRAIN_TIMEOUT": 0.02,
}
STATE = "iot.alerts.state"
AWAY = SinkError("away", reason="away", down=True)


class Kafka:
    """Topics as logs, behind a sender as `KafkaSender` is: it remembers what it could not wait for, queued or not, hands
    that over before what comes later, and knows it when it comes again. failing: what becomes of the next records; `late`:
    they are written with the next one, `lost`: only their answers are."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, int]] = []
        self.state: dict[str, bool] = {}
        self.failing: list[str] = []
        self._queued: list[tuple[str, bytes, bytes | None]] = []
        self._remembered: set[tuple[str, bytes, bytes | None]] = set()

    async def publish(self, topic: str, key: bytes, value: bytes | None, timestamp_ms: int) -> None:
        await asyncio.sleep(0)
        record = (topic, key, value)
        if record in self._remembered:
            self._remembered.discard(record)
            self._write()
            return
        mood = self.failing.pop(0) if self.failing else ""
        self._queued.append(record)
        if mood != "late":
            self._write()
        if mood:
            self._remembered.add(record)
            raise AWAY

    def _write(self) -> None:
        for topic, key, value in self._queued:
            if topic == STATE:
                self.state[key.decode()] = value is not None
            else:
                assert value is not None
                self.alerts.append(
                    (value.partition(b'alert_id":"')[2][:1].decode(), _number(value))
                )
        self._queued.clear()


def _number(value: bytes) -> int:
    return int(value.partition(b'"number":')[2].partition(b",")[0])


class CourierMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.patches = [mock.patch.object(module, name, value) for name, value in FAST.items()]
        self.patches.append(mock.patch.object(alert_targets, "BACKOFF_MAX", 0.0))
        for patch in self.patches:
            patch.start()
        self.folder = Path(tempfile.mkdtemp())
        self.settings = Settings.model_validate(
            {
                "data_dir": self.folder,
                "alerts": {"mqtt": False, "group_devices": 0},
                "sinks": {"lake": {"enabled": False}, "kafka": {"alerts_state_topic": STATE}},
            }
        )
        self.counters = Counters.local()
        self.numbers: dict[str, int] = defaultdict(int)  # odd: open, even: resolved
        self.kafka = Kafka()
        self.got: list[tuple[str, int]] = []
        self.lake = True
        self.outbox = self.do(self._outbox())
        self.parent_starts()

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 20))

    async def _outbox(self) -> Outbox:
        return Outbox(self.folder / "outbox" / "shard-0", 1 << 20, fsync_every=0)

    # ---- the parent

    def parent_starts(self) -> None:
        self.do(self._start())

    async def _start(self) -> None:
        self.store = AlertStore(self.folder / "alerts", self.settings.alerts)
        self.courier = Courier(self.settings, self.counters, self.store)
        alerts = KafkaAlerts(self.kafka, self.settings.sinks.kafka, "gateway")

        async def close() -> None:
            return

        self.courier._targets += [
            Target("kafka", alerts.deliver, close, self.counters),
            Target("lake", self._lake, close, self.counters),
        ]
        self.task = asyncio.ensure_future(self.courier.run())

    async def _lake(self, items: list[dict[str, Any]]) -> None:
        await asyncio.sleep(0)
        if not self.lake:
            raise AWAY
        self.got += [(item["alert_id"], item["number"]) for item in items]

    async def _end(self, drains: bool) -> None:
        if drains:
            await self.courier.drain()
        self.task.cancel()
        await asyncio.wait({self.task})
        assert self.task.cancelled(), self.task.exception()
        await self.store.close()

    @rule(drains=st.booleans())
    def parent_is_started_again(self, drains: bool) -> None:
        self.do(self._end(drains))
        self.parent_starts()

    @rule()
    def book_catches_up(self) -> None:
        """And who is not away gets it."""

        async def wait() -> None:
            await self._taken()
            while self.courier._targets[0].waiting or (self.lake and self.courier._behind):
                await asyncio.sleep(0.001)
            for _ in range(20):
                await asyncio.sleep(0)

        self.do(wait())

    @rule(alert=st.sampled_from("abc"))
    def somebody_looks_after(self, alert: str) -> None:
        known = self.store.book.alerts.get(alert)
        if known is not None and known.last["state"] == "open":
            self.do(self.store.acknowledge(alert, "kim", ""))

    # ---- what is around it

    @rule(alerts=st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
    def shard_says(self, alerts: list[str]) -> None:
        found = []
        for alert in alerts:
            self.numbers[alert] = number = self.numbers[alert] + 1
            state = "open" if number % 2 else "resolved"
            found.append(replace(opened(1), alert_id=alert, number=number, state=state))
        number = self.outbox.append(found)
        self.do(self.outbox.durable(number))

    @rule(moods=st.lists(st.sampled_from(["", "", "lost", "late"]), max_size=8))
    def kafka_fails(self, moods: list[str]) -> None:
        self.kafka.failing += moods

    @rule(there=st.booleans())
    def lake_comes_or_goes(self, there: bool) -> None:
        self.lake = there

    # ---- what is promised

    def teardown(self) -> None:
        if not hasattr(self, "task"):
            return
        self.kafka.failing.clear()
        self.lake = True
        try:
            self.do(self._delivered())
            self.judge()
        finally:
            self.do(self._end(True))
            self.do(self.outbox.close())
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            for patch in self.patches:
                patch.stop()
            shutil.rmtree(self.folder)

    async def _taken(self) -> None:
        """Until the book has what the shard said, durably."""
        while (
            any(
                alert not in self.store.book.alerts or self.store.book.alerts[alert].seen < number
                for alert, number in self.numbers.items()
            )
            or self.store._journal.pending_bytes
        ):
            await asyncio.sleep(0.001)

    async def _delivered(self) -> None:
        await self._taken()
        journal = self.store._journal
        while self.courier._behind or journal.released < journal.last:
            await asyncio.sleep(0.001)

    def judge(self) -> None:
        for alert, known in self.store.book.alerts.items():
            said = list(range(1, known.last["number"] + 1))
            for target in (self.kafka.alerts, self.got):
                numbers = [number for of, number in target if of == alert]
                assert list(dict.fromkeys(numbers)) == said, (alert, numbers)
                assert numbers[-1] == said[-1], (alert, numbers)
            assert self.kafka.state[alert] == known.live, alert


TestCourierMachine = CourierMachine.TestCase
TestCourierMachine.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
