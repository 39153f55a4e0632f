"""Spools of shards that are gone: who adopts them, and that they are delivered and removed."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.directory import directory
from tests.fakes.sinks import ScriptedSender

from greenlang_iot.model.errors import SinkError
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.pipeline import Clock
from greenlang_iot.runtime import adoption as module
from greenlang_iot.runtime.adoption import Adoption, abandoned
from greenlang_iot.runtime.sinks import SinkFactory
from greenlang_iot.settings.model import Settings
from greenlang_iot.spool.format import FormatError
from greenlang_iot.spool.log import SegmentLog
from greenlang_iot.spool.store import LogInUse


def fill(folder: Path, *bodies: bytes) -> None:
    log = SegmentLog(folder, segment_bytes=1 << 16, max_bytes=1 << 20, fsync_every=0.01)
    for body in bodies:
        log.append(body, 1)
    log.close_blocking()


def test_every_folder_of_a_vanished_shard_is_adopted_once(tmp_path: Path) -> None:
    for shard in range(5):
        fill(tmp_path / f"shard-{shard}" / "kafka", b"x")
    fill(tmp_path / "shard-7" / "influxdb", b"x")
    (tmp_path / "shard-x" / "kafka").mkdir(parents=True)
    names = [[str(f.relative_to(tmp_path)) for f in abandoned(tmp_path, n, 2)] for n in (0, 1)]
    assert names == [
        ["shard-2/kafka", "shard-4/kafka"],
        ["shard-3/kafka", "shard-7/influxdb"],
    ]
    assert abandoned(tmp_path, 0, 8) == []


async def test_an_adopted_spool_is_delivered_counted_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sender = ScriptedSender()
    answers = iter([SinkError("busy", reason="http_503")])
    sender.answer = lambda rows: next(answers, None)
    monkeypatch.setattr("greenlang_iot.sinks.influx.InfluxSender", lambda settings: sender)
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "runtime": {"shards": 1},
            "sinks": {"influxdb": {"enabled": True}, "lake": {"enabled": False}},
        }
    )
    folder = tmp_path / "spool" / "shard-1" / "influxdb"
    fill(folder, b"a", b"b", b"c")
    fill(tmp_path / "spool" / "shard-1" / "kafka", b"of a sink that is not enabled")
    fill(tmp_path / "spool" / "shard-0" / "kafka", b"neither", b"nor")
    fill(tmp_path / "spool" / "shard-0" / "empty")
    counters = Counters.create(tmp_path / "counters")

    async def refuse(sink: str, refused: object) -> None:
        raise AssertionError(refused)

    def settle(bit: int, first: int, last: int) -> None:
        raise AssertionError("nothing of an adopted spool has a ticket")

    clock = Clock(lambda: 0, lambda: 0.0)
    factory = SinkFactory(settings, directory(1, ("m",)), 0, counters, clock, settle, refuse)
    (live,) = factory.runners()
    (adoption,) = factory.adoptions()
    said = [line for line in capfd.readouterr().out.splitlines() if "is not enabled" in line]
    assert ["chunks=2" in said[0], "shard-0/kafka" in said[0]] == [True, True]
    assert ["chunks=1" in said[1], "shard-1/kafka" in said[1], len(said)] == [True, True, 2]
    await asyncio.wait_for(adoption.run(), 30)
    assert sender.delivered == ["a", "b", "c"]
    assert sender.closed
    assert not folder.exists()
    assert (tmp_path / "spool" / "shard-1" / "kafka").is_dir()
    live.check(None)
    assert counters.get(cell("sink_spool_records", sink="influxdb")) == 0
    assert counters.get(cell("sink_delivered_readings", sink="influxdb")) == 3
    await live.close()


async def test_what_is_left_is_seen_in_the_live_sinks_gauges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = ScriptedSender()
    sender.gate.clear()
    monkeypatch.setattr("greenlang_iot.sinks.kafka.KafkaSender", lambda settings, topic: sender)
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "runtime": {"shards": 1},
            "sinks": {"kafka": {"enabled": True}, "lake": {"enabled": False}},
        }
    )
    fill(tmp_path / "spool" / "shard-1" / "kafka", b"a", b"b")
    counters = Counters.create(tmp_path / "counters")

    async def refuse(sink: str, refused: object) -> None:
        raise AssertionError(refused)

    factory = SinkFactory(
        settings,
        directory(1, ("m",)),
        0,
        counters,
        Clock(lambda: 0, lambda: 0.0),
        lambda *_: None,
        refuse,
    )
    (live,) = factory.runners()
    (adoption,) = factory.adoptions()
    task = asyncio.ensure_future(adoption.run())

    def records() -> float:
        live.check(None)
        return counters.get(cell("sink_spool_records", sink="kafka"))

    await until(lambda: records() == 2)
    sender.gate.set()
    await asyncio.wait_for(task, 30)
    assert records() == 0
    await live.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


class Delivered:
    """A runner that has nothing left; its spool's last commit may fail."""

    backlog = 0

    def __init__(self, error: OSError | None = None) -> None:
        self._error = error
        self._end = asyncio.Event()

    def check(self, oldest: float | None) -> None: ...

    async def run(self) -> None:
        await self._end.wait()

    async def close(self) -> None:
        self._end.set()
        if self._error is not None:
            raise self._error


async def test_a_spool_that_cannot_be_opened_now_is_opened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds what was acknowledged: it does not wait for the next start of this shard."""
    monkeypatch.setattr(module, "AGAIN", 0.0)
    folder = tmp_path / "kafka"
    fill(folder, b"a")
    answers = iter([OSError(5, "Input/output error"), LogInUse("in use"), None])

    def make() -> Any:
        if (error := next(answers)) is not None:
            raise error
        return Delivered()

    await asyncio.wait_for(Adoption(folder, make).run(), 10)
    assert not folder.exists()


async def test_a_spool_of_an_unknown_version_stays(tmp_path: Path) -> None:
    fill(tmp_path / "kafka", b"a")

    def make() -> Any:
        raise FormatError("version 9")

    await asyncio.wait_for(Adoption(tmp_path / "kafka", make).run(), 10)
    assert (tmp_path / "kafka").is_dir()


async def test_a_disk_that_fails_when_all_is_delivered_does_not_end_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.0)
    folder = tmp_path / "kafka"
    fill(folder, b"a")
    failures = iter([True, True, False])
    genuine = module.shutil.rmtree

    def rmtree(path: Path) -> None:
        if next(failures):
            raise OSError(30, "Read-only file system")
        genuine(path)

    monkeypatch.setattr(module.shutil, "rmtree", rmtree)
    runner: Any = Delivered(OSError(30, "Read-only file system"))
    await asyncio.wait_for(Adoption(folder, lambda: runner).run(), 10)
    assert not folder.exists()
