"""The outbox between two processes on a disk that loses power: no durable transition is left out, none is out of order.

The shard appends and commits, the parent polls and remembers its position; either is killed at any call, or the
whole machine loses power. The parent's book is taken to be durable as soon as it has a transition.
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.fakes.alerts import opened
from tests.fakes.disk import Crash, SimulatedDisk

from greenlang_iot.sinks.outbox import Outbox, OutboxReader, known_alerts
from greenlang_iot.spool.log import SegmentLog

FOLDER = Path("/outbox/shard-0")
ALERTS = st.lists(st.sampled_from("abc"), min_size=1, max_size=3)


class OutboxMachine(RuleBasedStateMachine):
    """Model: the last number of each alert, what is durable, what the book has."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, int] = defaultdict(int)  # odd: open, even: resolved
        self.records: dict[int, list[str]] = {}  # of this shard's process: record → transition ids
        self.durable: set[str] = set()
        self.book: list[str] = []
        self.taken = 0  # of `reader.given`

    @initialize(seed=st.integers(0, 1 << 16))
    def start(self, seed: int) -> None:
        self.disk = SimulatedDisk(seed)
        self.outbox = Outbox(FOLDER, 1 << 20, fsync_every=0, files=self.disk)
        self.log: SegmentLog = self.outbox._log
        self.log._store._segment_bytes = 2_000  # so that some are unlinked
        self.reader = OutboxReader(FOLDER, files=self.disk)

    # ---- the shard

    @rule(alerts=ALERTS)
    def commits(self, alerts: list[str]) -> None:
        self.append(alerts)
        self.commit()

    @rule(alerts=ALERTS, call=st.sampled_from(["sync", "write", "sync_folder", "rename", "create"]))
    def commits_on_a_failing_disk(self, alerts: list[str], call: str) -> None:
        self.append(alerts)
        self.disk.failing = {call}
        self.commit()
        self.disk.failing = set()

    @rule(alerts=ALERTS, calls=st.integers(0, 6))
    def shard_is_killed(self, alerts: list[str], calls: int) -> None:
        self.append(alerts)
        self.disk.crash_in = calls
        self.commit()
        self.disk.crash_in = -1
        self.shard_starts()

    def append(self, alerts: list[str]) -> None:
        found = []
        for alert in alerts:
            self.numbers[alert] = number = self.numbers[alert] + 1
            state = "open" if number % 2 else "resolved"
            found.append(replace(opened(1), alert_id=alert, number=number, state=state))
        record = self.outbox.append(found)
        self.records[record] = [f"{t.alert_id}-{t.number}" for t in found]

    def commit(self) -> None:
        try:
            self.log.flush()
        except (Crash, OSError):
            pass
        for record, ids in self.records.items():
            if record <= self.log.durable_number:
                self.durable.update(ids)

    def shard_starts(self) -> None:
        """It goes on with the alerts that it finds; what was never durable may be gone."""
        self.outbox = Outbox(FOLDER, 1 << 20, fsync_every=0, files=self.disk)
        self.log = self.outbox._log
        self.log._store._segment_bytes = 2_000
        self.records = {}
        found = {t["alert_id"]: t["number"] for t in known_alerts([FOLDER], files=self.disk).open}
        for alert in "abc":
            newest = max((int(t[2:]) for t in self.durable if t[0] == alert), default=0)
            if newest % 2:
                assert found.get(alert, newest + 1) >= newest, "an alert that is open was forgotten"
            # a number that is not durable, and not found, is given again
            known = max(
                (int(t[2:]) for t in {*self.durable, *self.book} if t[0] == alert), default=0
            )
            self.numbers[alert] = found.get(alert, known + known % 2)

    # ---- the parent

    @rule()
    def polls(self) -> None:
        if not self.reader.given:
            self.reader.poll()
            self.taken = 0
        self.take()

    def take(self) -> None:
        for transition in self.reader.given[self.taken :]:
            if transition["transition_id"] not in self.book:
                self.book.append(transition["transition_id"])
        self.taken = len(self.reader.given)

    @precondition(lambda self: self.reader.given)
    @rule(failing=st.sampled_from(["", "", "sync", "write", "rename", "unlink"]))
    def has_delivered(self, failing: str) -> None:
        self.take()
        self.disk.failing = {failing}
        try:
            self.reader.delivered()
        except OSError:
            pass
        self.disk.failing = set()

    @rule(calls=st.integers(0, 8))
    def parent_is_killed(self, calls: int) -> None:
        self.disk.crash_in = calls
        try:
            self.polls()
            self.reader.delivered()
        except Crash:
            pass
        self.disk.crash_in = -1
        self.parent_starts()

    def parent_starts(self) -> None:
        self.reader = OutboxReader(FOLDER, files=self.disk)
        self.taken = 0

    # ---- both

    @rule()
    def power_is_lost(self) -> None:
        self.disk.power_loss()
        self.shard_starts()
        self.parent_starts()

    def teardown(self) -> None:
        if not hasattr(self, "disk"):
            return
        self.disk.failing = set()
        self.commit()
        self.polls()
        self.reader.delivered()
        self.polls()
        assert not self.durable - set(self.book), "a durable transition never reached the book"
        for alert in "abc":
            numbers = [int(t[2:]) for t in self.book if t[0] == alert]
            assert numbers == sorted(numbers)


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
