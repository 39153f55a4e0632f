"""The parent's alert courier: shards' outboxes ─▶ the book of alerts ─▶ MQTT, Kafka, InfluxDB, the lake.

Every transition of the book goes to every enabled target at least once, in order. Targets do not wait for
each other (`alert_targets.py`): one that is down holds back only the durable position (what it has not seen is
delivered again after a restart, under the same transition id).
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import structlog

from greenlang_iot.alerts.book import Book, Document
from greenlang_iot.alerts.presence import OFFLINE
from greenlang_iot.model.severity import SEVERITIES
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.quality.breaches import RULE as QUALITY
from greenlang_iot.runtime.alert_targets import Target, targets
from greenlang_iot.runtime.folders import QUALITY_OUTBOX, outbox_folder
from greenlang_iot.runtime.memory import give_back
from greenlang_iot.settings.model import Settings
from greenlang_iot.sinks.alert_store import AlertStore, Published
from greenlang_iot.sinks.endings import end, to_its_end
from greenlang_iot.sinks.outbox import OutboxReader, known_alerts, remember
from greenlang_iot.spool.log import SpoolFull

log = structlog.get_logger(__name__)
POLL_EVERY = 0.1
GATHER = 5
"""Times POLL_EVERY after a poll that found something: alerts that come in a row go out together, the first one at once."""
TICK_EVERY = 1.0
"""Seconds after which the book hears that time goes on, so that silences end, and new outboxes are looked for."""
RELEASE_EVERY = 5.0
"""Seconds between two snapshots of the book; what was delivered since comes again after a crash."""
MAX_BEHIND = 10_000
"""Transitions a target may be behind before the outbox is not read further (its bound is on disk)."""
MANY = 1_000
"""Transitions after which, once they are delivered, freed memory is given back: what a burst took stays fragmented."""
DRAIN_TIMEOUT = 5.0


def remind(book: Book, settings: Settings) -> None:
    """Have the outboxes know every alert of theirs that the book has as not resolved: where one's state was damaged,
    or power took its last record, nobody would ever end it. Before the shards start. OSError."""
    live = {alert_id: alert for alert_id, alert in book.alerts.items() if alert.live and alert.seen}
    if not live:
        return
    folder = outbox_folder(settings)
    known = known_alerts(sorted(folder.glob("*")))
    there = {t["alert_id"] for t in known.open} | {end.last["alert_id"] for end in known.ended}
    missing: dict[str, list[Document]] = {}
    for alert_id, alert in live.items():
        if alert_id in there or alert.last["rule"] == OFFLINE:
            continue  # presence looks into the book itself
        owner = QUALITY_OUTBOX if alert.last["rule"] == QUALITY else "shard-0"
        state = "pending" if alert.last["state"] == "pending" else "open"
        number = {"number": alert.seen, "transition_id": f"{alert_id}-{alert.seen}"}
        missing.setdefault(owner, []).append(alert.last | number | {"state": state, "flags": []})
    for name, alerts in missing.items():
        log.error("an outbox had forgotten open alerts", outbox=name, alerts=len(alerts))
        remember(folder / name, alerts)


class Courier:
    """Runs in the parent, the only one that writes to `store`.

    on_transition: told of every transition once it is durable.
    """

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        store: AlertStore,
        on_transition: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._store = store
        self._on_transition = on_transition
        self._readers: dict[str, OutboxReader] = {}
        self._targets: list[Target] = []
        self._given = 0  # transitions that the targets got
        self._trimmed = 0  # those of them before the last time that memory was given back
        self._records: deque[tuple[int, int]] = deque()  # (transitions given, journal's record)
        self._ticked = self._looked = self._released = float("-inf")
        self._failing = False
        self._taken: OutboxReader | None = None  # the book has what it gave, if not its journal yet
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled. Whatever is away, it goes on trying; only a mistake of ours is raised."""
        self._targets += targets(self._settings, self._counters, self._store.book)
        stop_listening = self._store.listen(self._publish, again=True)
        self._count()
        tasks = [asyncio.ensure_future(target.run()) for target in self._targets]
        try:
            while True:
                found = await self._move()
                self._give_back()
                for target in self._targets:
                    target.look()
                await asyncio.sleep(POLL_EVERY * (GATHER if found else 1))
                for task in tasks:
                    if task.done():
                        await task
        finally:
            stop_listening()
            await end(tasks)
            for target in self._targets:
                try:
                    await target.close()
                except OSError as error:  # what is not delivered comes again
                    log.error("a target of alerts was not closed in order", why=str(error))

    async def drain(self) -> None:
        """Called when the shards have ended: deliver what is left, within DRAIN_TIMEOUT."""
        self._looked = float("-inf")
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                while await self._move() or self._behind:
                    await asyncio.sleep(0.01)
                await self._release(at_once=True)
        except (TimeoutError, OSError):
            behind = {target.name: len(target.waiting) for target in self._targets}
            log.warning("alerts are left for the next start", waiting=behind)

    def _give_back(self) -> None:
        """What a burst of alerts took, once it is over."""
        waiting = any(target.waiting for target in self._targets if not target.most)
        if self._given - self._trimmed >= MANY and not waiting:
            self._trimmed = self._given
            give_back()

    @property
    def _behind(self) -> bool:
        return any(target.waiting for target in self._targets)

    async def _move(self) -> bool:
        """New transitions of the shards into the book; True if there were any."""
        async with self._one_at_a_time:
            try:
                try:
                    found = await self._read()
                finally:
                    await self._release()  # also of a full journal: nothing else makes room in it
            except (OSError, SpoolFull) as error:
                if not self._failing:
                    log.error("the disk fails the alerts; it is tried again", why=str(error))
                self._failing = True
                return False
            self._failing = False
            return found

    async def _read(self) -> bool:
        if self._failing or time.monotonic() - self._ticked >= TICK_EVERY:
            self._ticked = time.monotonic()
            await self._store.take([])
        found = False
        room = all(len(t.waiting) < MAX_BEHIND for t in self._targets if not t.most)
        for reader in await self._outboxes() if room else ():
            if not reader.given and reader.grown():
                await to_its_end(reader.poll)
            found = found or bool(reader.given)
            for item in reader.given:
                if item["state"] == "resolved":
                    for other in self._readers.values():
                        if other is not reader:
                            other.forget(item["alert_id"])
            if reader is self._taken:
                await self._store.take([])  # the rest of it into the journal
            elif reader.given:
                self._taken = reader
                await self._store.take(reader.given)
            if reader.given or reader.forgotten:
                await to_its_end(reader.delivered)
            self._taken = None
        return found

    async def _release(self, *, at_once: bool = False) -> None:
        """What every target has need not be kept. OSError."""
        now = time.monotonic()
        if not at_once and now - self._released < RELEASE_EVERY:
            return
        done = min((target.done for target in self._targets), default=self._given)
        number = max((record for given, record in self._records if given <= done), default=0)
        if number:
            await self._store.delivered(number)
        while self._records and self._records[0][1] <= number:
            self._records.popleft()
        self._released = now

    def _publish(self, published: Published) -> None:
        items = published.transitions
        self._given += len(items)
        self._records.append((self._given, published.number))
        for target in self._targets if items else ():
            target.add(items)
        for item in items:
            if self._on_transition is not None:
                self._on_transition(item)
        self._count()

    def _count(self) -> None:
        is_open = Counter(
            alert.last["severity"]
            for alert in self._store.book.alerts.values()
            if alert.last["state"] in ("open", "acknowledged")
        )
        for severity in SEVERITIES:
            self._counters.set(cell("alerts_open", severity=severity), is_open[severity])

    async def _outboxes(self) -> list[OutboxReader]:
        """Of all shards, new ones now and then. OSError, SpoolFull."""
        if time.monotonic() - self._looked >= TICK_EVERY:
            for folder in sorted(outbox_folder(self._settings).glob("*")):
                if folder.name not in self._readers:
                    reader = OutboxReader(folder, self._settings.alerts.outbox_max_bytes)
                    await self._adopt(reader)
                    self._readers[folder.name] = reader
            self._looked = time.monotonic()
        return list(self._readers.values())

    async def _adopt(self, reader: OutboxReader) -> None:
        """Alerts that the outbox knows and the book does not: it is new, or was lost."""
        known = self._store.book.alerts
        await self._store.take([t for t in reader.known if t["alert_id"] not in known])
