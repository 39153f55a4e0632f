"""Tasks end although a client loses a cancellation."""

import asyncio

from greenlang_iot.sinks.endings import end


async def hard_of_hearing(heard: list[str]) -> None:
    """Loses its first cancellation, as `asyncio.wait_for` may before Python 3.12."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        heard.append("lost")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        heard.append("ended")
        raise


async def fails() -> None:
    raise ValueError("whoever ends it does not mind")


async def test_a_lost_cancellation_is_sent_again() -> None:
    heard: list[str] = []
    task = asyncio.ensure_future(hard_of_hearing(heard))
    other = asyncio.ensure_future(fails())
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await end([task, other], every=0.01)
    assert heard == ["lost", "ended"]
    assert task.cancelled()
    assert other.done()


async def test_nothing_to_end() -> None:
    async with asyncio.timeout(20):
        await end([])
