"""The lake: readings, alerts and quality in Parquet files on this machine, asked in SQL. No service.

A reading is in the lake when the segment that holds it is synced. The parent turns sealed segments
into Parquet files; queries read both, so a reading can be found from the moment it is acknowledged.

    FOLDER/shard-N/log/*.seg      written by shard N
    FOLDER/readings/*.parquet     written by the parent
    FOLDER/alerts/log/*.seg, FOLDER/alerts/*.parquet   written by the parent; quality likewise
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import structlog

from greenlang_iot.encode.arrow import SCHEMA
from greenlang_iot.model.errors import SinkError
from greenlang_iot.model.outcomes import Outcome
from greenlang_iot.model.pieces import Body, Pieces
from greenlang_iot.settings.model import LakeSettings
from greenlang_iot.sinks.endings import to_its_end
from greenlang_iot.sinks.lake_files import (
    ParquetFile,
    ToTable,
    compact_log,
    list_parquet,
    merge,
    newest_time,
)
from greenlang_iot.spool.files import OS_FILES
from greenlang_iot.spool.format import FormatError
from greenlang_iot.spool.log import SegmentLog, SpoolFull
from greenlang_iot.spool.reader import list_segments
from greenlang_iot.spool.store import LogInUse

READINGS, ALERTS, QUALITY = "readings", "alerts", "quality"
FEW_SEGMENT_AGE = 3600.0
"""Seconds after which alerts and quality go from their log to Parquet: they are few."""

log = structlog.get_logger(__name__)

ALERT_SCHEMA = pa.schema(
    [
        ("alert_id", pa.string()),
        ("transition_id", pa.string()),
        ("number", pa.int64()),
        ("state", pa.string()),
        ("rule", pa.string()),
        ("severity", pa.string()),
        ("org", pa.string()),
        ("site", pa.string()),
        ("device", pa.string()),
        ("metric", pa.string()),
        ("opened", pa.int64()),
        ("at", pa.int64()),
        ("value", pa.float64()),
        ("expected", pa.float64()),
        ("band", pa.float64()),
        ("score", pa.float64()),
        ("detector", pa.string()),
        ("summary", pa.string()),
        ("flags", pa.list_(pa.string())),
        ("type", pa.string()),
        ("labels", pa.string()),  # as JSON
        ("runbook", pa.string()),
        ("by", pa.string()),
        ("comment", pa.string()),
        ("group", pa.string()),
        ("members", pa.list_(pa.string())),
        ("members_total", pa.int64()),
    ]
)
"""`Transition.as_dict()` but for its version; what a transition has not is null."""


QUALITY_SCHEMA = pa.schema(
    [
        ("scope", pa.string()),  # fleet, site, device
        ("org", pa.string()),
        ("site", pa.string()),
        ("device", pa.string()),
        ("ts", pa.int64()),  # end of the window, ns
        ("seconds", pa.float64()),  # its length
        ("completeness", pa.float64()),  # null: nothing to judge by
        ("timeliness", pa.float64()),
        ("validity", pa.float64()),
        ("consistency", pa.float64()),
        ("accuracy", pa.float64()),
        ("skew", pa.float64()),  # seconds that the clock is ahead
        ("below", pa.list_(pa.string())),  # figures that miss their targets
        ("expected", pa.float64()),  # readings by the registry's intervals
        ("received", pa.int64()),
        ("arrived", pa.int64()),
        ("on_time", pa.int64()),
        ("rejected", pa.int64()),
        ("inconsistent", pa.int64()),
        ("judged", pa.int64()),
        ("accurate", pa.int64()),
    ]
)
"""What each column counts is in `quality/figures.py`."""


def reading_rows(body: bytes) -> pa.Table:
    """What `ArrowEncoder.seal` made; quality is written alike."""
    return pa.ipc.open_stream(body).read_all()


def alert_rows(body: bytes) -> pa.Table:
    """What `Lake.append_alerts` wrote."""
    rows = orjson.loads(body)
    for row in rows:
        if "labels" in row:
            row["labels"] = orjson.dumps(row["labels"], option=orjson.OPT_SORT_KEYS).decode()
    return pa.Table.from_pylist(rows, ALERT_SCHEMA)


OTHERS: Mapping[str, tuple[pa.Schema, ToTable, str]] = {
    ALERTS: (ALERT_SCHEMA, alert_rows, "at"),
    QUALITY: (QUALITY_SCHEMA, reading_rows, "ts"),
}
"""Tables beside the readings: schema, body → rows, column of time."""


class LakeSender:
    """One shard's way into the lake (model.protocols.Sender): its folder is FOLDER/shard-N."""

    def __init__(self, settings: LakeSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder / "log"
        self._log: SegmentLog | None = None

    async def open(self) -> None:
        """Raises SinkError."""
        try:
            await to_its_end(self._open)
        except (OSError, LogInUse, FormatError) as error:
            raise SinkError(
                f"the lake cannot be opened: {error}", reason="disk", down=True
            ) from error

    def _open(self) -> None:
        """Blocking: it copies and syncs the newest segment."""
        settings = self._settings
        self._log = SegmentLog(
            self._folder,
            segment_bytes=settings.segment_bytes,
            segment_age=settings.segment_age,
            max_bytes=settings.max_bytes,
            fsync_every=settings.fsync_every,
        )

    async def send(self, body: Body | Pieces, rows: int) -> Outcome:
        """Durable in the shard's log when it returns. Raises SinkError."""
        if self._log is None:
            raise SinkError("the lake is not open", reason="disk", down=True)
        try:
            number = self._log.append(body, rows)
        except SpoolFull as error:
            raise SinkError(str(error), reason="full") from error
        await self._log.durable(number)
        return Outcome(rows)

    async def close(self) -> None:
        if self._log is not None:
            written, self._log = self._log, None
            try:
                await written.close()
            except OSError as error:
                raise SinkError(f"the lake is not synced: {error}", reason="disk") from error


@dataclass(slots=True, frozen=True)
class Compaction:
    """What one `compact` did."""

    rows: int  # from segments to Parquet
    merged: int  # small files merged
    expired: int  # files past the retention
    dropped: int  # files dropped because the lake was over max_bytes
    nbytes: int  # of the lake afterwards


class Lake:
    """The parent's side: compaction, retention, alerts. Blocking; call it in a thread.

    Not for two threads at once, except that one may append while another one compacts.
    """

    def __init__(self, folder: Path, settings: LakeSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._logs: dict[str, SegmentLog] = {}
        self._obsolete: set[Path] = set()  # seen by the last compaction
        self._newest: dict[Path, int | None] = {}  # newest event time of each Parquet file

    def append_alerts(self, transitions: Sequence[dict[str, Any]]) -> None:
        """Store transitions (`Transition.as_dict()`); durable when it returns. OSError, SpoolFull,
        LogInUse."""
        if transitions:
            self._append(ALERTS, orjson.dumps(list(transitions)), len(transitions))

    def append_quality(self, rows: pa.Table) -> None:
        """Store figures (`QUALITY_SCHEMA`); durable when it returns. Raises like `append_alerts`."""
        body = pa.BufferOutputStream()
        with pa.ipc.new_stream(body, QUALITY_SCHEMA) as writer:
            writer.write_table(rows)
        self._append(QUALITY, body.getvalue().to_pybytes(), rows.num_rows)

    def _append(self, name: str, body: bytes, rows: int) -> None:
        if name not in self._logs:
            self._logs[name] = SegmentLog(
                self._folder / name / "log",
                segment_bytes=self._settings.segment_bytes,
                segment_age=FEW_SEGMENT_AGE,
                max_bytes=self._settings.max_bytes,
                fsync_every=self._settings.fsync_every,
            )
        written = self._logs[name]
        if written.pending_bytes:  # tried before, when the disk failed: it must not pile up
            written.flush()
        written.append(body, rows)
        written.flush()

    def compact(self, now_ns: int, shards: int | None = None) -> Compaction:
        """Sealed segments to Parquet, small files to larger ones, old files away. OSError.

        shards: how many there are; logs of others have no writer and are compacted to their end. None:
        any shard may be there.
        """
        for name in (READINGS, *OTHERS):
            OS_FILES.make_folder(self._folder / name)
        self._remove_obsolete()
        rows = 0
        for log_folder in reading_logs(self._folder):
            shard = log_folder.parent.name
            number = shard.removeprefix("shard-")
            retired = shards is not None and number.isdecimal() and int(number) >= shards
            rows += compact_log(
                log_folder, self._folder / READINGS, shard, SCHEMA, reading_rows, whole=retired
            )
        self._put_damaged_aside(READINGS, "ts")
        merged = merge(self._folder / READINGS, SCHEMA)
        for name, (schema, to_table, time) in OTHERS.items():
            folder = self._folder / name
            compact_log(folder / "log", folder, name, schema, to_table)
            self._put_damaged_aside(name, time)
            merged += merge(folder, schema)
        expired, dropped, nbytes = self._bound(now_ns)
        return Compaction(rows, merged, expired, dropped, nbytes)

    def _remove_obsolete(self) -> None:
        obsolete = {
            file.path
            for name in (READINGS, *OTHERS)
            for file in list_parquet(self._folder / name)[1]
        }
        self._unlink(obsolete & self._obsolete)
        self._obsolete = obsolete

    def _put_damaged_aside(self, name: str, column: str) -> None:
        """A file that is none any more would fail every compaction and every query."""
        for file in list_parquet(self._folder / name)[0]:
            try:
                self._newest_time(file, column)
            except pa.ArrowInvalid as error:
                aside = file.path.with_suffix(".damaged")
                log.error("a file of the lake is damaged", file=str(aside), why=str(error))
                OS_FILES.rename(file.path, aside)

    def _bound(self, now_ns: int) -> tuple[int, int, int]:
        """(files past the retention, files dropped for room, bytes that are left)"""
        oldest = now_ns - int(self._settings.retention * 1e9)
        times = {READINGS: "ts"} | {name: column for name, (_, _, column) in OTHERS.items()}
        files = [
            (self._newest_time(file, column), file.path, file.path.stat().st_size)
            for name, column in times.items()
            for file in list_parquet(self._folder / name)[0]
        ]
        files.sort(key=lambda item: item[0])
        expired = [path for newest, path, _ in files if newest < oldest]
        kept = files[len(expired) :]
        nbytes = sum(size for _, _, size in kept) + self._log_bytes()
        dropped: list[Path] = []
        for _, path, size in kept:
            if nbytes <= self._settings.max_bytes:
                break
            dropped.append(path)
            nbytes -= size
        if dropped:
            log.error("the lake is full: its oldest files are dropped", files=len(dropped))
        self._unlink([*expired, *dropped])
        return len(expired), len(dropped), nbytes

    def _newest_time(self, file: ParquetFile, column: str) -> int:
        """Newest event time in the file; a file without rows is as old as can be."""
        if file.path not in self._newest:
            self._newest[file.path] = newest_time(file.path, column)
        return self._newest[file.path] or 0

    def _log_bytes(self) -> int:
        folders = [*reading_logs(self._folder), *(self._folder / name / "log" for name in OTHERS)]
        return sum(s.path.stat().st_size for f in folders for s in list_segments(f))

    def _unlink(self, paths: Sequence[Path] | set[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)
            self._newest.pop(path, None)
        for folder in {path.parent for path in paths}:
            OS_FILES.sync_folder(folder)

    def close(self) -> None:
        """Let go of the logs; everything in them is durable already."""
        for written in self._logs.values():
            written.close_blocking()
        self._logs.clear()


def reading_logs(folder: Path) -> list[Path]:
    """The log folders of all shards, of earlier layouts, too."""
    return sorted(path for path in folder.glob("*/log") if path.parent.name not in OTHERS)
