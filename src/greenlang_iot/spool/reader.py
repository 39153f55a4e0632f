"""Reading a folder of segments, from the process that writes it or from another one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from greenlang_iot.spool.files import OS_FILES, Files
from greenlang_iot.spool.format import (
    HEADER_SIZE,
    Damage,
    DamagedHeader,
    Header,
    Record,
    decode_header,
    read_records,
    record_heads,
)

SUFFIX = ".seg"


@dataclass(slots=True, frozen=True)
class Segment:
    """A segment file; its name carries the number of its first record."""

    path: Path
    first: int

    @classmethod
    def named(cls, folder: Path, first: int) -> "Segment":
        return cls(folder / f"{first:020d}{SUFFIX}", first)


def list_segments(folder: Path, files: Files = OS_FILES) -> list[Segment]:
    """The folder's segments, oldest first; none where the folder does not exist."""
    try:
        names = files.names(folder)
    except FileNotFoundError:
        return []
    firsts = [int(n.removesuffix(SUFFIX)) for n in names if n.endswith(SUFFIX) and n[:20].isdigit()]
    return [Segment.named(folder, first) for first in sorted(firsts)]


def read_header(segment: Segment, files: Files = OS_FILES) -> Header:
    """FormatError for a damaged header, FileNotFoundError for a segment that is gone."""
    return decode_header(files.read(segment.path, 0, HEADER_SIZE))


def read_segment(
    segment: Segment,
    files: Files = OS_FILES,
    *,
    offset: int = 0,
    number: int = 0,
    size: int = 1 << 62,
) -> Iterator[Record | Damage]:
    """Records from `offset` on, where record `number` is expected (0: from the beginning).

    Nothing past `size` is read. Raises DamagedHeader, FormatError, FileNotFoundError.
    """
    header = read_header(segment, files)
    yield from read_records(
        lambda at, wanted: files.read(segment.path, at, max(0, min(wanted, size - at))),
        header.log,
        offset or HEADER_SIZE,
        number or segment.first,
    )


def row_counts(folder: Path, files: Files = OS_FILES) -> Iterator[tuple[int, int]]:
    """(number, rows) of every record, by the records' headers alone: quick and not checked."""
    for segment in list_segments(folder, files):
        try:
            yield from record_heads(partial(files.read, segment.path), HEADER_SIZE, segment.first)
        except FileNotFoundError:
            continue  # delivered and unlinked since it was listed


def unlink_before(
    folder: Path, number: int, files: Files = OS_FILES, *, keep_bytes: int = 0
) -> list[Segment]:
    """Unlink sealed segments whose records all have numbers below `number`; return them.

    For whoever consumes a log that another process writes. The newest segment always stays: the
    writer may be appending to it, and it carries the numbering over a restart. Nothing is unlinked
    while the log is no larger than keep_bytes.
    """
    segments = list_segments(folder, files)
    done = [s for s, following in pairwise(segments) if following.first <= number]
    if done and keep_bytes:
        sizes = [files.size(segment.path) for segment in segments]
        over = [sum(sizes[at:]) > keep_bytes for at in range(len(done))]
        done = done[: sum(over)]
    for segment in done:
        files.unlink(segment.path)
    if done:
        files.sync_folder(folder)
    return done


class SegmentReader:
    """Tails a log from a position on; also while another process writes it.

    start: number of the first record wanted; 0 = the oldest there is.
    sync: make sure that what is handed out is durable (the writer syncs a moment after it writes).
    """

    def __init__(
        self, folder: Path, start: int = 0, *, sync: bool = True, files: Files = OS_FILES
    ) -> None:
        self.position = start
        """Number of the next record."""
        self._folder = folder
        self._files = files
        self._sync = sync
        self._segment: Segment | None = None
        self._offset = 0  # in the segment, where record number `_expected` begins
        self._expected = 0

    def grown(self) -> bool:
        """Whether `poll` may find something, by names and sizes alone: it syncs nothing. OSError."""
        segments = list_segments(self._folder, self._files)
        if not segments or segments[-1] != self._segment:
            return bool(segments)
        try:
            return self._files.size(self._segment.path) > self._offset
        except FileNotFoundError:
            return True

    def poll(self, records: int = 1000, nbytes: int = 8 << 20) -> list[Record | Damage]:
        """The next records in order; stops after about so many. Empty: nothing new. OSError."""
        segments = list_segments(self._folder, self._files)
        if segments and not self.position:
            self.position = segments[0].first
        covered = sum(s.first <= self.position for s in segments)
        found: list[Record | Damage] = []
        for segment in segments[max(0, covered - 1) :]:
            if segment.first > self.position:
                found.append(Damage(self.position, segment.first - 1))
                self.position = segment.first
            try:
                for item in self._new(segment):
                    found.append(item)
                    nbytes -= len(item.body) if isinstance(item, Record) else 0
                    if len(found) >= records or nbytes <= 0:
                        return found
            except OSError:
                if found:
                    return found  # the position is behind them: they are given out now or never
                raise
        return found

    def _new(self, segment: Segment) -> Iterator[Record | Damage]:
        """Items of the segment from `position` on; moves the position item by item."""
        if segment != self._segment:
            if self._sync:
                self._files.sync_folder(self._folder)
            self._segment, self._offset, self._expected = segment, 0, segment.first
        try:
            size = self._files.size(segment.path)
            if size <= self._offset:
                return
            if self._sync:
                self._files.sync_path(segment.path)
            for item in read_segment(
                segment, self._files, offset=self._offset, number=self._expected, size=size
            ):
                last = item.last if isinstance(item, Damage) else item.number
                self._offset, self._expected = item.end, last + 1
                if last < self.position:
                    continue
                if isinstance(item, Damage) and item.first < self.position:
                    item = Damage(self.position, last, item.end)
                self.position = last + 1
                yield item
        except FileNotFoundError:
            return  # consumed and unlinked since it was listed
        except DamagedHeader:
            return  # all of it is lost: the gap shows with the next segment
