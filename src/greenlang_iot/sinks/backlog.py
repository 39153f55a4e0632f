"""A sink's spool as its runner uses it: what waits for its sync, what is replayed next, what is done."""

import asyncio
from collections.abc import Callable, Iterator

import structlog

from greenlang_iot.model.batches import Chunk
from greenlang_iot.spool.format import Record
from greenlang_iot.spool.log import SegmentLog

log = structlog.get_logger(__name__)
READ_AGAIN = 0.5
"""Seconds until a spool that could not be read is read again."""


class Backlog:
    """One chunk is one record; records are replayed in the order of their numbers."""

    def __init__(self, sink: str, spool: SegmentLog) -> None:
        self.spool = spool
        self.rows = 0
        """Readings that are spooled and not delivered; those of an earlier process once they are counted."""
        self.syncing: dict[int, Chunk] = {}
        """By number: what waits for its sync."""
        self.unreadable = False
        """The last read failed."""
        self._sink = sink
        self._expired = 0  # rows that the spool dropped, as far as they were told
        self._delivered: set[int] = set()  # answered as delivered, and not replayed yet

    @property
    def records(self) -> int:
        """That are not delivered, an earlier process's included."""
        return self.spool.last - self.spool.released

    async def count(self, is_over: Callable[[], bool]) -> None:
        """Count the rows that an earlier process left. What cannot be counted cannot be replayed either."""
        last = self.spool.last  # what is spooled from now on is counted then
        while not is_over():
            try:
                self.rows += await asyncio.to_thread(self.spool.waiting_rows, last)
                return
            except OSError as error:
                self._say_unreadable(error)
            await asyncio.sleep(READ_AGAIN)

    def write(self, chunk: Chunk) -> int:
        """The chunk's number; it is in `syncing` until `synced` returns. Raises SpoolFull."""
        number = self.spool.append(chunk.body, chunk.rows)
        self.rows += chunk.rows
        self.syncing[number] = chunk
        return number

    async def synced(self, number: int) -> None:
        """Return when the chunk is durable, or was delivered and need not be."""
        await self.spool.durable(number)
        del self.syncing[number]

    def next(self, records: Iterator[Record]) -> Record | None:
        """The next one of `spool.read`; None where there is no other, or the disk cannot be read."""
        try:
            record = next(records, None)
        except OSError as error:
            self._say_unreadable(error)
            return None
        self.unreadable = False
        return record

    def delivered(self, number: int) -> None:
        """Its answer came after it was spooled: it needs no replay."""
        self._delivered.add(number)

    def needs_replay(self, number: int) -> bool:
        return number not in self._delivered

    def done(self, number: int, rows: int) -> None:
        """Delivered, as all before it are; it goes from the disk."""
        self._delivered.discard(number)
        self.spool.release(number)
        self.rows = max(self.rows - rows, 0)

    def expired(self) -> int:
        """Rows that the spool dropped since the last call because they were older than `spool.max_age`."""
        rows = self.spool.expired_rows - self._expired
        if rows:
            self._expired += rows
            self.rows = max(self.rows - rows, 0)
            what = "readings of the spool are dropped: they waited for longer than spool.max_age"
            log.error(what, sink=self._sink, readings=rows)
        return rows

    def give_up(self, last: int) -> None:
        """What the log found damaged up to there is counted by it; it will not become readable."""
        log.error("spool records lost", sink=self._sink, up_to=last)
        self.spool.release(last)

    def _say_unreadable(self, error: OSError) -> None:
        """Once, until it can be read."""
        if not self.unreadable:
            what = "the spool cannot be read; it is tried again"
            log.error(what, sink=self._sink, why=str(error))
        self.unreadable = True
