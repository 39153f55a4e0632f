"""Settles tickets once what they caused is on disk: dead letters and alert openings."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from greenlang_iot.model.outcomes import Transition
from greenlang_iot.sinks.outbox import Outbox
from greenlang_iot.spool.log import SpoolFull

AT_ONCE: Final = 100
"""Transitions in one record of the outbox: a storm in one would never fit into a small one. What is said of one
alert in a row is not torn apart: one that ends as soon as it has opened is not left open by a crash between."""


class DurableSettler:
    """One task awaits the newest number and settles every ticket up to it.

    durable(number): returns when everything up to `number` is durable.
    settle(bit, first, last): the ledger's.
    """

    def __init__(
        self,
        bit: int,
        durable: Callable[[int], Awaitable[None]],
        settle: Callable[[int, int, int], None],
    ) -> None:
        self._bit = bit
        self._durable = durable
        self._settle = settle
        self._waiting: deque[tuple[int, int]] = deque()  # (number, ticket)
        self._wake = asyncio.Event()

    def add(self, number: int, ticket: int) -> None:
        """`ticket` settles when `number` is durable."""
        self._waiting.append((number, ticket))
        self._wake.set()

    @property
    def idle(self) -> bool:
        return not self._waiting

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                newest = self._waiting[-1][0]
                await self._durable(newest)
                while self._waiting and self._waiting[0][0] <= newest:
                    _, ticket = self._waiting.popleft()
                    self._settle(self._bit, ticket, ticket)


class OutboxPort:
    """pipeline.AlertOutbox over the outbox; a full one holds tickets back and loses nothing."""

    def __init__(self, outbox: Outbox, settler: DurableSettler) -> None:
        self._outbox = outbox
        self._settler = settler
        self._waiting: deque[tuple[Sequence[Transition], int]] = deque()

    @property
    def idle(self) -> bool:
        return not self._waiting and self._settler.idle

    def submit(self, transitions: Sequence[Transition], ticket: int) -> None:
        """Write them to the outbox, AT_ONCE in a record or more of one alert; `ticket` settles when all are
        durable."""
        first = 0
        while first < len(transitions):
            end = min(first + AT_ONCE, len(transitions))
            while (
                end < len(transitions)
                and transitions[end].alert_id == transitions[end - 1].alert_id
            ):
                end += 1
            last = end == len(transitions)
            self._waiting.append((transitions[first:end], ticket if last else 0))
            first = end
        self.retry()

    def retry(self) -> None:
        """Append what waits, as far as there is room."""
        while self._waiting:
            transitions, ticket = self._waiting[0]
            try:
                number = self._outbox.append(transitions)
            except SpoolFull:
                return
            self._waiting.popleft()
            if ticket:
                self._settler.add(number, ticket)
