"""A shard's gauges: its bounds once, what it holds and uses once a second."""

import asyncio
import resource
import time
from math import isnan
from typing import Protocol

from greenlang_iot.acks.ledger import Ledger
from greenlang_iot.model.directory import Directory
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime.layout import ShardPlan
from greenlang_iot.settings.model import Settings
from greenlang_iot.sinks.deadletter import DeadLetterStats


class Held(Protocol):
    """What a shard holds when it is looked at."""

    ledger: Ledger

    @property
    def outbox_bytes(self) -> int: ...
    @property
    def suppressed_alerts(self) -> int: ...
    @property
    def dead_letter_stats(self) -> DeadLetterStats: ...


class ShardGauges:
    """Writes into the shard's counters; owns no state but the acknowledgements of the last look."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._acks = (0.0, 0.0)  # acknowledged messages and their seconds, at the last look

    def bounds(self, settings: Settings, plan: ShardPlan, directory: Directory) -> None:
        """Every bound is a setting and a gauge."""
        set_ = self._counters.set
        brokers = settings.mqtt.brokers
        window = sum(brokers[item.broker].receive_maximum for item in plan.connections)
        set_(cell("connections_wanted"), len(plan.connections))
        set_(cell("connections_up"), 0)
        set_(cell("receive_window_bound"), window)
        set_(cell("ledger_bytes_bound"), settings.runtime.memory_bound)
        set_(cell("outbox_bytes_bound"), settings.alerts.outbox_max_bytes)
        set_(cell("dead_letter_bytes_bound"), settings.sinks.dead_letter.max_bytes)
        sinks = settings.sinks
        for name, sink in (
            ("influxdb", sinks.influxdb),
            ("kafka", sinks.kafka),
            ("lake", sinks.lake),
        ):
            set_(cell("sink_queue_bytes_bound", sink=name), sink.queue_bytes)
            set_(cell("sink_spool_bytes_bound", sink=name), settings.spool.max_bytes)
        for age in (cell("last_message_age_seconds"), cell("checkpoint_age_seconds")):
            if isnan(self._counters.get(age)):
                self._counters.touch(age)  # none yet: since the start
        self.registry(directory)

    def registry(self, directory: Directory) -> None:
        """A registry was taken over."""
        self._counters.set(cell("devices"), directory.n_devices)
        self._counters.set(cell("series"), directory.n_series)

    def connections(self, subscribed: int, paused: bool) -> None:
        """A connection came, went, or the sockets were paused."""
        self._counters.set(cell("connections_up"), subscribed)
        self._counters.set(cell("connections_paused"), subscribed if paused else 0)

    def look(self, held: Held) -> None:
        """Once a second."""
        set_, ledger, letters = self._counters.set, held.ledger, held.dead_letter_stats
        usage = resource.getrusage(resource.RUSAGE_SELF)
        set_(cell("cpu_seconds"), usage.ru_utime + usage.ru_stime)
        with open("/proc/self/statm") as statm:
            pages = int(statm.read().split()[1])
        set_(cell("resident_bytes"), pages * resource.getpagesize())
        set_(cell("tasks"), len(asyncio.all_tasks()))
        set_(cell("messages_unacked"), ledger.messages)
        set_(cell("ledger_tickets"), ledger.tickets)
        opened = ledger.opened
        waits = 0.0 if opened is None else time.monotonic() - opened
        set_(cell("oldest_unacked_seconds"), waits)
        set_(cell("ledger_bytes"), ledger.nbytes)
        set_(cell("outbox_bytes"), held.outbox_bytes)
        set_(cell("alerts_suppressed"), held.suppressed_alerts)
        set_(cell("dead_letters", kind="digest"), sum(letters.digested.values()))
        set_(cell("dead_letter_bytes"), letters.nbytes)
        self._rate_bound()

    def _rate_bound(self) -> None:
        """Receive window ÷ mean acknowledgement time since the last look."""
        acks, seconds = self._counters.total("acks_sent"), self._counters.sum_of("ack_seconds")
        count, took = acks - self._acks[0], seconds - self._acks[1]
        self._acks = (acks, seconds)
        if count > 0 and took > 0:
            window = self._counters.get(cell("receive_window_bound"))
            self._counters.set(cell("rate_bound"), window * count / took)
