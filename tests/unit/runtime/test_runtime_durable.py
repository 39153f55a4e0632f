"""Transitions on their way to the outbox: a full one holds them back, and nothing is too large for it."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.fakes.alerts import opened

from greenlang_iot.runtime.durable import AT_ONCE, DurableSettler, OutboxPort
from greenlang_iot.settings.model import AlertSettings
from greenlang_iot.sinks.outbox import Outbox, OutboxReader
from greenlang_iot.spool.reader import SegmentReader

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


async def test_what_is_said_of_one_alert_in_a_row_is_one_record(tmp_path: Path) -> None:
    """A crash between an opening and its end would leave open what nobody ends."""
    outbox = Outbox(tmp_path, 1 << 20)
    port = OutboxPort(outbox, DurableSettler(BIT, outbox.durable, lambda *ticket: None))
    pair = [replace(opened(0), number=number) for number in (1, 2)]
    port.submit([opened(n) for n in range(1, AT_ONCE)] + pair + [opened(AT_ONCE)], 1)
    await outbox.close()
    records = [json.loads(item.body) for item in SegmentReader(tmp_path).poll()]  # type: ignore[union-attr]
    assert [len(record) for record in records] == [AT_ONCE + 1, 1]
    assert [t["transition_id"] for t in records[0][-2:]] == ["alert-0-1", "alert-0-2"]
