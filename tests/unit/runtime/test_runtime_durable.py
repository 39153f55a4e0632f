"""Transitions on their way to the outbox: a full one holds them back, and nothing is too large for it."""

import asyncio
from pathlib import Path

from tests.fakes.alerts import opened

from greenlang_iot.runtime.durable import DurableSettler, OutboxPort
from greenlang_iot.sinks.outbox import Outbox, OutboxReader

BIT = 16


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
    async with asyncio.timeout(10):
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
