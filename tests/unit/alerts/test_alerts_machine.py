"""A device that moves from one shard to another, with both killed at will: every bad reading belongs to an alert
that people were told of, none is open when the device is well, and what is over stays so.

The shards share nothing but their outboxes, which the parent tails into its book. The session of the earlier
layout is drained by the first shard; until it is unsubscribed, the broker may give it what it gives the second.
"""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.fakes.alerts import SECOND, T0
from tests.fakes.directory import directory
from tests.fakes.disk import SimulatedDisk
from tests.fakes.readings import readings, scores

from greenlang_iot.alerts.book import Book
from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.model.batches import Reject
from greenlang_iot.model.flags import REPLAYED
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.settings.model import AlertSettings
from greenlang_iot.sinks.outbox import Outbox, OutboxReader, known_alerts

FOLDERS = [Path("/outbox/shard-0"), Path("/outbox/shard-1")]
SETTINGS = AlertSettings(cooldown=0, resolve_after=2, group_devices=0)
FLEET = directory(1, ("m",))
SHARDS = st.sampled_from([0, 1])
MAX_BYTES = 1 << 20


class Session:
    """What a broker keeps for one shard. read: given to the shard; acked: never given again."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, bool]] = []  # (seconds after T0, bad)
        self.read = 0
        self.acked = 0


class AlertsMachine(RuleBasedStateMachine):
    @initialize(seed=st.integers(0, 100))
    def start(self, seed: int) -> None:
        self.disk = SimulatedDisk(seed)
        self.book = Book(SETTINGS)
        self.sessions = [Session(), Session()]
        self.owner, self.draining = 0, False
        self.now = 0
        self.newest = -1  # time of the newest reading that any shard got
        self.judged: dict[int, bool] = {}  # times of bad readings → were they the newest
        self.learnt: list[set[int]] = [set(), set()]
        self.told: list[dict[str, Any]] = []  # what the book made of it
        self.alerters = [self.composed(0), self.composed(1)]
        self.outboxes = [self.opened(0), self.opened(1)]
        self.parent_starts()

    # ---- shards

    def composed(self, shard: int) -> Alerter:
        alerter = Alerter(FLEET, SETTINGS)
        alerter.mine = np.array([shard == self.owner])
        known = known_alerts(FOLDERS, files=self.disk)
        mine, others = (known.open, []) if shard == self.owner else ([], known.open)
        assert alerter.restore(mine, known.ended, others) == []
        return alerter

    def opened(self, shard: int) -> Outbox:
        return Outbox(FOLDERS[shard], MAX_BYTES, fsync_every=0, files=self.disk)

    def killed(self, shard: int, checkpointed: bool) -> None:
        session = self.sessions[shard]
        session.read = session.acked
        if not checkpointed:
            self.learnt[shard] = {ts for ts, _ in session.sent[: session.acked]}
        self.alerters[shard] = self.composed(shard)
        self.outboxes[shard] = self.opened(shard)

    def evaluate(self, shard: int, count: int) -> list[Transition]:
        session, found = self.sessions[shard], []
        for ts, bad in session.sent[session.read : session.read + count]:
            ts_ns = T0 + ts * SECOND
            if bad:
                self.judged.setdefault(ts, ts >= self.newest)
                why = ("value", "out_of_range")
                reject = Reject(b"", b"", "d000", [why], 1, [0], [999.0], [ts_ns])
                found += self.alerters[shard].evaluate_rejects([reject])
            else:
                flags = REPLAYED if ts in self.learnt[shard] else 0
                batch = readings([0], [ts_ns], [1.0], flags=[flags])
                found += self.alerters[shard].evaluate(batch, scores([0.1], [0], [0]))
                self.learnt[shard].add(ts)
            self.newest = max(self.newest, ts)
            session.read += 1
        return found

    @rule(shard=SHARDS, count=st.integers(1, 8), acked=st.booleans())
    def works(self, shard: int, count: int, acked: bool) -> None:
        if found := self.evaluate(shard, count):
            self.outboxes[shard].append(found)
            self.outboxes[shard]._log.flush()
        if acked:
            self.sessions[shard].acked = self.sessions[shard].read

    @rule(shard=SHARDS, count=st.integers(0, 4), checkpointed=st.booleans())
    def is_killed(self, shard: int, count: int, checkpointed: bool) -> None:
        self.evaluate(shard, count)
        self.killed(shard, checkpointed)

    # ---- the broker

    @rule(bad=st.lists(st.booleans(), min_size=1, max_size=4), both=st.booleans())
    def publishes(self, bad: list[bool], both: bool) -> None:
        for each in bad:
            self.now += 1
            self.sessions[self.owner].sent.append((self.now, each))
            if self.draining and both:
                self.sessions[0].sent.append((self.now, each))

    @precondition(lambda self: self.owner == 0)
    @rule(checkpointed=st.booleans())
    def gateway_starts_with_another_layout(self, checkpointed: bool) -> None:
        self.owner, self.draining = 1, True
        if checkpointed:  # shards read each other's
            self.learnt[1] = set(self.learnt[0])
        for shard in (0, 1):
            self.killed(shard, checkpointed)
        self.parent_starts()

    @precondition(lambda self: self.draining and self.is_empty())
    @rule()
    def earlier_session_ends(self) -> None:
        self.draining = False

    def is_empty(self) -> bool:
        return self.sessions[0].acked == len(self.sessions[0].sent)

    # ---- the parent

    def parent_starts(self) -> None:
        self.readers = [OutboxReader(f, MAX_BYTES, files=self.disk) for f in FOLDERS]

    @rule(killed=st.integers(0, 4))
    def parent_moves(self, killed: int) -> None:
        """killed: after so many steps; the book has what it took."""
        for reader in self.readers:
            reader.poll()
            for item in reader.given:
                if item["state"] == "resolved":
                    for other in self.readers:
                        if other is not reader:
                            other.forget(item["alert_id"])
            self.told += [entry["t"] for entry in self.book.take(reader.given, T0)]
            if (killed := killed - 1) == 0:
                self.parent_starts()
                return
            reader.delivered()

    # ---- what is promised

    def teardown(self) -> None:
        if not hasattr(self, "disk"):
            return
        self.draining = False
        self.publishes([False] * 4, False)
        for shard in (0, 1):
            self.works(shard, 1 << 20, True)
        for _ in range(2):
            self.parent_moves(-1)
        by_id: dict[str, list[dict[str, Any]]] = {}
        for item in self.told:
            by_id.setdefault(item["alert_id"], []).append(item)
        spans = []
        for transitions in by_id.values():
            states = [t["state"] for t in transitions]
            assert states == ["open", "resolved"], transitions
            spans.append((transitions[0]["opened"], transitions[-1]["at"]))
        for ts, in_order in self.judged.items():
            at = T0 + ts * SECOND
            assert not in_order or any(first <= at <= last for first, last in spans), ts


TestAlertsMachine = AlertsMachine.TestCase
TestAlertsMachine.settings = settings(max_examples=150, stateful_step_count=15, deadline=None)


def test_a_shard_that_was_killed_knows_which_alerts_are_over() -> None:
    """A bad reading that came again began its alert anew, under an id that the book had as resolved: no alert
    showed the next bad reading. The good ones that came again counted for nothing."""
    machine = AlertsMachine()
    machine.start(seed=0)
    machine.publishes([True, False, False], False)
    machine.works(0, 3, False)
    machine.parent_moves(-1)
    machine.is_killed(0, 0, True)
    machine.publishes([True], False)
    machine.teardown()


def test_what_a_drained_session_brings_of_an_alert_that_another_shard_has_is_not_told_again() -> (
    None
):
    machine = AlertsMachine()
    machine.start(seed=0)
    machine.publishes([True, False, False], False)
    machine.works(0, 1, False)
    machine.gateway_starts_with_another_layout(False)
    machine.works(0, 3, True)
    machine.publishes([True], False)
    machine.teardown()
    assert not any(t["flags"] for t in machine.told)


def test_an_alert_of_a_drained_session_ends() -> None:
    """It stayed open until the next start: the shard that looks after the device did not know it."""
    machine = AlertsMachine()
    machine.start(seed=0)
    machine.publishes([True], False)
    machine.gateway_starts_with_another_layout(False)
    machine.works(0, 1, True)
    machine.teardown()


def test_a_kill_between_two_outboxes_brings_no_alert_back() -> None:
    """The new shard's end of it was delivered, and the old shard's outbox still had it as open."""
    machine = AlertsMachine()
    machine.start(seed=0)
    machine.publishes([True], False)
    machine.works(0, 1, True)
    machine.parent_moves(-1)
    machine.gateway_starts_with_another_layout(False)
    machine.publishes([False, False], False)
    machine.works(1, 2, True)
    machine.readers[1].poll()
    machine.told += [entry["t"] for entry in machine.book.take(machine.readers[1].given, T0)]
    machine.readers[1].delivered()
    machine.parent_starts()
    machine.is_killed(1, 0, True)
    assert not machine.alerters[1].active.any()
    machine.publishes([True], False)
    machine.teardown()
