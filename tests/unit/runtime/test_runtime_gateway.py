"""What the parent remembers of earlier layouts, and what it does beside the data plane."""

import asyncio
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
