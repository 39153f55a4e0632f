"""What the supervisor makes of heartbeats."""

import asyncio
from typing import Any

import pytest

from greenlang_iot.runtime import supervisor as module
from greenlang_iot.runtime.supervisor import START_WITHIN, Supervisor
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
        child.process, child.started, child.killed = Process(), self.now, False

    async def look(self) -> None:
        task = asyncio.ensure_future(self.supervisor.watch())
        for _ in range(3):
            await asyncio.sleep(0)
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
