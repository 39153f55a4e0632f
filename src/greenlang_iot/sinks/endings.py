"""Ending tasks for sure, and not ending what must not be left half done."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any


async def end(tasks: Iterable[asyncio.Future[Any]], every: float = 0.5) -> None:
    """Cancel the tasks and return when all have ended; what they raise is not looked at.

    Cancelled again each `every` seconds: before Python 3.12 `asyncio.wait_for`, which the clients use,
    loses a cancellation that comes together with its result (CPython issue 86296), and then whoever
    waits for the task would wait for ever.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=every)
        for task in done:
            if not task.cancelled():
                task.exception()


async def to_its_end(call: Callable[[], object]) -> None:
    """Run what blocks in a thread. A cancellation waits for its end, so that nothing runs beside it;
    a second one does not. Raises what it raises."""
    running = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        if not running.done():
            await asyncio.wait({running})
        if not running.cancelled():
            running.exception()  # looked at: nobody else will
        raise
