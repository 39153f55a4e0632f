"""A shard without a broker and without sinks: its life, its drain and what it does on a bad disk."""

import asyncio
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
from tests.fakes.directory import directory

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model.batches import U16
from greenlang_iot.model.errors import MqttError
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime.layout import ConnectionPlan, ShardPlan
from greenlang_iot.runtime.shard import Shard, ShardSpec
from greenlang_iot.settings.model import LakeSettings, Settings, SinksSettings


def make(folder: Path, *retired: str) -> Shard:
    settings = Settings(data_dir=folder, sinks=SinksSettings(lake=LakeSettings(enabled=False)))
    counters = folder / "shard-0.counters"
    Counters.create(counters)
    plans = tuple(ConnectionPlan(0, client_id, ("a/b",)) for client_id in retired)
    spec = ShardSpec(0, settings, directory(2, ("m",)), ShardPlan(0, ()), counters, plans)
    return Shard(spec, Pipe()[1], Pipe()[1])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_it_drains_although_no_checkpoint_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "state" / "shard-0.state").mkdir(parents=True)
    shard = make(tmp_path)
    shard._state_file = tmp_path / "state" / "shard-0.state"
    (tmp_path / "state" / "shard-0.state").rename(tmp_path / "later")
    life = asyncio.ensure_future(shard.run())
    await until(lambda: hasattr(shard, "pipeline"))
    (tmp_path / "later").rename(tmp_path / "state" / "shard-0.state")
    await shard.checkpoints.finish()
    shard._stop.set()
    await asyncio.wait_for(life, 10)


async def test_a_drain_does_not_wait_for_the_second_stage_to_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio waits for the threads of its own executor when it ends, however long that takes."""
    shard, imported = make(tmp_path), threading.Event()
    began = threading.Event()

    def load(detector: Detector) -> None:
        began.set()
        imported.wait(60)

    monkeypatch.setattr(Detector, "load_second_stage", load)
    life = asyncio.ensure_future(shard.run())
    await asyncio.to_thread(began.wait, 10)
    shard._stop.set()
    await asyncio.wait_for(life, 10)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 5)
    finally:
        imported.set()


async def test_a_client_id_that_cannot_be_retired_does_not_end_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = make(tmp_path, "old-1", "old-2")
    asked: list[str] = []

    class Refused:
        number = 0

        def __init__(self, plan: ConnectionPlan) -> None:
            self.plan = plan

        async def run(self) -> None:
            asked.append(self.plan.client_id)
            raise MqttError("session taken over", reason="session_taken_over", retryable=False)

    monkeypatch.setattr(shard, "_connection", lambda plan, retire: Refused(plan))
    await asyncio.wait_for(shard._retire(), 5)
    assert asked == ["old-1", "old-2"]
    assert shard.connections == []
    assert not (tmp_path / "run").exists()


async def test_what_settles_before_the_subscription_stands_is_acknowledged_too(
    tmp_path: Path,
) -> None:
    """A broker that kept the session sends messages right after CONNACK, before the SUBACK."""

    class Connected:
        number = 5

        def __init__(self) -> None:
            self.acked: list[int] = []

        def acknowledge(self, connection: int, packet_ids: U16) -> None:
            assert connection == self.number
            self.acked += packet_ids.tolist()

    shard, connection = make(tmp_path), Connected()
    shard.connections.append(connection)  # type: ignore[arg-type]
    shard._acknowledge(5, np.array([1, 2], np.uint16))
    shard.on_connected(5, True)
    shard._acknowledge(5, np.array([3], np.uint16))
    shard.on_disconnected(5, "connection_lost")
    connection.number = 6
    shard._acknowledge(5, np.array([4], np.uint16))
    assert connection.acked == [1, 2, 3]


async def test_it_ends_with_its_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()
    monkeypatch.setattr("greenlang_iot.runtime.shard.os._exit", lambda code: ended.set())
    supervisor = await asyncio.create_subprocess_exec("sleep", "60")
    shard = make(tmp_path)
    shard._end_with(supervisor.pid)
    await asyncio.sleep(0)
    assert not ended.is_set()
    supervisor.kill()
    await asyncio.wait_for(ended.wait(), 5)
    await supervisor.wait()
