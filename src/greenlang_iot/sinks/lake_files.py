"""The files of the lake: segments become Parquet files, small Parquet files become larger ones.

A Parquet file is named SHARD-LOGID-FIRST-LAST.parquet by the records it was made of. So the same
segment makes the same file again after a crash, and a file whose range lies within another file's
(it was merged) is obsolete without any list of files that could be out of date.

1. A Parquet file is synced, renamed into place and the folder synced before its sources go.
2. Sources go later than that: segments at once, merged files at the next but one compaction, so that
   a query that listed them can still read them.
3. The newest segment of a log is never touched, for a shard may be writing it; but of a log that no shard
   writes any more.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from greenlang_iot.spool.files import OS_FILES
from greenlang_iot.spool.format import Damage, DamagedHeader
from greenlang_iot.spool.reader import (
    Segment,
    list_segments,
    read_header,
    read_segment,
)

SMALL_BYTES = 32 << 20
"""Parquet files below this are merged …"""
MERGE_AT = 16
"""… when so many of one shard follow each other."""
_GROUP_ROWS = 1 << 20

log = structlog.get_logger(__name__)

ToTable = Callable[[bytes], pa.Table]
"""Body of a log record → its rows."""

_NAME = re.compile(r"(.+)-([0-9a-f]{16})-([0-9]{12,})-([0-9]{12,})\.parquet")


@dataclass(slots=True, frozen=True)
class ParquetFile:
    """A Parquet file by its name: of which shard and log, and of which records of it (first..last, inclusive)."""

    path: Path
    shard: str
    log: str  # id of the log, 16 hex digits
    first: int
    last: int

    def holds(self, other: "ParquetFile") -> bool:
        """True if everything of `other` is in this file, too."""
        same = (self.shard, self.log) == (other.shard, other.log)
        return same and self.first <= other.first and other.last <= self.last


def parquet_path(folder: Path, shard: str, log_id: str, first: int, last: int) -> ParquetFile:
    path = folder / f"{shard}-{log_id}-{first:012d}-{last:012d}.parquet"
    return ParquetFile(path, shard, log_id, first, last)


def list_parquet(folder: Path) -> tuple[list[ParquetFile], list[ParquetFile]]:
    """(live, obsolete) files, by shard, log and range."""
    found = []
    for path in folder.glob("*.parquet"):
        match = _NAME.fullmatch(path.name)
        if match:
            shard, log_id, first, last = match.groups()
            found.append(ParquetFile(path, shard, log_id, int(first), int(last)))
    found.sort(key=lambda f: (f.shard, f.log, f.first, -f.last))
    live: list[ParquetFile] = []
    obsolete: list[ParquetFile] = []
    for file in found:
        (obsolete if live and live[-1].holds(file) else live).append(file)
    return live, obsolete


def segment_rows(segment: Segment, to_table: ToTable) -> Iterator[pa.Table]:
    """The segment's records as tables. FileNotFoundError where it is gone, DamagedHeader."""
    for item in read_segment(segment):
        if isinstance(item, Damage):
            log.error("lake records damaged", segment=str(segment.path), lost=item)
        else:
            yield to_table(item.body)


def compact_log(
    log_folder: Path,
    target: Path,
    shard: str,
    schema: pa.Schema,
    to_table: ToTable,
    *,
    whole: bool = False,
) -> int:
    """Every sealed segment to a Parquet file in `target`; returns the rows written.

    whole: nobody writes the log any more, so its newest segment is sealed, too.
    """
    segments = list_segments(log_folder)
    rows = 0
    for segment, following in zip_longest(segments, segments[1:]):
        if following is None and not whole:
            break
        try:
            log_id = f"{read_header(segment).log:016x}"
            last = _newest_number(segment) if following is None else following.first - 1
        except DamagedHeader:
            log.error("lake segment damaged: none of it can be read", segment=str(segment.path))
            OS_FILES.rename(segment.path, segment.path.with_suffix(".damaged"))
            continue
        file = parquet_path(target, shard, log_id, segment.first, last)
        live, _ = list_parquet(target)
        if not any(other.holds(file) for other in live):
            rows += _write(file.path, schema, segment_rows(segment, to_table))
        OS_FILES.unlink(segment.path)
        OS_FILES.sync_folder(log_folder)
    return rows


def _newest_number(segment: Segment) -> int:
    """Of the records that can be read, or of the damaged ones after them. DamagedHeader."""
    items = read_segment(segment)
    return max(
        (i.last if isinstance(i, Damage) else i.number for i in items), default=segment.first
    )


def merge(folder: Path, schema: pa.Schema) -> int:
    """Merge runs of small files; returns how many files were merged. Sources stay, obsolete."""
    merged = 0
    live, _ = list_parquet(folder)
    for _, run in groupby(live, key=lambda f: (f.shard, f.log)):
        for files in _small_runs(run):
            first, last = files[0], files[-1]
            target = parquet_path(folder, first.shard, first.log, first.first, last.last)
            try:
                _write(target.path, schema, _tables(files))
            except (OSError, ValueError) as error:  # a bad block in one of them, or no room
                log.error("files of the lake stay unmerged", folder=str(folder), why=str(error))
                OS_FILES.unlink(target.path.with_suffix(".tmp"))
                continue
            merged += len(files)
    return merged


def _small_runs(files: Iterable[ParquetFile]) -> Iterator[list[ParquetFile]]:
    for small, run in groupby(files, key=lambda f: f.path.stat().st_size < SMALL_BYTES):
        found = list(run)
        if small and len(found) >= MERGE_AT:
            yield found


def _tables(files: Iterable[ParquetFile]) -> Iterator[pa.Table]:
    for file in files:
        with pq.ParquetFile(file.path) as parquet:
            for group in range(parquet.num_row_groups):
                yield parquet.read_row_group(group)


def _write(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write a Parquet file durably; in memory is one row group at a time. Returns the rows."""
    temporary = path.with_suffix(".tmp")
    OS_FILES.close(OS_FILES.create(temporary))  # its mode
    rows, waiting, waiting_rows = 0, [], 0
    with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in tables:
            waiting.append(table)
            waiting_rows += table.num_rows
            rows += table.num_rows
            if waiting_rows >= _GROUP_ROWS:
                _write_group(writer, waiting, schema)
                waiting, waiting_rows = [], 0
        _write_group(writer, waiting, schema)
    OS_FILES.sync_path(temporary)
    OS_FILES.rename(temporary, path)
    OS_FILES.sync_folder(path.parent)
    return rows


def _write_group(writer: pq.ParquetWriter, tables: list[pa.Table], schema: pa.Schema) -> None:
    if tables:
        table = pa.concat_tables([_completed(t, schema).cast(schema) for t in tables])
        writer.write_table(table.unify_dictionaries().combine_chunks())


def _completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """With the columns that a later version added, empty."""
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names)


def newest_time(path: Path, column: str) -> int | None:
    """Largest value of an int64 column by the file's statistics; None for a file without rows."""
    meta = pq.read_metadata(path)
    index = meta.schema.to_arrow_schema().get_field_index(column)
    found = [
        meta.row_group(g).column(index).statistics.max
        for g in range(meta.num_row_groups)
        if meta.row_group(g).num_rows
    ]
    return max(found, default=None)
