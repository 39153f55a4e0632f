"""One registry for all processes of a gateway, in a file of `run/`."""

import asyncio
import pickle
from multiprocessing import Pipe
from pathlib import Path

import orjson
import pytest

from greenlang_iot.alerts.rule_file import NO_RULES
from greenlang_iot.devices.catalog import make_registry
from greenlang_iot.devices.columns import Columns
from greenlang_iot.devices.registry import parse
from greenlang_iot.devices.reload import Reloaded, reloaded
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.runtime.gateway import Gateway
from greenlang_iot.runtime.layout import ShardPlan
from greenlang_iot.runtime.memory import SharedRegistry
from greenlang_iot.runtime.reload import Answer, answer_reloads, ask
from greenlang_iot.runtime.spec import ShardSpec
from greenlang_iot.settings.model import LakeSettings, Settings, SinksSettings


def registry(devices: int) -> Directory:
    return parse(orjson.dumps(make_registry(devices)))


def settings(folder: Path) -> Settings:
    return Settings(data_dir=folder, sinks=SinksSettings(lake=LakeSettings(enabled=False)))


def files(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir())


def test_each_reload_has_a_file_and_the_one_before_goes(tmp_path: Path) -> None:
    (tmp_path / "registry-7").write_bytes(b"of an earlier run")
    (tmp_path / "gateway.pid").touch()
    shared = SharedRegistry(tmp_path)
    assert files(tmp_path) == ["gateway.pid"]
    first, _ = shared.put(registry(2))
    second, directory = shared.put(registry(3))
    assert (first.open().n_devices, second.open().n_devices, directory.n_devices) == (2, 3, 3)
    shared.drop_older()
    assert files(tmp_path) == ["gateway.pid", "registry-2"]
    with pytest.raises(FileNotFoundError):
        first.open()


def test_a_shard_is_told_nothing_of_the_registrys_size(tmp_path: Path) -> None:
    sizes = []
    for devices in (10, 20_000):
        columns = Columns.write(registry(devices), tmp_path / "registry")
        spec = ShardSpec(0, settings(tmp_path), columns, ShardPlan(0, ()), tmp_path / "counters")
        sizes.append(len(pickle.dumps(spec)))
    assert sizes[0] == sizes[1]


class Shard:
    """Takes over what it is given."""

    def __init__(self, live: Directory) -> None:
        self.live = live

    def reload(self, registry: Directory, *_: object) -> Reloaded:
        if registry.n_devices == 1:
            raise InputError("too few")
        done = reloaded(self.live, registry)
        self.live = done.directory
        return done


async def test_a_reload_reaches_a_shard_by_the_name_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(Columns, "forget", lambda columns: forgotten.append(columns.path.name))
    shard = Shard(registry(5))
    ours, theirs = Pipe()
    answer_reloads(shard, theirs)
    shared = SharedRegistry(tmp_path)
    columns, _ = shared.put(registry(8))
    answer = await asyncio.to_thread(ask, ours, columns, settings(tmp_path), NO_RULES)
    assert answer.added + answer.moved >= 3
    assert (answer.error, shard.live.device[7]) == ("", registry(8).device[7])
    refused, _ = shared.put(registry(1))
    answer = await asyncio.to_thread(ask, ours, refused, settings(tmp_path), NO_RULES)
    assert answer == Answer(error="too few")
    (tmp_path / "registry-2").unlink()
    answer = await asyncio.to_thread(ask, ours, refused, settings(tmp_path), NO_RULES)
    assert "No such file" in answer.error
    assert shard.live.n_devices >= 8
    assert forgotten == ["registry-1"], "what a reload has read is given back"
    asyncio.get_running_loop().remove_reader(theirs.fileno())


async def test_a_gateway_without_room_for_the_registry_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Columns, "write", full)
    gateway = Gateway(settings(tmp_path), registry(2))
    with pytest.raises(
        GatewayError, match=r"cannot be written to .*run \(No space left on device\)"
    ):
        await gateway.run(signals=False)
