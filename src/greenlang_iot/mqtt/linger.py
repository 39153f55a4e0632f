"""How long a shard waits before it goes through what it received: short of latency, or of time."""

import asyncio
import time
from collections.abc import Callable

LONGEST = 8
"""Times its setting that a linger lasts at most."""
WORTH_FLUSHING = 16_384
"""Received bytes for which a linger is not repeated: 30,000 messages of 128 bytes a second bring them in one."""
AT_ONCE = 1_024
"""Bytes between two looks; who sent so many and then none waits for the answer to these, or a burst is over."""
FEWEST, MOST = 16, 256
"""Flushes for which no linger is repeated after one that was in vain; each more in a row doubles them."""
BUSY, CALM = 0.8, 0.68
"""Shares of its core that a shard uses, above which the linger becomes longer, and below which shorter."""
LOOK = 0.05
"""Seconds over which the share is taken at least: one flush is often late by what comes beside it."""


def clocks() -> tuple[float, float]:
    """Seconds: of the clock, and of CPU that this thread has used."""
    return time.monotonic(), time.thread_time()


class Linger:
    """One clock for all links of a shard: some time after the first byte on any of them, all go through
    what they have, one after the other, so that the sinks get it in one chunk.

    What a flush costs whatever its size is shared by its messages. So the time, `seconds`, is repeated while few bytes
    have come and more keep coming; and it is longer while the shard has little time to spare (which in a thread that always
    shares its core is never seen). Either way it lasts LONGEST times `seconds` at most.
    """

    def __init__(self, seconds: float, clocks: Callable[[], tuple[float, float]] = clocks) -> None:
        self._seconds = seconds
        self._clocks = clocks
        self._waiting: dict[
            Callable[[], None], tuple[Callable[[], bool], Callable[[], int]]
        ] = {}  # in the order in which bytes came
        self._timer: asyncio.TimerHandle | None = None
        self._times = 1
        self._lasts = 1  # the present one, so far, with all repetitions
        self._first = 0  # bytes that were there at its first look; 0: before that
        self._came = 0  # and at the last one
        self._pause = 0  # flushes for which it was not repeated lately, because that was in vain
        self._paused = 0  # those of them that are still to come
        self._before = clocks()

    @property
    def seconds(self) -> float:
        """How long the next one lasts."""
        return self._seconds * self._times

    def add(
        self,
        process: Callable[[], None],
        wake: Callable[[], bool] = lambda: False,
        came: Callable[[], int] = lambda: WORTH_FLUSHING,
    ) -> None:
        """Call `process` when the time is over; once, however often it is added.

        wake: called just before; True where the loop then has something to read first. came: how many bytes wait.
        """
        self._waiting[process] = wake, came
        if self._timer is None:
            self._lasts, self._first, self._came = self._times, 0, 0
            self._timer = asyncio.get_running_loop().call_later(self.seconds, self._over)

    def discard(self, process: Callable[[], None]) -> None:
        """It need not be called any more."""
        self._waiting.pop(process, None)

    def _over(self) -> None:
        loop = asyncio.get_running_loop()
        if self._repeats():
            self._lasts += 1
            self._timer = loop.call_later(self._seconds, self._over)
            return
        self._adapt()
        woken = [wake() for wake, _ in self._waiting.values()]
        if any(woken):
            # two turns of the loop, because it looks at its sockets after the first
            loop.call_soon(loop.call_soon, self._flush)
        else:
            self._flush()

    def _repeats(self) -> bool:
        """Whether to wait for more."""
        if self._paused:
            self._paused -= 1
            return False
        before, self._came = self._came, sum(came() for _, came in self._waiting.values())
        if not self._first:
            self._first = self._came
        elif self._came > self._first:
            self._pause = 0
        elif self._lasts >= LONGEST:
            self._in_vain()  # a broker that leaves few messages unanswered, or one message in a while
            return False
        if self._came == before >= AT_ONCE * max(self._lasts - 1, 1):
            self._in_vain()
            return False
        return self._lasts < LONGEST and self._came < WORTH_FLUSHING

    def _in_vain(self) -> None:
        """Nothing came of waiting."""
        self._paused = self._pause = min(max(2 * self._pause, FEWEST), MOST)

    def _flush(self) -> None:
        self._timer = None
        for process in list(self._waiting):
            if process in self._waiting:  # those before may have ended others
                self.discard(process)
                process()

    def _adapt(self) -> None:
        """By how much of the time since the last look was work."""
        (wall, cpu), now = self._before, self._clocks()
        taken = now[0] - wall
        if taken < LOOK:
            return
        self._before = now
        used = (now[1] - cpu) / taken
        if used > BUSY:
            self._times = min(2 * self._times, LONGEST)
        elif used < CALM:
            self._times = max(self._times // 2, 1)
