"""Segment files on disk, written by one thread: what `log.py` commits, blocking.

The invariants, in the order in which they bite:

1. One writer: the folder's `lock` is held while it is open.
2. A segment appears under its name only with its first records synced (temporary file, sync,
   rename, folder sync), so that no reader meets a half-made segment and an empty one never exists.
3. A record is durable when it was written, its file synced, and its file's name synced.
4. After a failed sync the kernel may have dropped the data and call it clean: the file is never
   synced again. What was durable is copied, with the records that were not, to a new file, which
   takes over the name. A new writer copies the newest segment for the same reason.
5. After a failed write the segment ends; its tail is torn and the records go to a new segment.
6. The ledger (the newest released number) is durable before a released segment is unlinked, and
   the folder is synced after it. Only a disk that is too full for the ledger turns this round:
   segments of which every record is released go first, and the ledger follows.
7. Numbers are never used twice while a record that bore one can be read: a new writer goes on after
   the newest record on disk and after the ledger, whichever is larger.
8. What fails leaves no file behind: on a full disk that could be the room that is missing.
"""

import contextlib
import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from greenlang_iot.model.pieces import Body
from greenlang_iot.spool.files import Files, replace_durably
from greenlang_iot.spool.format import (
    HEADER_SIZE,
    RECORD_SIZE,
    DamagedHeader,
    Header,
    Record,
    Unwritten,
    encode_header,
    encode_record,
    pieces_of,
)
from greenlang_iot.spool.reader import (
    Segment,
    list_segments,
    read_header,
    read_segment,
    row_counts,
)

LEDGER = "ledger.json"
FORGOTTEN = 1 << 20
"""Bytes of a write after whose sync the file's pages are given back: the next write finds them warm, instead of
taking memory that was not used for long, page by page. Small writes are read soon, by who tails the log."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class LogInUse(Exception):
    """Another process has this log open for writing."""


@dataclass(slots=True)
class _Open:
    """The segment that is appended to."""

    segment: Segment
    fd: int
    created_ns: int
    size: int  # bytes, all of them durable


class Store:
    """The segments of one folder. Not thread-safe: `SegmentLog` serialises the calls.

    segment_bytes: a segment ends when it is this large. segment_age_ns: or this old, if > 0.
    Raises LogInUse, FormatError (a segment of an unknown version) and OSError.
    """

    def __init__(
        self,
        folder: Path,
        *,
        segment_bytes: int,
        segment_age_ns: int,
        files: Files,
        clock_ns: Callable[[], int],
    ) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._segment_age_ns = segment_age_ns
        self._files = files
        self._clock_ns = clock_ns
        self._open: _Open | None = None
        self._suspect: _Open | None = None  # its last sync failed
        files.make_folder(folder)
        try:
            self._lock = files.lock(folder / "lock")
        except BlockingIOError:
            raise LogInUse(f"{folder} is in use by another process") from None
        try:
            self._recover()
        except BaseException:
            files.close(self._lock)
            raise

    def _recover(self) -> None:
        for name in self._files.names(self.folder):
            if name.endswith(".tmp"):
                self._files.unlink(self.folder / name)
        self.released, self.log = self._read_ledger()
        self.last = self.released
        """Number of the newest durable record."""
        segments = list_segments(self.folder, self._files)
        for segment in reversed(segments):
            try:
                self.log = self.log or read_header(segment, self._files).log
            except DamagedHeader:
                continue
            break
        if segments:
            self.last = max(self.last, self._newest_number(segments[-1]))
        self.log = self.log or int.from_bytes(os.urandom(8), "little") or 1
        self.stored = self.measure()
        """Bytes of all segments."""

    def _newest_number(self, segment: Segment) -> int:
        """Also makes what a killed writer left in the newest segment durable."""
        self._rewrite(segment)
        newest = segment.first - 1
        try:
            for item in read_segment(segment, self._files):
                newest = item.number if isinstance(item, Record) else item.last
        except DamagedHeader:
            # Its numbers are unknown: go past the most it can hold.
            newest += self._files.size(segment.path) // RECORD_SIZE + 1
        return newest

    def _rewrite(self, segment: Segment) -> None:
        """A copy takes the segment's place: its last sync may have failed (4), nobody knows any more."""
        temporary = segment.path.with_suffix(".tmp")
        content = self._files.read(segment.path, 0, self._files.size(segment.path))
        try:
            fd = self._files.create(temporary)
            try:
                self._files.write(fd, [content])
                self._files.sync(fd)
            finally:
                self._files.close(fd)
            self._files.rename(temporary, segment.path)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._files.unlink(temporary)
            self._files.sync_path(segment.path)  # no room: the best that can be done
        self._files.sync_folder(self.folder)

    def _read_ledger(self) -> tuple[int, int]:
        """(released, log id); (0, 0) where there is none or it is unreadable."""
        path = self.folder / LEDGER
        try:
            ledger = json.loads(self._files.read(path, 0, 4096))
            return int(ledger["released"]), int(ledger["log"], 16)
        except FileNotFoundError:
            return 0, 0
        except (ValueError, KeyError, TypeError):
            # Delivering again is safe, so an unreadable ledger is put aside, not fatal.
            self._files.rename(path, path.with_name("ledger.damaged"))
            return 0, 0

    def measure(self) -> int:
        """Bytes of all segments, by what lies in the folder now."""
        total = 0
        for segment in list_segments(self.folder, self._files):
            try:
                total += self._files.size(segment.path)
            except FileNotFoundError:
                continue
        return total

    def write(self, records: Sequence[Unwritten]) -> None:
        """Make the records durable, in order; `last` moves as they are.

        On OSError the records after `last` are not durable; call again with them.
        """
        start = 0
        while start < len(records):
            room = self._segment_bytes - self._room_taken()
            end, parts = start, list[Body]()
            while end < len(records) and (room > 0 or end == start):
                record = records[end]
                head = encode_record(self.log, record.number, record.rows, record.body)
                parts += [head, *pieces_of(record.body)]
                room -= len(head) + len(record.body)
                end += 1
            self._write_synced(records[start].number, parts)
            self.last = records[end - 1].number
            start = end

    def _room_taken(self) -> int:
        """Bytes in the segment that the next record goes to; ends a segment that is full or old."""
        current = self._open
        if current is not None:
            age = self._clock_ns() - current.created_ns
            if current.size < self._segment_bytes and not 0 < self._segment_age_ns <= age:
                return current.size
            self._close_current()
        return HEADER_SIZE

    def _write_synced(self, number: int, parts: list[Body]) -> None:
        current = self._open
        if current is None:
            self._begin(number, parts)
            return
        try:
            self._files.write(current.fd, parts)
        except OSError:
            self._close_current()
            raise
        try:
            self._files.sync(current.fd)
        except OSError:
            self._close_current()
            self._suspect = current
            raise
        added = sum(map(len, parts))
        if added >= FORGOTTEN:
            self._files.forget(current.fd)
        current.size += added
        self.stored += added

    def _begin(self, number: int, parts: list[Body]) -> None:
        """A new file with these records, and with what was durable in a suspect one before them."""
        suspect, prefix = self._suspect, b""
        if suspect is not None:
            try:
                prefix = self._files.read(suspect.segment.path, 0, suspect.size)
            except OSError:
                prefix = b""
            if len(prefix) < suspect.size:  # unreadable: leave it and go on in a new segment
                suspect, prefix = None, b""
        if suspect is not None:
            segment, created_ns = suspect.segment, suspect.created_ns
        else:
            segment, created_ns = Segment.named(self.folder, number), self._clock_ns()
            prefix = encode_header(Header(self.log, number, created_ns))
        temporary = segment.path.with_suffix(".tmp")
        fd = self._files.create(temporary)
        try:
            self._files.write(fd, [prefix, *parts])
            self._files.sync(fd)
            self._files.rename(temporary, segment.path)
            self._files.sync_folder(self.folder)
        except BaseException as error:
            self._files.close(fd)
            if isinstance(error, OSError):
                with contextlib.suppress(OSError):
                    self._files.unlink(temporary)
            raise
        size = len(prefix) + sum(map(len, parts))
        self._suspect = None
        self._open = _Open(segment, fd, created_ns, size)
        self.stored = self.measure()

    def _close_current(self) -> None:
        if self._open is not None:
            current, self._open = self._open, None
            self._files.close(current.fd)

    def sealed(self) -> list[tuple[Segment, int]]:
        """Segments that nothing is appended to any more, each with its last number."""
        segments = list_segments(self.folder, self._files)
        if not segments:
            return []
        firsts = [s.first for s in segments[1:]] + [self.last + 1]
        busy = self._open or self._suspect
        return [
            (segment, following - 1)
            for segment, following in zip(segments, firsts, strict=True)
            if busy is None or segment != busy.segment
        ]

    def release(self, number: int) -> None:
        """Records up to `number` are never read again; unlinks the segments that are done with.

        Idempotent. On OSError call again: nothing was unlinked that the ledger does not cover.
        `number` may be past the newest record: those between are never written (7 holds).
        """
        if number >= self.last:
            self._close_current()
            self._suspect = None
        if number > self.released:
            content = {"version": 1, "released": number, "log": f"{self.log:016x}"}
            ledger = json.dumps(content).encode()
            try:
                replace_durably(self._files, self.folder / LEDGER, ledger)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._unlink_released(number)
                replace_durably(self._files, self.folder / LEDGER, ledger)
            self.released = number
            self.last = max(self.last, number)
        self._unlink_released(number)

    def _unlink_released(self, number: int) -> None:
        done = [segment for segment, last in self.sealed() if last <= number]
        for segment in done:
            self._files.unlink(segment.path)
        if done:
            self._files.sync_folder(self.folder)
            self.stored = self.measure()

    def expire(self, age_ns: int) -> tuple[int, int]:
        """Release segments whose newest record is older than `age_ns`; how many records nobody had released, and
        the rows in them."""
        limit = self._clock_ns() - age_ns
        expired = self.released
        for segment in list_segments(self.folder, self._files)[1:]:
            try:
                if read_header(segment, self._files).created_ns > limit:
                    break
            except DamagedHeader:
                continue
            expired = max(expired, segment.first - 1)
        dropped, rows = expired - self.released, 0
        if dropped:
            counts = row_counts(self.folder, self._files)
            rows = sum(n for number, n in counts if self.released < number <= expired)
            self.release(expired)
        return dropped, rows

    def close(self) -> None:
        self._close_current()
        self._files.close(self._lock)
