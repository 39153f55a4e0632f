"""Transitions on their way to the outbox: a full one holds them back, and nothing is too large for it."""

import asyncio
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.fakes.alerts import opened

from greenlang_iot.runtime.durable import AT_ONCE, DurableSettler, OutboxPort
from greenlang_iot.settings.model import AlertSettings
from greenlang_iot.sinks.outbox import Outbox, OutboxReader

BIT = 16
SMALLEST = 262_144


async def test_a_storm_that_is_larger_than_the_outbox_passes_through_it(tmp_path: Path) -> None:
    settled: list[tuple[int, int, int]] = []
    outbox, reader = Outbox(tmp_path, 1 << 18), OutboxReader(tmp_path)
    settler = DurableSettler(BIT, outbox.durable, lambda *ticket: settled.append(ticket))
    running = asyncio.ensure_future(settler.run())
    port = OutboxPort(outbox, settler)
    storm = [opened(number, "x" * 100) for number in range(2_000)]
    port.submit(storm, 7)
    port.submit([opened(2_000)], 8)
    assert not port.idle
    arrived: list[str] = []
    async with asyncio.timeout(30):
        while not port.idle:
            arrived += [item["alert_id"] for item in reader.poll()]
            assert settled == [] or len(arrived) >= 1_000  # not before most of it found room
            reader.delivered()
            port.retry()
            await asyncio.sleep(0.001)
    arrived += [item["alert_id"] for item in reader.poll()]
    assert arrived == [f"alert-{number}" for number in range(2_001)]
    assert settled == [(BIT, 7, 7), (BIT, 8, 8)]
    running.cancel()
    await outbox.close()


async def test_the_smallest_outbox_that_settings_allow_takes_a_whole_record(tmp_path: Path) -> None:
    """A record that never fits would hold its message back for ever, and all that came after it."""
    with pytest.raises(ValidationError):
        AlertSettings(outbox_max_bytes=SMALLEST - 1)
    outbox = Outbox(tmp_path, AlertSettings(outbox_max_bytes=SMALLEST).outbox_max_bytes)
    assert outbox.append([opened(number, "x" * 1_500) for number in range(AT_ONCE)]) == 1
    await outbox.close()
