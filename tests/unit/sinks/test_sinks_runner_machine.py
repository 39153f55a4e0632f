"""The runner and its spool through any order of answers, failing calls and deaths: what it settled is delivered.

A row is a ticket of its own. Whoever settles it may have acknowledged it; what is not settled when the process dies
comes again. Without a death, and with a sink that says no before it takes anything, each row is delivered once.
"""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.disk import SimulatedDisk
from tests.unit.sinks.test_sinks_runner import Bench, down

from greenlang_iot.model.errors import SinkError
from greenlang_iot.sinks import backlog, runner
from greenlang_iot.spool import commit

CALLS = ("create", "write", "sync", "rename", "unlink", "sync_folder", "names", "size", "read")


class SharedDisk(SimulatedDisk):
    """One that the loop and the log's thread use."""


def _locked(name: str) -> Any:
    genuine = getattr(SimulatedDisk, name)

    def call(self: SharedDisk, *arguments: Any) -> Any:
        with LOCK:
            return genuine(self, *arguments)

    return call


LOCK = threading.RLock()
for _name in CALLS:
    setattr(SharedDisk, _name, _locked(_name))

STEP = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 3)),
    st.tuples(st.just("answer"), st.sampled_from(["yes", "down", "again"])),
    st.tuples(st.just("disk"), st.sampled_from([(), ("sync",), ("write",), ("read",), CALLS[:6]])),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("time"), st.sampled_from([0.5, 5.0])),
    st.tuples(st.just("death"), st.booleans()),
)


class Life:
    """One sink over the lives of its process."""

    def __init__(self, seed: int) -> None:
        self.disk = SharedDisk(seed)
        self.deaths = 0
        self.newest = 0
        self.settled: set[int] = set()  # rows, over all lives
        self.delivered: list[int] = []
        self.answer = "yes"
        self._begin([])

    def _begin(self, again: list[int]) -> None:
        self.bench = Bench(Path("/spool"), files=self.disk)
        self.tickets: dict[int, int] = {}  # of this process: ticket → row
        self.say(self.answer)
        for row in again:
            self._give(row)

    def say(self, answer: str) -> None:
        error = {"yes": None, "down": down(), "again": SinkError("busy", reason="busy")}[answer]
        self.answer, self.bench.sender.answer = answer, lambda rows: error

    def append(self, count: int) -> None:
        for _ in range(count):
            self.newest += 1
            self._give(self.newest)

    def _give(self, row: int) -> None:
        ticket = len(self.tickets) + 1
        self.tickets[ticket] = row
        self.bench.append(ticket, row)

    async def turns(self, count: int) -> None:
        for _ in range(count):
            self.bench.runner.check(None if self.bench.runner.idle else self.bench.now - 2.0)
            await asyncio.sleep(0.001)
        assert not self.bench.task.done(), "the runner ended"

    def note(self) -> list[int]:
        """Rows that are not settled."""
        self.settled |= {self.tickets[ticket] for ticket in self.bench.settled}
        self.delivered += [int(row) for row in self.bench.sender.delivered]
        self.bench.sender.delivered.clear()
        return [row for t, row in self.tickets.items() if t not in self.bench.settled]

    async def die(self, power: bool) -> None:
        """SIGKILL, or the machine stops: nothing more is written, nobody is told."""
        bench = self.bench
        bench.runner._closing = True
        tasks = [bench.task, *bench.runner._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert bench.spool is not None
        group = bench.spool._group
        group._closed = True
        if group._timer is not None:
            group._timer.cancel()
        if group._commit is not None:
            await asyncio.wait([group._commit])
        again = self.note()
        self.deaths += 1
        self.disk.failing = set()
        self.disk.power_loss() if power else self.disk.process_death()
        self._begin(again)

    async def end(self) -> None:
        """Everything is well again: until nothing waits."""
        self.disk.failing = set()
        self.say("yes")
        async with asyncio.timeout(20):
            runner = self.bench.runner
            while self.note() or runner.spooling or runner.backlog or not runner.idle:
                await self.turns(1)
        await self.bench.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "RETRY_AFTER", 0.001)
    for module in (backlog, runner):
        monkeypatch.setattr(module, "READ_AGAIN", 0.001)


@given(seed=st.integers(0, 1 << 16), steps=st.lists(STEP, max_size=25))
@settings(max_examples=60, deadline=None)
def test_what_is_settled_is_delivered_whatever_happens(
    seed: int, steps: list[tuple[str, Any]]
) -> None:
    async def live() -> None:
        life = Life(seed)
        for what, value in steps:
            if what == "append":
                life.append(value)
            elif what == "answer":
                life.say(value)
            elif what == "disk":
                life.disk.failing = set(value)
            elif what == "turns":
                await life.turns(value)
            elif what == "time":
                life.bench.now += value
            else:
                await life.die(value)
        await life.end()
        every = set(range(1, life.newest + 1))
        assert life.settled == every
        assert set(life.delivered) == every
        if not life.deaths:
            assert sorted(life.delivered) == sorted(every)
            assert life.delivered == sorted(life.delivered)

    asyncio.run(live())
