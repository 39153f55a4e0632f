"""The parent's alert courier: from the shards' outboxes to MQTT, Kafka, InfluxDB and the lake.

Every transition goes to every enabled target at least once, in the order of its outbox. Targets do not wait
for each other: each has its own queue, and one that is down holds back only the durable position (what it
has not seen is delivered again after a restart, under the same transition id).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import structlog

from greenlang_iot.model.errors import MqttError, SinkError
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.observe.catalog import SEVERITIES, cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime.sinks import lake_folder, outbox_folder
from greenlang_iot.settings.model import Settings
from greenlang_iot.sinks.outbox import OutboxReader
from greenlang_iot.spool.log import SpoolFull

if TYPE_CHECKING:
    from greenlang_iot.mqtt.control import ControlPlane

log = structlog.get_logger(__name__)
POLL_EVERY = 0.05
AT_ONCE = 500
"""Transitions given to a target in one call."""
MAX_BEHIND = 10_000
"""Transitions a target may be behind before the outbox is not read further (its bound is on disk)."""
BACKOFF_MAX = 4.0
DRAIN_TIMEOUT = 5.0

Deliver = Callable[[list[dict[str, Any]]], Awaitable[None]]


class _Target:
    """One destination with its queue.

    `deliver` raises SinkError, MqttError, SpoolFull or OSError to be tried again; a SinkError that says
    no for good costs the one transition that it is about, loudly.
    """

    def __init__(self, name: str, deliver: Deliver, counters: Counters) -> None:
        self.name = name
        self.waiting: list[dict[str, Any]] = []
        self.wake = asyncio.Event()
        self._deliver = deliver
        self._counters = counters
        self._at_once = AT_ONCE

    def add(self, items: list[dict[str, Any]]) -> None:
        self.waiting += items
        self.wake.set()

    async def run(self) -> None:
        backoff = 0.1
        failing = False
        while True:
            await self.wake.wait()
            batch = self.waiting[: self._at_once]
            try:
                await self._deliver(batch)
            except (SinkError, MqttError, SpoolFull, OSError) as error:
                if isinstance(error, SinkError) and not (error.retryable or error.down):
                    self._refused(batch, error)
                    continue
                self._counters.add(cell("alerts_failed", target=self.name))
                if not failing:
                    log.warning("alerts wait for a target", target=self.name, why=str(error))
                failing = True
                backoff = min(random.uniform(0.1, backoff * 3), BACKOFF_MAX)
                await asyncio.sleep(backoff)
                continue
            failing, backoff = False, 0.1
            self._counters.add(cell("alerts_delivered", target=self.name), len(batch))
            self._at_once = AT_ONCE
            self._done(len(batch))

    def _refused(self, batch: list[dict[str, Any]], error: SinkError) -> None:
        """Find the transition that is refused by giving them one at a time; it is not tried again."""
        self._at_once = 1
        if len(batch) > 1:
            return
        self._counters.add(cell("alerts_failed", target=self.name))
        log.error(
            "an alert is refused by a target and will not arrive there",
            target=self.name,
            transition_id=batch[0]["transition_id"],
            why=str(error),
        )
        self._done(1)

    def _done(self, count: int) -> None:
        del self.waiting[:count]
        if not self.waiting:
            self.wake.clear()


class Courier:
    """Runs in the parent. on_transition: told of every transition, once per read."""

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        on_transition: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._on_transition = on_transition
        self._readers: dict[str, OutboxReader] = {}
        self._open: dict[str, str] = {}  # alert id → severity
        self._targets: list[_Target] = []
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._control: ControlPlane | None = None
        self._behind = False
        self._disk_fails = False

    async def run(self) -> None:
        """Until cancelled. Whatever is away, it goes on trying; only a mistake of ours is raised."""
        self._connect()
        self._say_open()
        tasks = [asyncio.ensure_future(target.run()) for target in self._targets]
        try:
            while True:
                self._move()
                if self._control is not None:
                    self._counters.set(cell("control_up"), float(self._control.connected))
                await asyncio.sleep(POLL_EVERY)
                for task in tasks:
                    if task.done():
                        await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for close in self._closers:
                await close()

    async def drain(self) -> None:
        """Called when the shards have ended: deliver what is left, within DRAIN_TIMEOUT."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while self._behind or self._move():
                    await asyncio.sleep(0.01)
                    self._move()
        except TimeoutError:
            behind = {target.name: len(target.waiting) for target in self._targets}
            log.warning("alerts are left in the outbox for the next start", waiting=behind)

    def _move(self) -> bool:
        """Hand new transitions to the targets; True if there were any."""
        try:
            found = self._read()
        except OSError as error:
            if not self._disk_fails:
                log.error("the disk fails the outbox; it is tried again", why=str(error))
            self._disk_fails = True
            return False
        self._disk_fails = False
        return found

    def _read(self) -> bool:
        found = False
        room = all(len(target.waiting) < MAX_BEHIND for target in self._targets)
        for reader in self._outboxes() if room else ():
            items = reader.poll()
            found = found or bool(items)
            for target in self._targets:
                target.add(items) if items else None
            for item in items:
                self._note(item)
                if item["state"] == "resolved":
                    for other in self._readers.values():
                        if other is not reader:
                            other.forget(item["alert_id"])
        self._behind = any(target.waiting for target in self._targets)
        if not self._behind:
            for reader in self._readers.values():
                reader.delivered()
        return found

    def _outboxes(self) -> list[OutboxReader]:
        for folder in sorted(outbox_folder(self._settings).glob("*")):
            if folder.name not in self._readers:
                self._readers[folder.name] = OutboxReader(folder)
        return list(self._readers.values())

    def _note(self, item: dict[str, Any]) -> None:
        if item["state"] == "resolved":
            self._open.pop(item["alert_id"], None)
        elif item["state"] != "pending":
            self._open[item["alert_id"]] = item["severity"]
        self._say_open()
        if self._on_transition is not None:
            self._on_transition(item)

    def _say_open(self) -> None:
        for severity in SEVERITIES:
            count = sum(value == severity for value in self._open.values())
            self._counters.set(cell("alerts_open", severity=severity), count)

    # ---- targets ------------------------------------------------------------------------------------

    def _connect(self) -> None:
        settings = self._settings
        if settings.alerts.mqtt:
            self._add_mqtt()
        if settings.alerts.kafka and settings.sinks.kafka.enabled:
            self._add_kafka()
        if settings.sinks.influxdb.enabled:
            self._add_influxdb()
        if settings.sinks.lake.enabled:
            self._add_lake()

    def _add(self, name: str, deliver: Deliver, close: Callable[[], Awaitable[None]]) -> None:
        self._targets.append(_Target(name, deliver, self._counters))
        self._closers.append(close)

    def _add_mqtt(self) -> None:
        from greenlang_iot.mqtt.control import ControlPlane

        self._control = control = ControlPlane(
            self._settings.mqtt.brokers[0], self._settings.instance
        )
        running = asyncio.ensure_future(control.run())

        async def deliver(items: list[dict[str, Any]]) -> None:
            for item in items:
                await control.publish_alert(Transition.from_dict(item))

        async def close() -> None:
            await control.close()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

        self._add("mqtt", deliver, close)

    def _add_kafka(self) -> None:
        import orjson

        from greenlang_iot.sinks.kafka import KafkaSender

        kafka = self._settings.sinks.kafka
        sender = KafkaSender(kafka, kafka.alerts_topic)

        def publish(item: dict[str, Any]) -> Iterator[Awaitable[None]]:
            value, at_ms = orjson.dumps(item), item["at"] // 1_000_000
            key = item["device"] or item["site"] or self._settings.instance
            yield sender.publish(kafka.alerts_topic, key.encode(), value, at_ms)
            # The compacted topic holds what is not resolved: a resolved alert leaves it.
            state = None if item["state"] == "resolved" else value
            yield sender.publish(kafka.alerts_state_topic, item["alert_id"].encode(), state, at_ms)

        async def deliver(items: list[dict[str, Any]]) -> None:
            # Queued in this order, so in order per key; the first alone, to learn whether Kafka is
            # there at all, then one round trip for the rest.
            await asyncio.gather(*publish(items[0]))
            await asyncio.gather(*(p for item in items[1:] for p in publish(item)))

        self._add("kafka", deliver, sender.close)

    def _add_influxdb(self) -> None:
        from greenlang_iot.encode.alert_lines import alert_line
        from greenlang_iot.sinks.influx import InfluxSender

        sender = InfluxSender(self._settings.sinks.influxdb)
        is_open = False

        async def deliver(items: list[dict[str, Any]]) -> None:
            nonlocal is_open
            if not is_open:  # here, and not before: it may be away when the gateway starts
                await sender.open()
                is_open = True
            lines = b"\n".join(alert_line(Transition.from_dict(item)) for item in items)
            outcome = await sender.send(lines, len(items))
            for refused in outcome.refused:
                why = "InfluxDB refused an alert; it will not arrive there"
                log.error(why, line=refused.body.decode(errors="replace"), why=refused.answer)

        self._add("influxdb", deliver, sender.close)

    def _add_lake(self) -> None:
        from greenlang_iot.sinks.lake import Lake

        lake = Lake(lake_folder(self._settings), self._settings.sinks.lake)

        async def deliver(items: list[dict[str, Any]]) -> None:
            await asyncio.to_thread(lake.append_alerts, items)

        async def close() -> None:
            lake.close()

        self._add("lake", deliver, close)
