"""Transitions on their way to the outbox: a full one holds them back, and nothing is too large for it."""

import asyncio
from pathlib import Path

from greenlang_iot.model.outcomes import Transition
from greenlang_iot.runtime.durable import DurableSettler, OutboxPort
from greenlang_iot.sinks.outbox import Outbox, OutboxReader

BIT = 16


def opened(number: int) -> Transition:
    return Transition(
        alert_id=f"alert-{number:04d}",
        number=1,
        state="open",
        rule="silence",
        severity="warning",
        org="acme",
        site="site-0",
        device="d000",
        metric="temperature",
        opened_ns=number,
        at_ns=number,
        value=None,
        expected=None,
        band=None,
        score=0.9999,
        detector="silence",
        summary="x" * 100,
    )


async def test_a_storm_that_is_larger_than_the_outbox_passes_through_it(tmp_path: Path) -> None:
    settled: list[tuple[int, int, int]] = []
    outbox, reader = Outbox(tmp_path, 1 << 18), OutboxReader(tmp_path)
    settler = DurableSettler(BIT, outbox.durable, lambda *ticket: settled.append(ticket))
    running = asyncio.ensure_future(settler.run())
    port = OutboxPort(outbox, settler)
    storm = [opened(number) for number in range(2_000)]
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
    assert arrived == [f"alert-{number:04d}" for number in range(2_001)]
    assert settled == [(BIT, 7, 7), (BIT, 8, 8)]
    running.cancel()
    await outbox.close()
