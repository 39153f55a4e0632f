"""The log against a disk that loses power, tears writes and fails to sync, call by call."""

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.fakes.disk import Crash, SimulatedDisk

from greenlang_iot.model.pieces import Pieces
from greenlang_iot.spool import store
from greenlang_iot.spool.log import SegmentLog

FOLDER = Path("/log")
SIZES = st.lists(st.integers(0, 40), max_size=3)


def body_of(number: int, size: int) -> bytes:
    return (b"%d " % number) * size


class LogMachine(RuleBasedStateMachine):
    """Model: every body appended, the newest number known durable, the newest durable release."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: dict[int, bytes] = {}
        self.durable = 0
        self.released = 0  # known to be durable
        self.asked = 0  # asked to be released
        self.torn = False  # a record that was never durable is damaged, with a later one behind it
        self.now = 0
        self.log: SegmentLog | None = None
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(store, "FORGOTTEN", 60)  # bytes of a write: some are, some are not

    @initialize(seed=st.integers(0, 1 << 16))
    def start(self, seed: int) -> None:
        self.disk = SimulatedDisk(seed)
        self.reopen()

    def reopen(self) -> None:
        self.log = SegmentLog(
            FOLDER,
            segment_bytes=400,
            max_bytes=1 << 20,
            fsync_every=0,
            segment_age=50e-9,
            files=self.disk,
            clock_ns=lambda: self.now,
        )
        assert self.log.released >= self.released
        # What was released before it was durable is delivered: that alone may be gone.
        assert self.log.last >= self.durable or self.durable <= self.asked
        self.durable = min(self.durable, self.log.last)
        self.asked = max(self.released, self.log.released)
        # What was never durable may be gone, also from between others; the last numbers are free again.
        readable = {record.number for record in self.log.read(0)}
        self.bodies = {
            n: b
            for n, b in self.bodies.items()
            if n <= min(self.durable, self.log.last) or n in readable
        }
        self.torn = self.log.lost > 0

    def append(self, sizes: list[int]) -> None:
        assert self.log is not None
        for size in sizes:
            body = body_of(self.log.last + 1, size)
            cut = size // 2
            given = Pieces((body[:cut], body[cut:])) if size % 2 else body
            self.bodies[self.log.append(given, 1)] = body

    @rule(nanoseconds=st.sampled_from([1, 60]))
    def wait(self, nanoseconds: int) -> None:
        self.now += nanoseconds

    @rule(sizes=SIZES)
    def flush(self, sizes: list[int]) -> None:
        self.append(sizes)
        self.commit()

    @rule(sizes=SIZES, calls=st.integers(0, 9), power=st.booleans())
    def crash(self, sizes: list[int], calls: int, power: bool) -> None:
        self.append(sizes)
        self.disk.crash_in = calls
        self.commit()
        self.stop(power)
        self.reopen()

    @rule(calls=st.integers(0, 6), power=st.booleans())
    def crash_at_start(self, calls: int, power: bool) -> None:
        self.stop(power)
        self.disk.crash_in = calls
        try:
            self.reopen()
        except Crash:
            self.stop(power=True)
            self.reopen()
        self.disk.crash_in = -1

    def stop(self, power: bool) -> None:
        if power:
            self.disk.power_loss()
        else:
            self.disk.process_death()

    @rule(
        sizes=SIZES,
        call=st.sampled_from(["sync", "write", "sync_folder", "rename", "create", "unlink"]),
    )
    def failing_disk(self, sizes: list[int], call: str) -> None:
        self.append(sizes)
        self.disk.failing = {call}
        self.commit()
        self.disk.failing = set()

    def commit(self) -> None:
        assert self.log is not None
        try:
            self.log.flush()
        except (Crash, OSError):
            self.durable = max(self.durable, self.log.durable_number)
            return
        self.durable = self.log.durable_number
        self.released = self.asked
        assert self.log.durable_number == self.log.last

    @precondition(lambda self: self.log is not None and self.log.last > self.asked)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Also of what is not durable yet: it was delivered, and need not become so."""
        assert self.log is not None
        self.asked = data.draw(st.integers(self.asked, self.log.last))
        self.log.release(self.asked)

    @invariant()
    def nothing_durable_is_lost_and_nothing_released_returns(self) -> None:
        if self.log is None:
            return
        found = {record.number: record.body for record in self.log.read(0)}
        assert list(found) == sorted(found)
        assert all(number > self.released for number in found)
        wanted = range(max(self.asked, self.log.released) + 1, self.log.durable_number + 1)
        assert found == {n: self.bodies[n] for n in wanted if not self.torn or n in self.bodies}
        assert self.log.lost == 0 or self.torn

    def teardown(self) -> None:
        self.patch.undo()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)
