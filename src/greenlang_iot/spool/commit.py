"""Group commit: one blocking commit in a thread for everything that was appended meanwhile."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from greenlang_iot.spool.threads import started

RETRY_AFTER = 0.5
"""Seconds until a failed commit is tried again."""


class GroupCommit:
    """Runs `commit` in one thread, `every` seconds after there is something to commit.

    The thread starts at once where a loop runs: what a process needs when a sink fails, or at its
    first alert, it has from the beginning.

    commit: blocking; makes durable what is pending. On OSError it is called again later.
    durable: number of the newest durable record.
    dirty: True while there is something left to commit.
    """

    def __init__(
        self,
        name: str,
        every: float,
        commit: Callable[[], None],
        durable: Callable[[], int],
        dirty: Callable[[], bool],
    ) -> None:
        self._name = name
        self._every = every
        self._do = commit
        self._durable = durable
        self._dirty = dirty
        self._thread: ThreadPoolExecutor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._commit: asyncio.Future[None] | None = None
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._closed = False
        with contextlib.suppress(RuntimeError):  # used without a loop: the caller commits
            asyncio.get_running_loop()
            self._thread = started(1, name)

    def soon(self) -> None:
        """Let the next commit begin, unless one is due already. Nothing without a running loop."""
        self._schedule(self._every)

    def _schedule(self, delay: float) -> None:
        if self._timer is not None or self._commit is not None or self._closed:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return  # used without a loop: the caller commits
        self._timer = loop.call_later(delay, self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._thread is None:
            self._thread = started(1, self._name)
        self._commit = loop.run_in_executor(self._thread, self._do)
        self._commit.add_done_callback(self._done)

    def _done(self, commit: asyncio.Future[None]) -> None:
        self._commit = None
        durable = self._durable()
        for _ in range(len(self._waiters)):
            number, waiter = self._waiters.popleft()
            if waiter.done():
                continue  # whoever waited has given up
            if number > durable:
                self._waiters.append((number, waiter))
            else:
                waiter.set_result(None)
        error = commit.exception()
        if error is not None:
            self._schedule(RETRY_AFTER)
        elif self._dirty():
            self._schedule(self._every)
        if error is not None and not isinstance(error, OSError):
            raise error  # a mistake of ours: the loop reports it

    async def wait(self, number: int) -> None:
        """Return when record `number` is durable."""
        if number <= self._durable():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append((number, waiter))
        self.soon()
        await waiter

    async def close(self) -> None:
        """Commit what is pending; raises OSError when that fails. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            if self._commit is not None:
                await asyncio.wait([self._commit])
            await asyncio.get_running_loop().run_in_executor(self._thread, self._do)
        finally:
            durable = self._durable()
            for number, waiter in self._waiters:
                if number > durable:
                    waiter.cancel()
                elif not waiter.done():
                    waiter.set_result(None)
            if self._thread is not None:
                self._thread.shutdown()
