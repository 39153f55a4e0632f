"""What the supervisor makes of heartbeats."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.runtime import supervisor as module
from greenlang_iot.runtime.supervisor import LONGEST_PAUSE, START_WITHIN, Supervisor
from greenlang_iot.settings.model import RuntimeSettings


class Process:
    pid, exitcode = 1, None

    def __init__(self) -> None:
        self.killed = 0
        self.held = False  # by a disk: it ends later than it is killed

    def is_alive(self) -> bool:
        return self.held or not self.killed

    def kill(self) -> None:
        self.killed += 1

    def join(self, timeout: float | None = None) -> None:
        assert not self.is_alive() or timeout is not None, "it would wait for ever"


class Bench:
    """A supervisor with a shard whose process, clock and beats are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.beat, self.reasons = 100.0, 0.0, list[str]()
        self.no_spawn: Exception | None = None
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "CHECK_EVERY", 0)
        monkeypatch.setattr(Supervisor, "_spawn", self._spawn)
        spec: Any = type("Spec", (), {"index": 0})()
        settings = RuntimeSettings(heartbeat_timeout=10)
        self.supervisor = Supervisor(
            [spec], settings, lambda shard: self.beat, lambda shard, why: self.reasons.append(why)
        )
        self.supervisor.start()

    def _spawn(self, child: Any) -> None:
        if self.no_spawn is not None:
            raise self.no_spawn
        child.process, child.started, child.killed = Process(), self.now, False

    async def look(self) -> None:
        task = asyncio.ensure_future(self.supervisor.watch())
        for _ in range(3):
            await asyncio.sleep(0)
        if task.done():
            await task  # raises what ended it
        task.cancel()


async def test_a_shard_that_has_not_begun_to_beat_is_given_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kernels and state take long to load on a busy machine; killing it would begin that again."""
    bench = Bench(monkeypatch)
    bench.now += START_WITHIN - 1
    await bench.look()
    assert bench.reasons == []
    bench.now += 2
    await bench.look()
    assert bench.reasons == ["no heartbeat"]


async def test_a_shard_that_stops_beating_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(monkeypatch)
    bench.beat = bench.now + 1
    bench.now += 10
    await bench.look()
    assert bench.reasons == []
    bench.now += 2
    await bench.look()
    assert bench.reasons == ["no heartbeat"]


async def test_a_shard_that_does_not_end_when_it_is_killed_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel ends no process that waits for a disk."""
    bench = Bench(monkeypatch)
    bench.beat = bench.now + 1
    bench.now += 20
    (child,) = bench.supervisor._children
    process: Any = child.process
    process.held = True
    await bench.look()
    await bench.look()
    assert (process.killed, bench.reasons) == (1, [])
    process.held = False
    await bench.look()
    assert bench.reasons == ["no heartbeat"]
    monkeypatch.setattr(module, "CLOSE_WITHIN", 0.0)
    process = child.process
    process.held = True
    process.terminate = lambda: None
    bench.supervisor._settings = RuntimeSettings(drain_timeout=1)
    monkeypatch.setattr(module.time, "monotonic", iter(range(1000, 9999)).__next__)
    assert await bench.supervisor.stop() is False


async def test_a_cause_of_some_seconds_does_not_spend_the_restart_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that cannot be written ends a shard at each start, within a tenth of a second."""
    bench = Bench(monkeypatch)
    begun = bench.now
    while bench.now < begun + 15:
        child = bench.supervisor._children[0]
        child.process.kill()
        await bench.look()
        bench.now += 0.1
    assert len(bench.reasons) == 9
    assert bench.supervisor.failed == []
    bench.now += 5  # the longest pause
    await bench.look()
    assert bench.supervisor.alive(0)


async def test_the_first_restart_is_at_once_and_what_does_not_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(monkeypatch)
    bench.supervisor._children[0].process.kill()
    await bench.look()
    assert bench.supervisor.alive(0)
    begun = bench.now
    watching = asyncio.ensure_future(bench.supervisor.watch())
    while not watching.done() and bench.now < begun + 60:
        bench.supervisor._children[0].process.kill()
        await asyncio.sleep(0)
        bench.now += 0.1
    with pytest.raises(GatewayError, match="restart_budget"):
        await watching
    assert 20 < bench.now - begun < 30
    assert len(bench.reasons) == 10


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), EOFError()])
async def test_a_shard_that_cannot_be_started_is_started_later(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The parent has no descriptor left, or its fork server was killed: it ended the whole gateway."""
    bench = Bench(monkeypatch)
    bench.supervisor._children[0].process.kill()
    bench.no_spawn = error
    with capture_logs() as told:
        for _ in range(20):
            await bench.look()
            assert not bench.supervisor.alive(0)
            bench.now += 1
    assert [entry["event"] for entry in told] == [
        "shard restarts",
        "a shard cannot be started; it is tried again",
    ]
    bench.no_spawn = None
    bench.now += LONGEST_PAUSE
    await bench.look()
    assert bench.supervisor.alive(0)
    assert (bench.reasons, bench.supervisor.failed) == (["exit code None"], [])
