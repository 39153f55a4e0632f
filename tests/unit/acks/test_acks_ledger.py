"""The ledger's invariants: by example, and by a state machine against a naive model."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from greenlang_iot.acks.ledger import Ledger, Release

INFLUX, KAFKA, DEAD = 1, 2, 4
SINKS = (INFLUX, KAFKA, DEAD)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint16)


def plain(released: list[Release]) -> list[tuple[int, list[int]]]:
    return [(r.connection, r.packet_ids.tolist()) for r in released]


def test_released_when_every_required_sink_settled() -> None:
    ledger = Ledger()
    assert ledger.open(1, ids(7, 8), INFLUX | KAFKA, 100, 0.0) == 1
    assert ledger.settle(INFLUX, 1, 1) == []
    assert plain(ledger.settle(KAFKA, 1, 1)) == [(1, [7, 8])]
    assert (ledger.messages, ledger.nbytes, ledger.tickets) == (0, 0, 0)


def test_a_later_ticket_waits_for_the_earlier_ones_of_its_connection_only() -> None:
    ledger = Ledger()
    for connection, packet_id in ((1, 10), (2, 20), (1, 11)):
        ledger.open(connection, ids(packet_id), KAFKA, 1, 0.0)
    assert plain(ledger.settle(KAFKA, 2, 3)) == [(2, [20])]
    assert (ledger.messages, ledger.tickets) == (2, 2)
    assert plain(ledger.settle(KAFKA, 1, 1)) == [(1, [10]), (1, [11])]


def test_settling_again_changes_nothing() -> None:
    ledger = Ledger()
    ledger.open(1, ids(1), KAFKA, 1, 0.0)
    assert plain(ledger.settle(KAFKA, 1, 1)) == [(1, [1])]
    assert ledger.settle(KAFKA, 1, 1) == []
    assert ledger.settle(INFLUX, 1, 1) == []


def test_a_chunk_without_tickets_and_a_ticket_never_opened() -> None:
    ledger = Ledger()
    assert ledger.settle(KAFKA, 1, 0) == []
    with pytest.raises(ValueError, match="never opened"):
        ledger.settle(KAFKA, 1, 1)


def test_a_release_says_when_its_ticket_was_opened() -> None:
    ledger = Ledger()
    ledger.open(1, ids(10), KAFKA, 1, 5.0)
    ledger.open(1, ids(11), INFLUX, 1, 6.0)
    assert ledger.settle(INFLUX, 2, 2) == []
    assert [r.opened for r in ledger.settle(KAFKA, 1, 1)] == [5.0, 6.0]


def test_nothing_required_settles_at_open_but_in_receive_order() -> None:
    ledger = Ledger()
    ledger.open(1, ids(5), 0, 1, 0.0)
    assert plain(ledger.release()) == [(1, [5])]
    assert ledger.release() == []
    ledger.open(1, ids(6), KAFKA, 1, 0.0)
    ledger.open(1, ids(7), 0, 1, 0.0)
    assert ledger.release() == []
    assert plain(ledger.settle(KAFKA, 2, 2)) == [(1, [6]), (1, [7])]


def test_packet_ids_are_copied_and_qos_0_is_not_acknowledged() -> None:
    ledger = Ledger()
    column = ids(3, 0, 4)
    ledger.open(1, column, KAFKA, 1, 0.0)
    ledger.open(1, ids(0, 0), KAFKA, 1, 0.0)
    column[:] = 9
    assert ledger.messages == 2
    assert plain(ledger.settle(KAFKA, 1, 2)) == [(1, [3, 4])]


def test_a_disconnected_connection_gives_back_memory_and_releases_nothing() -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.open(1, ids(1), KAFKA, 10, 0.0)
    ledger.settle(KAFKA, 2, 2)
    ledger.disconnected(1)
    assert (ledger.messages, ledger.nbytes, ledger.tickets) == (2, 20, 2)
    ledger.open(2, ids(1), KAFKA, 10, 0.0)  # the same packet id, on the next connection
    assert ledger.settle(KAFKA, 1, 3) == []
    assert plain(ledger.settle(KAFKA, 4, 4)) == [(2, [1])]
    assert ledger.tickets == 0


def test_what_was_released_and_not_fetched_is_forgotten_with_its_connection() -> None:
    ledger = Ledger()
    ledger.open(1, ids(1), 0, 1, 0.0)
    ledger.disconnected(1)
    assert ledger.release() == []


def test_oldest_ticket_of_each_sink() -> None:
    ledger = Ledger()
    assert ledger.oldest(KAFKA) is None
    ledger.open(1, ids(1), KAFKA | INFLUX, 1, 10.0)
    ledger.open(1, ids(2), KAFKA, 1, 11.0)
    ledger.open(1, ids(3), INFLUX, 1, 12.0)
    ledger.settle(KAFKA, 1, 1)
    assert (ledger.oldest(KAFKA), ledger.oldest(INFLUX), ledger.oldest(DEAD)) == (11.0, 10.0, None)
    ledger.settle(KAFKA, 1, 2)
    assert ledger.oldest(KAFKA) is None


@dataclass
class ModelTicket:
    connection: int
    packet_ids: list[int]
    pending: set[int]
    nbytes: int
    opened: float
    released: bool = False


class LedgerMachine(RuleBasedStateMachine):
    """The naive model keeps every ticket for ever and searches all of them each time."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.tickets: list[ModelTicket] = []
        self.live = {1, 2}
        self.newest_connection = 2
        self.now = 0.0

    def expected(self) -> list[tuple[int, list[int]]]:
        out = []
        for connection in sorted(self.live):
            for ticket in self.tickets:
                if ticket.connection != connection or ticket.released:
                    continue
                if ticket.pending:
                    break
                ticket.released = True
                if ticket.packet_ids:
                    out.append((connection, ticket.packet_ids))
        return out

    def check(self, released: list[Release]) -> None:
        got = plain(released)
        # between connections the order is free
        assert sorted(got, key=lambda release: release[0]) == self.expected()

    @rule(
        data=st.data(),
        packet_ids=st.lists(st.integers(0, 5), max_size=3),
        required=st.sets(st.sampled_from(SINKS)),
        nbytes=st.integers(0, 100),
    )
    def open(
        self, data: st.DataObject, packet_ids: list[int], required: set[int], nbytes: int
    ) -> None:
        connection = data.draw(st.sampled_from(sorted(self.live)))
        self.now += 1.0
        ticket = self.ledger.open(connection, ids(*packet_ids), sum(required), nbytes, self.now)
        kept = [packet_id for packet_id in packet_ids if packet_id]
        self.tickets.append(ModelTicket(connection, kept, set(required), nbytes, self.now))
        assert ticket == len(self.tickets)

    @rule(data=st.data(), sink=st.sampled_from(SINKS))
    @precondition(lambda self: self.tickets)
    def settle(self, data: st.DataObject, sink: int) -> None:
        first = data.draw(st.integers(1, len(self.tickets)))
        last = data.draw(st.integers(first - 1, min(first + 5, len(self.tickets))))
        released = self.ledger.settle(sink, first, last)
        for ticket in self.tickets[first - 1 : last]:
            ticket.pending.discard(sink)
        self.check(released)

    @rule()
    def release(self) -> None:
        self.check(self.ledger.release())

    @rule(data=st.data())
    def reconnect(self, data: st.DataObject) -> None:
        gone = data.draw(st.sampled_from(sorted(self.live)))
        self.ledger.disconnected(gone)
        self.live.remove(gone)
        self.newest_connection += 1
        self.live.add(self.newest_connection)

    @invariant()
    def gauges_are_exact(self) -> None:
        held = [
            ticket
            for i, ticket in enumerate(self.tickets)
            if ticket.pending
            or (
                ticket.connection in self.live
                and any(
                    earlier.pending and earlier.connection == ticket.connection
                    for earlier in self.tickets[:i]
                )
            )
        ]
        assert self.ledger.tickets == len(held)
        assert self.ledger.messages == sum(len(ticket.packet_ids) for ticket in held)
        assert self.ledger.nbytes == sum(ticket.nbytes for ticket in held)

    @invariant()
    def oldest_is_exact(self) -> None:
        for sink in SINKS:
            waiting = [ticket.opened for ticket in self.tickets if sink in ticket.pending]
            assert self.ledger.oldest(sink) == (waiting[0] if waiting else None)


LedgerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_ledger_like_a_naive_model = LedgerMachine.TestCase
