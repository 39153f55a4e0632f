"""What the parent does beside the data plane, and at the end."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.fakes.alerts import opened
from tests.fakes.disk import SimulatedDisk

from greenlang_iot.runtime import gateway
from greenlang_iot.runtime.gateway import Gateway, _close_book
from greenlang_iot.settings.model import Settings
from greenlang_iot.sinks.alert_store import AlertStore


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
