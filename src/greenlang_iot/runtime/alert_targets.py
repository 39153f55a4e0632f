"""Where alerts go: MQTT, Kafka, InfluxDB, the lake and the notifiers, each with a queue of its own."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import structlog

from greenlang_iot.alerts.book import Book
from greenlang_iot.model.errors import MqttError, SinkError
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime.folders import lake_folder
from greenlang_iot.settings.model import NotifierSettings, Settings
from greenlang_iot.sinks.endings import end
from greenlang_iot.spool.log import SpoolFull

log = structlog.get_logger(__name__)
AT_ONCE = 500
"""Transitions given to a target in one call."""
NOTIFICATIONS = 1_000
"""Transitions that wait for a notifier that is away; what is older is given up."""
BACKOFF_MAX = 4.0
"""Seconds between two tries, at most."""

Deliver = Callable[[list[dict[str, Any]]], Awaitable[None]]


class Target:
    """One destination with its queue. label: its name in metrics.

    most: transitions that may wait; beyond it the oldest are given up, loudly. 0: all are kept, and
    nothing new is taken from the shards while many wait.

    deliver: raises SinkError, MqttError, SpoolFull or OSError to be tried again; a SinkError that says no for good
    costs the one transition that it is about, loudly. close: raises OSError. look: called now and then, for gauges.
    """

    def __init__(
        self,
        name: str,
        deliver: Deliver,
        close: Callable[[], Awaitable[None]],
        counters: Counters,
        *,
        label: str = "",
        most: int = 0,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.close = close
        self.look = look
        self.label = label or name
        self.most = most
        self._in_flight = 0
        self.done = 0
        """Transitions that are delivered, or refused for good."""
        self.waiting: list[dict[str, Any]] = []
        self.wake = asyncio.Event()
        self._deliver = deliver
        self._counters = counters
        self._at_once = AT_ONCE

    def add(self, items: list[dict[str, Any]]) -> None:
        """More transitions, newer than those that wait."""
        self.waiting += items
        over = len(self.waiting) - self._in_flight - self.most
        if self.most and over > 0:
            # a receiver that is away must not hold up what is kept for the others
            del self.waiting[self._in_flight : self._in_flight + over]
            self.done += over
            self._counters.add(cell("alerts_failed", target=self.label), over)
            log.error("alerts are given up: too many wait", target=self.name, given_up=over)
        self.wake.set()

    async def run(self) -> None:
        """Deliver what waits, until cancelled."""
        backoff = 0.1
        failing = False
        while True:
            await self.wake.wait()
            batch = self.waiting[: self._at_once]
            self._in_flight = len(batch)
            try:
                await self._deliver(batch)
            except (SinkError, MqttError, SpoolFull, OSError) as error:
                if isinstance(error, SinkError) and not (error.retryable or error.down):
                    self._refused(batch, error)
                    continue
                self._counters.add(cell("alerts_failed", target=self.label))
                if not failing:
                    log.warning("alerts wait for a target", target=self.name, why=str(error))
                failing = True
                self._at_once = max(1, len(batch) // 2)  # so many may take longer than a time-out
                backoff = min(random.uniform(0.1, backoff * 3), BACKOFF_MAX)
                await asyncio.sleep(backoff)
                continue
            failing, backoff = False, 0.1
            self._counters.add(cell("alerts_delivered", target=self.label), len(batch))
            self._at_once = min(AT_ONCE, 2 * self._at_once)
            self._done(len(batch))

    def _refused(self, batch: list[dict[str, Any]], error: SinkError) -> None:
        """Find the transition that is refused by giving them one at a time; it is not tried again."""
        self._at_once = 1
        if len(batch) > 1:
            return
        self._counters.add(cell("alerts_failed", target=self.label))
        log.error(
            "an alert is refused by a target and will not arrive there",
            target=self.name,
            transition_id=batch[0]["transition_id"],
            why=str(error),
        )
        self._done(1)

    def _done(self, count: int) -> None:
        del self.waiting[:count]
        self._in_flight = 0
        self.done += count
        if not self.waiting:
            self.wake.clear()


def targets(settings: Settings, counters: Counters, book: Book) -> Iterator[Target]:
    """The enabled ones. book: notifiers look there whether an alert is still open."""
    if settings.alerts.mqtt:
        yield _mqtt(settings, counters)
    if settings.alerts.kafka and settings.sinks.kafka.enabled:
        yield _kafka(settings, counters)
    if settings.sinks.influxdb.enabled:
        yield _influxdb(settings, counters)
    if settings.sinks.lake.enabled:
        yield _lake(settings, counters)
    for notifier in settings.alerts.notifiers:
        yield _notifier(notifier, settings.instance, counters, book)


def _mqtt(settings: Settings, counters: Counters) -> Target:
    from greenlang_iot.mqtt.control import ControlPlane

    control = ControlPlane(settings.mqtt.brokers[0], settings.instance)
    running = asyncio.ensure_future(control.run())
    running.add_done_callback(partial(_say_why, "alerts do not go to MQTT any more"))

    async def deliver(items: list[dict[str, Any]]) -> None:
        await control.publish_alerts([Transition.from_dict(item) for item in items])

    async def close() -> None:
        await control.close()
        await end([running])

    def look() -> None:
        counters.set(cell("control_up"), float(control.connected))

    return Target("mqtt", deliver, close, counters, look=look)


def _kafka(settings: Settings, counters: Counters) -> Target:
    from greenlang_iot.sinks.kafka import KafkaSender
    from greenlang_iot.sinks.kafka_alerts import KafkaAlerts

    kafka = settings.sinks.kafka
    sender = KafkaSender(kafka, kafka.alerts_topic)
    alerts = KafkaAlerts(sender, kafka, settings.instance)
    return Target("kafka", alerts.deliver, sender.close, counters)


def _influxdb(settings: Settings, counters: Counters) -> Target:
    from greenlang_iot.encode.alert_lines import alert_line
    from greenlang_iot.sinks.influx import InfluxSender

    sender = InfluxSender(settings.sinks.influxdb)
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

    return Target("influxdb", deliver, sender.close, counters)


def _lake(settings: Settings, counters: Counters) -> Target:
    from greenlang_iot.sinks.lake import Lake

    lake = Lake(lake_folder(settings), settings.sinks.lake)

    async def deliver(items: list[dict[str, Any]]) -> None:
        await asyncio.to_thread(lake.append_alerts, items)

    async def close() -> None:
        lake.close()

    return Target("lake", deliver, close, counters)


def _notifier(settings: NotifierSettings, instance: str, counters: Counters, book: Book) -> Target:
    from greenlang_iot.sinks.notifiers import make_notifier

    notifier = make_notifier(settings, book, instance)
    running = asyncio.ensure_future(notifier.run())
    running.add_done_callback(partial(_say_why, f"{settings.name} is not told again of alerts"))

    async def close() -> None:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await notifier.close()

    return Target(
        settings.name, notifier.deliver, close, counters, label=settings.kind, most=NOTIFICATIONS
    )


def _say_why(what: str, ended: asyncio.Future[None]) -> None:
    """What ran beside a target and does not come back by itself."""
    if not ended.cancelled() and (error := ended.exception()) is not None:
        log.error(what, why=str(error) or repr(error))
