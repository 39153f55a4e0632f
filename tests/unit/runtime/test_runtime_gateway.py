"""What the parent remembers of earlier layouts, and what it does beside the data plane."""

import asyncio
import fcntl
import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.fakes.alerts import opened
from tests.fakes.disk import SimulatedDisk

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.runtime import gateway
from greenlang_iot.runtime.gateway import Gateway, _close_book, _InstanceLock, _retire
from greenlang_iot.runtime.layout import ConnectionPlan, ShardPlan
from greenlang_iot.settings.model import Settings
from greenlang_iot.sinks.alert_store import AlertStore

OLD = ConnectionPlan(0, "gateway-0-0-aaaa", ("a/+",))
NEW = ConnectionPlan(0, "gateway-0-0-bbbb", ("b/+",))


def test_client_ids_of_an_earlier_layout_are_retired_until_drained(tmp_path: Path) -> None:
    assert _retire(tmp_path, [ShardPlan(0, (OLD,))], ["default"]) == []
    assert _retire(tmp_path, [ShardPlan(0, (NEW,))], ["default"]) == [OLD]
    assert _retire(tmp_path, [ShardPlan(0, (NEW,))], ["default"]) == [OLD]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f"retired-{OLD.client_id}").touch()
    assert _retire(tmp_path, [ShardPlan(0, (NEW,))], ["default"]) == []


@pytest.mark.parametrize("damage", [b"", b"[{", b'[{"client_id": 1, "broker": "default"}]', b"7"])
def test_a_damaged_layout_is_put_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "layout.json").write_bytes(damage)
    assert _retire(tmp_path, [ShardPlan(0, (NEW,))], ["default"]) == []
    assert (tmp_path / "layout.damaged").read_bytes() == damage
    assert _retire(tmp_path, [ShardPlan(0, (OLD,))], ["default"]) == [NEW]


@pytest.mark.parametrize("place", ["file/data", "/proc/nothing/data"])
def test_a_data_dir_that_cannot_be_is_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(GatewayError, match=r"data_dir .* cannot be written"),
        _InstanceLock(tmp_path / place / "run" / "gateway.pid", "gateway"),
    ):
        pass


def test_a_data_dir_that_everybody_may_write_is_closed(tmp_path: Path) -> None:
    """Whoever can put a file there can put the admin token there."""
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    with capture_logs() as said, _InstanceLock(data / "run" / "gateway.pid", "gateway"):
        assert data.stat().st_mode & 0o777 == 0o775
    assert [one["event"] for one in said] == [
        "every user of this machine could write to the data_dir: not any more"
    ]


def test_a_data_dir_of_somebody_else_is_said(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a folder to somebody else")
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 12_345, -1)
    with capture_logs() as said, _InstanceLock(data / "run" / "gateway.pid", "gateway"):
        pass
    assert [(one["event"], one["owner"]) for one in said] == [
        ("the data_dir belongs to another user, who can take the gateway over", 12_345)
    ]


def test_a_look_at_the_lock_keeps_no_gateway_from_starting(tmp_path: Path) -> None:
    """A command looks whether a gateway runs; what starts in that moment tries again."""
    path = tmp_path / "run" / "gateway.pid"
    path.parent.mkdir()
    with path.open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.02, lambda: fcntl.flock(look, fcntl.LOCK_UN)).start()
        with _InstanceLock(path, "gateway"):
            pass


async def test_a_disk_that_fails_in_the_drain_is_one_sentence(tmp_path: Path) -> None:
    """A book whose last sync failed ended the gateway with a stack trace."""
    disk = SimulatedDisk()
    store = AlertStore(tmp_path, Settings().alerts, files=disk)
    disk.failing = {"write"}
    taking = asyncio.ensure_future(store.take([opened(1).as_dict()]))
    while not store.book.alerts:
        await asyncio.sleep(0)
    with capture_logs() as said:
        await _close_book(store)
    assert [one["event"] for one in said] == ["the disk failed the book of alerts in the drain"]
    assert isinstance((await asyncio.gather(taking, return_exceptions=True))[0], BaseException)


async def test_a_mistake_beside_the_data_plane_is_said_and_it_begins_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway, "AGAIN_AFTER", 0.0)
    runs: list[int] = []

    async def run() -> None:
        runs.append(len(runs))
        if len(runs) < 3:
            raise ZeroDivisionError("of ours")
        await asyncio.Event().wait()

    with capture_logs() as said:
        beside = asyncio.ensure_future(Gateway._beside(object(), "the console", run))  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            while len(runs) < 3:
                assert not beside.done(), "the gateway ends when one of its tasks does"
                await asyncio.sleep(0)
        beside.cancel()
        await asyncio.wait({beside})
    assert beside.cancelled()
    assert [(one["event"], one["what"]) for one in said] == 2 * [
        ("failed beside the data plane; it begins again", "the console")
    ]


def test_a_full_disk_at_the_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry's columns had fitted, and layout.json had not: a stack trace."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gateway, "replace_durably", full)
    with pytest.raises(GatewayError, match=r"layout.json cannot be written \(No space left on"):
        _retire(tmp_path, [ShardPlan(0, (NEW,))], ["default"])


def test_a_layout_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    """Begun without it, the sessions of an earlier layout would be forgotten, with what they hold."""
    (tmp_path / "layout.json").mkdir()  # root may read any file
    with pytest.raises(GatewayError, match=r"layout\.json cannot be read or moved \(Is a dir"):
        _retire(tmp_path, [ShardPlan(0, (NEW,))], ["default"])
