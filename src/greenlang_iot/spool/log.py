"""The log that spool, lake and outbox are made of: append, group commit, read, release.

What it promises (how it is kept on disk: the invariants in `store.py`):

1. A record whose number `durable()` returned for survives a crash of process or machine.
2. After a restart, records are read in order from the oldest not released; at least once, never
   unchecked. None is read again after its release was durable.
3. Bytes on disk and in memory together stay under `max_bytes`: beyond it `append` raises SpoolFull.
4. While the disk fails nothing is reported durable; the commit is tried again until it succeeds, and
   at most `max_pending` bytes wait for it in memory.

`append` costs the event loop a list entry. Checksums, writes and syncs happen in one thread, one
group for everything appended in `fsync_every` seconds.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from greenlang_iot.model.pieces import Body, Pieces
from greenlang_iot.spool.commit import GroupCommit
from greenlang_iot.spool.files import OS_FILES, Files
from greenlang_iot.spool.format import MAX_BODY, RECORD_SIZE, Damage, Record, Unwritten
from greenlang_iot.spool.reader import SegmentReader, row_counts
from greenlang_iot.spool.store import Store


class SpoolFull(Exception):
    """Nothing can be appended until something was released (or the disk works again)."""


class SegmentLog:
    """One writer's log in a folder. Everything but `durable` works without an event loop, too.

    segment_bytes: bytes after which a new segment begins.
    max_bytes: bound on all segments and what is not written yet.
    fsync_every: seconds between group commits while there is something to commit.
    segment_age: seconds after which a new segment begins (0: no limit).
    max_age: seconds after which records are dropped, counted in `expired` (0: kept until released).
    max_pending: bound in bytes on what waits in memory while the disk is slow or fails.
    after: numbers up to this one are taken, whatever is on disk: somebody has read them.
    Raises LogInUse, FormatError and OSError when it is opened.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int,
        max_bytes: int,
        fsync_every: float,
        segment_age: float = 0.0,
        max_age: float = 0.0,
        max_pending: int = 1 << 26,
        after: int = 0,
        files: Files = OS_FILES,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.expired = 0
        """Records dropped because they were older than `max_age`."""
        self.expired_rows = 0
        """Rows in them."""
        self.lost = 0
        """Records that `read` found damaged."""
        self.failures = 0
        """Commits that failed."""
        self.last_error: OSError | None = None
        """Why the last commit failed; None since one succeeded."""
        self._max_age_ns = int(max_age * 1e9)
        self._max_pending = max_pending
        self._files = files
        self._store = Store(
            folder,
            segment_bytes=segment_bytes,
            segment_age_ns=int(segment_age * 1e9),
            files=files,
            clock_ns=clock_ns,
        )
        self._store.last = max(self._store.last, after)
        self._pending: list[Unwritten] = []
        self._appended_bytes = 0  # written by `append` only
        self._committed_bytes = 0  # written under the lock only
        self._last = self._store.last
        self._released = self._store.released
        self._lock = threading.Lock()  # one commit at a time
        self._group = GroupCommit(
            f"log-{folder.name}",
            fsync_every,
            self.flush,
            lambda: self.durable_number,
            lambda: bool(self._pending) or self._released > self._store.released,
        )
        self._closed = False

    @property
    def last(self) -> int:
        """Number of the newest record appended; 0 before the first."""
        return self._last

    @property
    def durable_number(self) -> int:
        """Number of the newest record that is durable, or was released and need not be."""
        return max(self._store.last, self._released)

    @property
    def released(self) -> int:
        """Newest released number; its release is durable before anything is unlinked."""
        return max(self._released, self._store.released)

    @property
    def pending_bytes(self) -> int:
        return self._appended_bytes - self._committed_bytes

    @property
    def nbytes(self) -> int:
        """Bytes on disk and in memory."""
        return self._store.stored + self.pending_bytes

    def append(self, body: Body | Pieces, rows: int) -> int:
        """Queue a record for the next group commit; its number. Raises SpoolFull.

        Pieces are written from where they are: they must stay as they are until the record is durable.
        """
        size = RECORD_SIZE + len(body)
        if len(body) > MAX_BODY:
            raise ValueError(f"a record of {len(body)} bytes is too long for the log")
        pending = self.pending_bytes
        if pending and pending + size > self._max_pending:
            raise SpoolFull(f"{self.folder}: {pending} bytes wait for the disk")
        if self.nbytes + size > self.max_bytes and (
            # Somebody else may have consumed and unlinked segments meanwhile.
            self._store.measure() + pending + size > self.max_bytes
        ):
            raise SpoolFull(f"{self.folder} is full ({self.max_bytes} bytes)")
        number = self._last + 1
        kept = body if isinstance(body, Pieces) else bytes(body)
        self._pending.append(Unwritten(number, rows, kept))
        self._last = number
        self._appended_bytes += size
        self._group.soon()
        return number

    async def durable(self, number: int) -> None:
        """Return when record `number` is durable."""
        if number > self._last:
            raise ValueError(f"record {number} was never appended")
        await self._group.wait(number)

    def read(self, start: int) -> Iterator[Record]:
        """Durable records from `start` on (released ones are left out), as far as they go now."""
        end = self.durable_number
        reader = SegmentReader(
            self.folder, max(start, self.released + 1), sync=False, files=self._files
        )
        while reader.position <= end:
            items = reader.poll()
            if not items:
                return
            for item in items:
                if isinstance(item, Damage):
                    self.lost += item.last - item.first + 1
                elif item.number > end:
                    return
                elif item.number > self.released:
                    yield item

    def release(self, number: int) -> None:
        """Records up to `number` are delivered; they go when the next commit made that durable.

        Those that are not durable yet are never written.
        """
        if number > self._last:
            raise ValueError(f"record {number} was never appended")
        if number > self.released:
            self._released = number
            self._group.soon()

    def flush(self) -> None:
        """Commit in this thread what is pending now. Raises OSError; nothing is given up then."""
        with self._lock:
            try:
                self._commit_pending()
                self.last_error = None
            except OSError as error:
                self.failures += 1
                self.last_error = error
                raise

    def waiting_rows(self, last: int) -> int:
        """Rows in the records up to `last` that are not released; blocking, by their headers only. OSError."""
        return sum(
            rows
            for number, rows in row_counts(self.folder, self._files)
            if self.released < number <= last
        )

    def _commit_pending(self) -> None:
        released = self._released
        if released > self._store.last:
            delivered = [r for r in self._pending if r.number <= released]
            del self._pending[: len(delivered)]
            self._committed_bytes += sum(RECORD_SIZE + len(r.body) for r in delivered)
            self._store.release(released)  # before anything newer: the ledger explains the gap
        batch = self._pending[:]
        try:
            if batch:
                self._store.write(batch)
        except OSError:
            self._release()  # on a full disk that makes the room for the next try
            raise
        finally:
            done = sum(record.number <= self._store.last for record in batch)
            del self._pending[:done]
            self._committed_bytes += sum(RECORD_SIZE + len(r.body) for r in batch[:done])
        self._release()
        if self._max_age_ns:
            records, rows = self._store.expire(self._max_age_ns)
            self.expired += records
            self.expired_rows += rows

    def _release(self) -> None:
        released = self._released
        if released > self._store.released:
            self._store.release(released)

    async def close(self) -> None:
        """Commit what is pending and let go of the folder. Raises OSError when that fails."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._group.close()
        finally:
            self._store.close()

    def close_blocking(self) -> None:
        """`close` for a log that was used without an event loop."""
        if not self._closed:
            self._closed = True
            try:
                self.flush()
            finally:
                self._store.close()
