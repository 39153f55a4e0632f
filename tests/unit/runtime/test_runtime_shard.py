"""A shard without a broker and without sinks: its life, its drain and what it does on a bad disk."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.fakes.alerts import opened
from tests.fakes.directory import directory

from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model.errors import GatewayError
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime import shard as module
from greenlang_iot.runtime.layout import ConnectionPlan, ShardPlan, plan
from greenlang_iot.runtime.shard import Shard, _unraisable
from greenlang_iot.runtime.spec import ShardSpec
from greenlang_iot.settings.model import LakeSettings, Settings, SinksSettings
from greenlang_iot.sinks.outbox import Outbox


def make(folder: Path, *retired: str) -> Shard:
    settings = Settings(data_dir=folder, sinks=SinksSettings(lake=LakeSettings(enabled=False)))
    counters = folder / "shard-0.counters"
    Counters.create(counters)
    plans = tuple(ConnectionPlan(0, client_id, ("a/b",)) for client_id in retired)
    spec = ShardSpec(0, settings, directory(2, ("m",)), ShardPlan(0, ()), counters, plans)
    return Shard(spec, Pipe()[1], Pipe()[1])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
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
    await asyncio.wait_for(life, 30)


async def test_it_starts_although_a_checkpoint_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It costs learning, never readings: one that another user wrote ended every start."""
    (tmp_path / "state" / "shard-1.state").mkdir(parents=True)  # root may read any file
    shard = make(tmp_path)
    life = asyncio.ensure_future(shard.run())
    await until(lambda: life.done() or hasattr(shard, "pipeline"))
    shard._stop.set()
    await asyncio.wait_for(life, 30)
    assert "checkpoint refused: its series start anew" in capsys.readouterr().out


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
    await asyncio.to_thread(began.wait, 30)
    shard._stop.set()
    await asyncio.wait_for(life, 30)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().shutdown_default_executor(), 30)
    finally:
        imported.set()


async def test_the_second_stage_is_imported_once_messages_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or after a while, where a connection stays away."""
    shard, loaded = make(tmp_path), threading.Event()
    up, asked = [False], [0]

    def ready() -> bool:
        asked[0] += 1
        return up[0]

    monkeypatch.setattr(shard, "_ready", ready)
    monkeypatch.setattr(shard, "_load_second_stage", loaded.set)
    monkeypatch.setattr(module, "TICK", 0)
    task = asyncio.ensure_future(shard._load_second_stage_later())
    await until(lambda: asked[0] > 3)
    assert not loaded.is_set()
    up[0] = True
    await asyncio.wait_for(task, 30)
    assert await asyncio.to_thread(loaded.wait, 20)

    up[0], loaded = False, threading.Event()
    monkeypatch.setattr(shard, "_load_second_stage", loaded.set)
    monkeypatch.setattr(module, "SECOND_STAGE_WITHIN", 0)
    await asyncio.wait_for(shard._load_second_stage_later(), 30)
    assert await asyncio.to_thread(loaded.wait, 20)


async def test_it_ends_with_its_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()
    monkeypatch.setattr("greenlang_iot.runtime.shard.os._exit", lambda code: ended.set())
    supervisor = await asyncio.create_subprocess_exec("sleep", "60")
    shard = make(tmp_path)
    shard._end_with(supervisor.pid)
    await asyncio.sleep(0)
    assert not ended.is_set()
    supervisor.kill()
    await asyncio.wait_for(ended.wait(), 30)
    await supervisor.wait()


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.mark.parametrize("where", ["loop", "task", "unraisable"])
async def test_a_shard_without_memory_ends_though_it_cannot_say_so(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    def ended(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr("greenlang_iot.runtime.shard.os._exit", ended)
    monkeypatch.setattr("greenlang_iot.runtime.shard.log", SimpleNamespace(error=no_memory))
    shard = make(tmp_path)
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[None] = loop.create_future()
    failed.set_exception(MemoryError())
    told: dict[str, Callable[[], None]] = {
        "loop": lambda: shard._unhandled(loop, {"exception": MemoryError()}),
        "task": lambda: shard._ended(failed),  # type: ignore[arg-type]
        "unraisable": lambda: _unraisable(SimpleNamespace(exc_value=MemoryError())),  # type: ignore[arg-type]
    }
    with pytest.raises(Ended, match="1"):
        told[where]()


async def test_a_task_that_is_cancelled_from_within_ends_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that cancels whoever calls it: the shard would go on without its runner."""
    ended: list[int] = []
    monkeypatch.setattr("greenlang_iot.runtime.shard.os._exit", ended.append)
    shard = make(tmp_path)

    async def cancelled() -> None:
        raise asyncio.CancelledError

    shard._start(cancelled())
    await asyncio.wait(shard._tasks)
    await asyncio.sleep(0)
    assert ended == [1]
    shard._stop.set()  # at the end it is meant
    shard._start(cancelled())
    await asyncio.wait(shard._tasks)
    await asyncio.sleep(0)
    assert ended == [1]


async def test_a_disk_that_fails_at_the_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a stack trace, at each of the restarts again."""

    def failing(*_: object) -> None:
        raise OSError(5, "Input/output error", "outbox/shard-0")

    monkeypatch.setattr(module, "Outbox", failing)
    with pytest.raises(GatewayError, match=r"files cannot be opened: .*outbox/shard-0"):
        await make(tmp_path).run()


@pytest.mark.parametrize(("layout", "index"), [("sites", 1), ("shared", 0)])
async def test_an_open_alert_goes_on_in_one_shard(layout: str, index: int, tmp_path: Path) -> None:
    """The one that owns its device; with shares nobody does, and it stayed open for ever: the one that wrote it."""
    written = Outbox(tmp_path / "outbox" / "shard-0", 1 << 20)
    number = written.append([replace(opened(1), site="site-1", device="d001", metric="m")])
    await written.durable(number)
    await written.close()
    fleet = directory(2, ("m",))
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "mqtt": {"layout": layout},
            "runtime": {"shards": 2},
            "sinks": {"lake": {"enabled": False}},
        }
    )
    plans = plan(fleet, settings.mqtt, 2, "gateway")
    held = []
    for number in (0, 1):
        counters = tmp_path / f"shard-{number}.counters"
        Counters.create(counters)
        spec = ShardSpec(number, settings, fleet, plans[number], counters)
        shard = Shard(spec, Pipe()[1], Pipe()[1])
        shard._compose()
        assert shard._orphaned_alerts == []
        held += [number] if shard.alerter.active.any() else []
    assert held == [index]
