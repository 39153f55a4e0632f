"""Checkpoints: taken while readings are learnt, and detection that goes on after a restart of the gateway."""

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import orjson
import pytest
from tests.fakes.directory import directory
from tests.fakes.mqtt_client import RawClient
from tests.fakes.ports import free_port
from tests.fakes.readings import MINUTE, readings
from tests.services.gateway_process import GatewayProcess
from tests.unit.runtime.test_runtime_alerts_killed import until

from greenlang_iot.detect.checkpoint import Snapshot
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model.pieces import Body
from greenlang_iot.runtime import checkpoints
from greenlang_iot.runtime.checkpoints import Checkpoints
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.sinks.lake_query import LakeReader
from greenlang_iot.spool.files import OsFiles

SERIES = 10
SETTINGS = DetectSettings(warmup=5, second_stage=SecondStageSettings(enabled=False))


def new() -> Detector:
    return Detector(directory(SERIES, ("m",), units=("Cel",)), SETTINGS)


def minute(detector: Detector, number: int) -> None:
    x = 20 + np.random.default_rng(number).normal(size=SERIES)
    detector.score(readings(np.arange(SERIES), [number * MINUTE] * SERIES, x))


async def test_readings_that_come_in_between_tear_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each series is as it was when it was copied: all of its row, of one moment."""
    monkeypatch.setattr(checkpoints, "STEP", 4)
    detector, written = new(), []
    path = tmp_path / "x.state"
    one = Checkpoints(detector, path, lambda: written.append(1))
    states = []
    for number in range(1, 40):
        minute(detector, number)
        if number >= 37:
            states.append(new())
            states[-1].restore(detector.checkpoint())
            one.tick(0.0)  # copies four series
            assert one._writing is not None
            await one._writing
    await until(lambda: bool(written), "a checkpoint")
    restored = new()
    assert restored.restore(path.read_bytes()) == SERIES
    for moment, rows in enumerate((slice(0, 4), slice(4, 8), slice(8, 10))):
        np.testing.assert_array_equal(restored._rows[rows], states[moment]._rows[rows])


async def test_the_last_one_waits_for_the_one_that_is_written(tmp_path: Path) -> None:
    detector, written = new(), []
    path = tmp_path / "x.state"
    one = Checkpoints(detector, path, lambda: written.append(1))
    minute(detector, 1)
    one.tick(0.0)
    minute(detector, 2)
    await one.finish()
    assert len(written) == 2
    assert path.read_bytes() == detector.checkpoint()
    one.tick(3_600.0)  # not due
    assert one._file is None


async def test_only_one_step_is_in_memory_and_half_a_checkpoint_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "STEP", 4)
    detector, written, copied = new(), [], []
    path = tmp_path / "x.state"
    one = Checkpoints(detector, path, lambda: written.append(1))
    minute(detector, 1)
    await one.finish()
    before = path.read_bytes()
    genuine = Snapshot.step
    monkeypatch.setattr(
        Snapshot, "step", lambda self, *rows: copied.extend(rows) or genuine(self, *rows)
    )
    minute(detector, 2)
    for _ in range(3):
        one.tick(0.0)  # the first is not yet written: nothing more is copied
    assert copied == [4]
    assert one._writing is not None
    await one._writing
    assert path.read_bytes() == before
    minute(detector, 3)
    await one.finish()  # what was begun is given up, for it is of an earlier moment
    assert len(written) == 2
    assert path.read_bytes() != before
    assert os.listdir(tmp_path) == ["x.state"]
    whole, restored = new(), new()
    whole.restore(detector.checkpoint())
    assert checkpoints.restore(restored, path) == SERIES
    np.testing.assert_array_equal(restored._rows, whole._rows)


class Full(OsFiles):
    """A disk that takes so many writes."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def write(self, fd: int, parts: Sequence[Body]) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        super().write(fd, parts)


async def test_a_disk_that_is_full_in_the_middle_leaves_the_checkpoint_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "STEP", 4)
    detector, written = new(), []
    path, disk = tmp_path / "x.state", Full(1_000)
    one = Checkpoints(detector, path, lambda: written.append(1), disk)
    minute(detector, 1)
    await one.finish()
    before = path.read_bytes()
    minute(detector, 2)
    for writes in range(6):  # head, three pieces, tail, checksum
        disk.left = writes
        await one.finish()
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["x.state"]
    disk.left = 6
    await one.finish()
    assert path.read_bytes() != before
    assert len(written) == 2


def test_an_empty_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "x.state").touch()
    with pytest.raises(ValueError, match="cut short"):
        checkpoints.restore(new(), tmp_path / "x.state")


async def test_a_disk_that_fails_costs_only_the_checkpoint(tmp_path: Path) -> None:
    detector, written = new(), []
    one = Checkpoints(detector, tmp_path / "none" / "x.state", lambda: written.append(1))
    minute(detector, 1)
    await one.finish()
    assert not written
    (tmp_path / "none").mkdir()
    await one.finish()
    assert written


# ---- the gateway as its users run it -----------------------------------------------------------------

WARMUP = 30


class Site:
    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        metric = {"unit": "Cel", "range": [-1000, 1000]}
        types = {"probe": {"metrics": {"temperature": metric}}}
        devices = [{"id": "p1", "org": "o", "site": "s", "type": "probe"}]
        registry = folder / "registry.json"
        registry.write_bytes(orjson.dumps({"version": 1, "types": types, "devices": devices}))
        settings = {
            "data_dir": str(folder / "data"),
            "mqtt": {"brokers": [{"host": "127.0.0.1", "port": broker.port}], "discovery": False},
            "detect": {"warmup": WARMUP, "checkpoint_every": 0.2},
            "admin": {"port": free_port()},
            "runtime": {"shards": 1},
        }
        self.gateway = GatewayProcess(folder, settings, registry)
        self.state = folder / "data" / "state" / "shard-0.state"

    @property
    def saved_ns(self) -> int:
        """When the newest checkpoint was written; 0: there is none yet."""
        return self.state.stat().st_mtime_ns if self.state.exists() else 0

    async def saves(self, what: str) -> None:
        """Until a newer checkpoint is there."""
        known = self.saved_ns
        await until(lambda: self.saved_ns > known, what)

    def rows(self, columns: str, table: str = "readings") -> list[dict[str, object]]:
        order = "number" if table == "alerts" else "ts"
        sql = f"SELECT {columns} FROM {table} ORDER BY {order}"
        found: list[dict[str, object]] = (
            LakeReader(self.folder / "data" / "lake").query(sql).to_pylist()
        )
        return found


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[Site, RawClient]]:
    broker = Broker()
    await broker.start()
    site = Site(tmp_path, broker)
    try:
        await asyncio.to_thread(site.gateway.wait_ready)
        yield site, await RawClient.connected(broker.port, "device")
    finally:
        await asyncio.to_thread(site.gateway.end)
        await broker.stop()


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_a_restart_in_mid_stream_neither_alerts_again_nor_forgets(
    running: tuple[Site, RawClient], how: str
) -> None:
    site, client = running
    dice = random.Random(1)
    start = time.time_ns() - 3_600_000_000_000
    sent = 0

    async def publish(*values: float) -> None:
        nonlocal sent
        for value in values:
            ts = start + sent * 1_000_000_000
            body = orjson.dumps({"ts": ts, "metric": "temperature", "value": round(value, 3)})
            await client.publish("greenlang/o/s/p1/telemetry", body)
            sent += 1
        await until(lambda: len(site.rows("ts")) == sent, f"{sent} readings in the lake")

    def usual(n: int) -> list[float]:
        return [20.0 + dice.gauss(0, 0.3) for _ in range(n)]

    def openings() -> list[object]:
        return [
            a["alert_id"] for a in site.rows("alert_id, state", "alerts") if a["state"] == "open"
        ]

    # it learns, and an anomaly is under way
    await publish(*usual(3 * WARMUP))
    await publish(*[60.0] * 5)
    await until(lambda: len(openings()) == 1, "the alert")
    for what in ("a checkpoint", "one that was begun before", "one of all that came"):
        await site.saves(what)

    if how == "SIGTERM":
        await asyncio.to_thread(site.gateway.stop)
    else:
        await asyncio.to_thread(site.gateway.kill_all)
    await asyncio.to_thread(site.gateway.start)
    await asyncio.to_thread(site.gateway.wait_ready)

    # the anomaly that was told is no news
    await publish(*[60.0] * 3)
    after = site.rows("verdict")[-3:]
    assert [row["verdict"] for row in after] == ["suspect"] * 3
    # what is usual was not forgotten: nothing is learnt anew, and it is still usual
    await publish(*usual(20))
    assert [row["verdict"] for row in site.rows("verdict")[-20:]].count("learning") == 0
    await until(
        lambda: [a["state"] for a in site.rows("state, number", "alerts")][-1] == "resolved",
        "its end",
    )
    assert len(set(openings())) == 1
