"""SQL over the lake, from any process, also while the gateway writes it. Reads only.

Tables:

    readings   one row per identity (device, metric, ts, seq); of values that collide, one
    alerts     one row per transition
    quality    data quality: one row per window and device, site, fleet

Segments are read before Parquet files are listed: what was compacted in between is found in its
Parquet file. A file may still go away before DuckDB opens it; then everything is listed anew.
"""

from pathlib import Path

import duckdb
import pyarrow as pa

from greenlang_iot.encode.arrow import SCHEMA
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.sinks.lake import OTHERS, READINGS, reading_logs, reading_rows
from greenlang_iot.sinks.lake_files import ParquetFile, ToTable, list_parquet, segment_rows
from greenlang_iot.spool.format import DamagedHeader
from greenlang_iot.spool.reader import Segment, list_segments, read_header

_TRIES = 5


class LakeReader:
    """Queries a lake folder; keeps the rows of segments that did not grow for the next query.

    threads: of DuckDB; None takes all cores.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        self._folder = folder
        self._threads = threads
        self._cache: dict[tuple[Path, int], tuple[str, pa.Table]] = {}

    def query(self, sql: str) -> pa.Table:
        """The rows of one SELECT. Raises InputError for wrong SQL, GatewayError for anything else."""
        _check(sql)
        if not self._folder.is_dir():
            raise InputError(f"there is no lake in {self._folder}")
        for attempt in range(1, _TRIES + 1):
            try:
                return self._run(sql)
            except duckdb.IOException as error:
                # A file was merged away since it was listed.
                if attempt == _TRIES:
                    raise GatewayError(f"the lake cannot be read: {_sentence(error)}") from None
        raise AssertionError("unreachable")

    def _run(self, sql: str) -> pa.Table:
        config = {} if self._threads is None else {"threads": self._threads}
        with duckdb.connect(config=config) as database:
            fresh: dict[tuple[Path, int], tuple[str, pa.Table]] = {}
            logs = [(path, path.parent.name) for path in reading_logs(self._folder)]
            self._table(database, fresh, READINGS, SCHEMA, logs, reading_rows)
            for name, (schema, to_table, _) in OTHERS.items():
                logs = [(self._folder / name / "log", name)]
                self._table(database, fresh, name, schema, logs, to_table)
            self._cache = fresh
            database.execute(_VIEWS)
            database.execute("SET TimeZone = 'UTC'")  # what now() is, beside `time`
            folders = [str(self._folder / name) for name in (READINGS, *OTHERS)]
            database.execute(f"SET allowed_directories = [{', '.join(map(_quoted, folders))}]")
            database.execute("SET enable_external_access = false")
            database.execute("SET lock_configuration = true")
            try:
                return database.sql(sql).to_arrow_table()
            except duckdb.IOException:
                raise
            except duckdb.Error as error:
                raise InputError(f"the query is wrong: {_sentence(error)}") from None

    def _table(
        self,
        database: duckdb.DuckDBPyConnection,
        fresh: dict[tuple[Path, int], tuple[str, pa.Table]],
        name: str,
        schema: pa.Schema,
        logs: list[tuple[Path, str]],
        to_table: ToTable,
    ) -> None:
        """The view `_NAME`: rows of segments and of Parquet files."""
        segments = [
            (segment, shard, *self._rows(fresh, segment, schema, to_table))
            for folder, shard in logs
            for segment in list_segments(folder)
        ]
        files, _ = list_parquet(self._folder / name)
        tables = [
            rows
            for segment, shard, log_id, rows in segments
            if not any(_covers(file, shard, log_id, segment.first) for file in files)
        ]
        table = pa.concat_tables([schema.empty_table(), *tables]).unify_dictionaries()
        database.register(f"_{name}_segments", table)
        sources = [f"SELECT * FROM _{name}_segments"]  # noqa: S608  (our own names)
        if files:
            paths = ", ".join(_quoted(str(file.path)) for file in files)
            sources.append(f"SELECT * FROM read_parquet([{paths}], union_by_name = true)")  # noqa: S608  (quoted)
        database.execute(f"CREATE VIEW _{name} AS {' UNION ALL BY NAME '.join(sources)}")

    def _rows(
        self,
        fresh: dict[tuple[Path, int], tuple[str, pa.Table]],
        segment: Segment,
        schema: pa.Schema,
        to_table: ToTable,
    ) -> tuple[str, pa.Table]:
        """(log id, rows) of a segment; nothing where it is gone or damaged."""
        try:
            key = (segment.path, segment.path.stat().st_size)
            if key not in self._cache:
                log_id = f"{read_header(segment).log:016x}"
                tables = [
                    rows if rows.schema == schema else rows.cast(schema)
                    for rows in segment_rows(segment, to_table)
                ]
                self._cache[key] = (
                    log_id,
                    pa.concat_tables([schema.empty_table(), *tables]),
                )
        except (FileNotFoundError, DamagedHeader):
            return "", schema.empty_table()
        fresh[key] = self._cache[key]
        return fresh[key]


_VIEWS = """
CREATE VIEW readings AS
    SELECT DISTINCT ON (device, metric, ts, seq) *, make_timestamp(ts // 1000) AS time FROM _readings;
CREATE VIEW alerts AS
    SELECT DISTINCT ON (transition_id) *, make_timestamp("at" // 1000) AS time FROM _alerts;
CREATE VIEW quality AS
    SELECT DISTINCT ON (scope, org, site, device, ts) *, make_timestamp(ts // 1000) AS time
    FROM _quality;
"""


def _covers(file: ParquetFile, shard: str, log_id: str, first: int) -> bool:
    return (file.shard, file.log) == (shard, log_id) and file.first <= first <= file.last


def _check(sql: str) -> None:
    """InputError unless it is one statement that only reads."""
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise InputError(f"the query is wrong: {_sentence(error)}") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise InputError("the lake is read only: give one SELECT (or DESCRIBE, SHOW, SUMMARIZE)")


def _sentence(error: duckdb.Error) -> str:
    """DuckDB's message without the picture of the query below it."""
    lines = str(error).split("\nLINE ")[0].split("\n")
    return " ".join(line.strip() for line in lines if line.strip())


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
