"""Ending tasks for sure."""

import asyncio
from collections.abc import Iterable
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
