"""The ack ledger: which MQTT packets may be acknowledged, and when.

A *ticket* stands for the packets of one flush of one connection. It *settles* when every sink in
its `required` mask has settled it; its packets are then released for PUBACK. Invariants:

1. Tickets are 1, 2, 3 … over all connections of a shard and are never reused.
2. A packet id is released at most once, and only after its ticket settled.
3. Per connection, packet ids are released in receive order: a ticket waits for the earlier ones.
4. After `disconnected(c)` nothing of connection c is ever released; its tickets only give back
   memory, each when it settles.
5. Settling is idempotent: what a sink reports twice, late or out of order changes nothing twice.
6. `messages`, `nbytes` and `tickets` are exactly what is still held, and 0 when nothing is.
7. Every operation is amortised O(1) per ticket it names, and nothing is kept per message but its
   packet id.
"""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from greenlang_iot.model.batches import U16


class Release(NamedTuple):
    """What to PUBACK now: packet ids in receive order, and `now` of their ticket's opening."""

    connection: int
    packet_ids: U16
    opened: float


@dataclass(slots=True)
class _Entry:
    connection: int
    packet_ids: U16
    pending: int  # bits of the sinks that have not settled it
    nbytes: int
    opened: float


class Ledger:
    """Tickets of one shard. Sinks are bits: 1, 2, 4 …; pure, `now` is passed in.

    messages: QoS 1 packets held and not released. nbytes: bytes of the tickets held.
    tickets: tickets held.
    """

    def __init__(self) -> None:
        self.messages = 0
        self.nbytes = 0
        self._entries: dict[int, _Entry] = {}
        self._newest = 0
        self._floor = 1  # every ticket below it is gone
        self._queues: dict[int, deque[int]] = {}  # tickets of live connections, in receive order
        self._passed: dict[int, int] = {}  # sink → no ticket below it waits for that sink
        self._released: list[Release] = []

    @property
    def tickets(self) -> int:
        return len(self._entries)

    @property
    def opened(self) -> float | None:
        """`now` of the opening of the oldest ticket held; None: nothing is."""
        return self._entries[self._floor].opened if self._entries else None

    def open(self, connection: int, packet_ids: U16, required: int, nbytes: int, now: float) -> int:
        """A ticket for these packets; `packet_ids` is copied without its zeros (QoS 0).

        With `required` 0 it settles at once; what that releases is in the next `release()` or
        `settle()`.
        """
        self._newest += 1
        ticket = self._newest
        some_zero = np.count_nonzero(packet_ids) < len(packet_ids)
        kept = packet_ids[packet_ids != 0] if some_zero else packet_ids.copy()
        self._entries[ticket] = _Entry(connection, kept, required, nbytes, now)
        self.messages += len(kept)
        self.nbytes += nbytes
        self._queues.setdefault(connection, deque()).append(ticket)
        if not required:
            self._settled(ticket)
        return ticket

    def settle(self, sink: int, first: int, last: int) -> list[Release]:
        """`sink` is done with the tickets first..last (inclusive; none if first > last).

        Returns what to PUBACK now. ValueError where a ticket was never opened.
        """
        if last > self._newest:
            raise ValueError(f"ticket {last} was never opened (the newest is {self._newest})")
        entries = self._entries
        for ticket in range(max(first, self._floor), last + 1):
            entry = entries.get(ticket)
            if entry is not None and entry.pending & sink:
                entry.pending &= ~sink
                if not entry.pending:
                    self._settled(ticket)
        return self.release()

    def release(self) -> list[Release]:
        """What settled since the last call, to PUBACK now (each packet id once)."""
        released = self._released
        if released:
            self._released = []
        return released

    def disconnected(self, connection: int) -> None:
        """The connection is gone: its packets will never be acknowledged under this number."""
        for ticket in self._queues.pop(connection, ()):
            if not self._entries[ticket].pending:
                self._forget(ticket)
        self._released = [r for r in self._released if r.connection != connection]

    def oldest(self, sink: int) -> float | None:
        """`now` of the opening of the oldest ticket that waits for `sink`; None: there is none."""
        ticket = max(self._passed.get(sink, 0), self._floor)
        while ticket <= self._newest and not self._waits(ticket, sink):
            ticket += 1
        self._passed[sink] = ticket
        return self._entries[ticket].opened if ticket <= self._newest else None

    def _waits(self, ticket: int, sink: int) -> bool:
        entry = self._entries.get(ticket)
        return entry is not None and bool(entry.pending & sink)

    def _settled(self, ticket: int) -> None:
        connection = self._entries[ticket].connection
        queue = self._queues.get(connection)
        if queue is None:
            self._forget(ticket)
            return
        while queue and not self._entries[queue[0]].pending:
            entry = self._forget(queue.popleft())
            if len(entry.packet_ids):
                self._released.append(Release(connection, entry.packet_ids, entry.opened))

    def _forget(self, ticket: int) -> _Entry:
        entry = self._entries.pop(ticket)
        self.messages -= len(entry.packet_ids)
        self.nbytes -= entry.nbytes
        while self._floor <= self._newest and self._floor not in self._entries:
            self._floor += 1
        return entry
