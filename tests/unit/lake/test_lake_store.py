"""What was sent is found by a query, before, during and after compaction; bounds; read only."""

import asyncio
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import readings, scores

from greenlang_iot.encode.arrow import ArrowEncoder
from greenlang_iot.model.errors import GatewayError, InputError, SinkError
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.settings.model import LakeSettings
from greenlang_iot.sinks import lake_files
from greenlang_iot.sinks.lake import ALERT_SCHEMA, Lake, LakeSender
from greenlang_iot.sinks.lake_files import list_parquet
from greenlang_iot.sinks.lake_query import LakeReader
from greenlang_iot.spool.files import OsFiles
from greenlang_iot.spool.reader import list_segments, row_counts

DAY = 86_400 * 10**9
SETTINGS = LakeSettings(segment_bytes=65_536, fsync_every=0.0)
DIRECTORY = directory(10)
NEWER = {"type", "labels", "runbook", "by", "comment", "group", "members", "members_total"}
"""Columns of alerts that the first version did not have."""


def body(first: int, count: int = 100, *, value: float = 0.5, ts: int = 1000) -> bytes:
    encoder = ArrowEncoder(DIRECTORY)
    numbers = list(range(first, first + count))
    encoder.append(
        readings([n % 20 for n in numbers], [ts] * count, [value] * count, seq=list(numbers)),
        scores([0.0] * count),
    )
    return encoder.seal()


async def send(folder: Path, bodies: list[bytes], settings: LakeSettings = SETTINGS) -> None:
    """Each body into a segment of its own where it is large enough."""
    sender = LakeSender(settings, folder)
    await sender.open()
    for one in bodies:
        outcome = await sender.send(one, 100)
        assert (outcome.delivered, outcome.refused) == (100, [])
    await sender.close()


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    table = LakeReader(folder).query(sql)
    return list(zip(*(c.to_pylist() for c in table.columns), strict=True))


def stored(folder: Path) -> int:
    return sum(p.stat().st_size for end in ("parquet", "seg") for p in folder.rglob(f"*.{end}"))


COUNT = "SELECT count(*), count(DISTINCT seq), min(seq), max(seq) FROM readings"


async def test_a_reading_is_found_before_and_after_compaction(tmp_path: Path) -> None:
    await send(tmp_path / "shard-0", [body(n, 1000) for n in range(0, 5000, 1000)])
    await send(tmp_path / "shard-1", [body(n, 1000) for n in range(5000, 8000, 1000)])
    assert rows(tmp_path, COUNT) == [(8000, 8000, 0, 7999)]
    before = rows(tmp_path, "SELECT * FROM readings ORDER BY seq LIMIT 3")
    lake = Lake(tmp_path, SETTINGS)
    done = lake.compact(DAY)
    assert done.rows > 0
    assert len(list_segments(tmp_path / "shard-0" / "log")) == 1
    files = list((tmp_path / "readings").iterdir())
    assert {f.suffix for f in files} == {".parquet"}
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    assert rows(tmp_path, COUNT) == [(8000, 8000, 0, 7999)]
    assert rows(tmp_path, "SELECT * FROM readings ORDER BY seq LIMIT 3") == before
    assert lake.compact(DAY).rows == 0


async def test_duplicates_are_one_row_and_collisions_too(tmp_path: Path) -> None:
    await send(tmp_path / "shard-0", [body(0), body(0), body(0, value=9.5), body(100)])
    await send(tmp_path / "shard-1", [body(0)])
    assert rows(tmp_path, COUNT) == [(200, 200, 0, 199)]
    assert rows(tmp_path, "SELECT count(*) FROM readings WHERE seq = 5") == [(1,)]


async def test_time_stamps_keep_their_nanoseconds_and_time_is_one_to_ask_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `TIMESTAMP_NS` cannot be compared with `now()`."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    old, new = 1_700_000_000_123_456_789, time.time_ns() - 60 * 10**9
    await send(tmp_path / "shard-0", [body(0, 1, ts=old), body(1, 1, ts=new)])
    assert rows(tmp_path, f"SELECT time::VARCHAR FROM readings WHERE ts = {old}") == [
        ("2023-11-14 22:13:20.123456",)
    ]
    hour = "SELECT ts FROM readings WHERE time > now() - INTERVAL '1 hour' AND time < now()"
    assert rows(tmp_path, hour) == [(new,)]


async def test_a_segment_compacted_twice_makes_the_same_file(tmp_path: Path) -> None:
    log = tmp_path / "shard-0" / "log"
    await send(tmp_path / "shard-0", [body(n, 2000) for n in range(0, 6000, 2000)])
    kept = {s.path: s.path.read_bytes() for s in list_segments(log)}
    lake = Lake(tmp_path, SETTINGS)
    lake.compact(DAY)
    files = sorted(p.name for p in (tmp_path / "readings").iterdir())
    for path, content in kept.items():
        path.write_bytes(content)  # as after a crash before the unlink
    assert rows(tmp_path, COUNT) == [(6000, 6000, 0, 5999)]
    assert lake.compact(DAY).rows == 0
    assert sorted(p.name for p in (tmp_path / "readings").iterdir()) == files
    assert len(list_segments(log)) == 1


async def test_small_files_are_merged_and_their_sources_go_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_files, "MERGE_AT", 4)
    await send(tmp_path / "shard-0", [body(n, 2000) for n in range(0, 12000, 2000)])
    lake = Lake(tmp_path, SETTINGS)
    assert lake.compact(DAY).merged == 5
    live, obsolete = list_parquet(tmp_path / "readings")
    assert (len(live), len(obsolete)) == (1, 5)
    assert rows(tmp_path, COUNT) == [(12000, 12000, 0, 11999)]
    lake.compact(DAY)
    lake.compact(DAY)
    live, obsolete = list_parquet(tmp_path / "readings")
    assert (len(live), len(obsolete)) == (1, 0)
    assert rows(tmp_path, COUNT) == [(12000, 12000, 0, 11999)]


async def test_a_new_log_under_an_old_name_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    log = tmp_path / "shard-0" / "log"
    await send(tmp_path / "shard-0", [body(n, 2000) for n in range(0, 4000, 2000)])
    lake = Lake(tmp_path, SETTINGS)
    lake.compact(DAY)
    for path in log.iterdir():
        path.unlink()  # its numbers begin at 1 again
    await send(tmp_path / "shard-0", [body(n, 2000) for n in range(10_000, 14_000, 2000)])
    assert rows(tmp_path, COUNT) == [(6000, 6000, 0, 13_999)]
    lake.compact(DAY)
    assert rows(tmp_path, COUNT) == [(6000, 6000, 0, 13_999)]


async def test_what_a_shard_left_that_is_no_more_is_compacted_to_its_end_and_expires(
    tmp_path: Path,
) -> None:
    await send(tmp_path / "shard-0", [body(0)])
    await send(tmp_path / "shard-1", [body(n, 2000) for n in range(1000, 5000, 2000)])
    left = list_segments(tmp_path / "shard-1" / "log")[-1].path
    with left.open("ab") as torn:
        torn.write(b"a write that was not finished")
    before = rows(tmp_path, COUNT)
    lake = Lake(tmp_path, SETTINGS)
    lake.compact(DAY)
    assert left.exists()  # somebody may write it
    assert lake.compact(DAY, shards=1).rows == 2000
    assert list_segments(tmp_path / "shard-1" / "log") == []
    assert len(list_segments(tmp_path / "shard-0" / "log")) == 1
    assert rows(tmp_path, COUNT) == before
    assert lake.compact(DAY, shards=1).rows == 0
    assert lake.compact(32 * DAY, shards=1).expired == 2
    assert rows(tmp_path, COUNT) == [(100, 100, 0, 99)]
    await send(tmp_path / "shard-1", [body(7000, 2000)])  # it is there again
    assert rows(tmp_path, COUNT) == [(2100, 2100, 0, 8999)]
    lake.compact(DAY, shards=1)
    assert rows(tmp_path, COUNT) == [(2100, 2100, 0, 8999)]


async def test_retention_and_bytes_are_bounded(tmp_path: Path) -> None:
    bodies = [body(n, 2000, ts=DAY * (n // 2000 + 1)) for n in range(0, 10_000, 2000)]
    await send(tmp_path / "shard-0", bodies)
    lake = Lake(tmp_path, SETTINGS)
    done = lake.compact(32 * DAY)
    assert (done.expired, done.dropped) == (1, 0)
    assert rows(tmp_path, COUNT) == [(8000, 8000, 2000, 9999)]
    assert done.nbytes == stored(tmp_path)
    small = LakeSettings(segment_bytes=65_536, max_bytes=done.nbytes - 1)
    again = Lake(tmp_path, small).compact(32 * DAY)
    assert again.dropped == 1
    assert again.nbytes <= small.max_bytes
    assert rows(tmp_path, COUNT) == [(6000, 6000, 4000, 9999)]


async def test_a_damaged_file_stops_neither_compaction_nor_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad block of a disk left retention and bounds undone for ever, and every query failed."""
    bodies = [body(n, 2000, ts=DAY * (n // 2000 + 1)) for n in range(0, 10_000, 2000)]
    await send(tmp_path / "shard-0", bodies)
    lake = Lake(tmp_path, SETTINGS)
    lake.compact(DAY)
    cut, scratched, *_ = sorted((tmp_path / "readings").glob("*.parquet"))
    cut.write_bytes(cut.read_bytes()[:-4])
    data = bytearray(scratched.read_bytes())
    data[4:400] = bytes(396)
    scratched.write_bytes(data)

    monkeypatch.setattr(lake_files, "MERGE_AT", 3)
    again = Lake(tmp_path, SETTINGS)
    assert again.compact(33 * DAY).expired == 1  # the scratched one, by its age
    assert cut.with_suffix(".damaged").exists()
    assert rows(tmp_path, COUNT) == [(6000, 6000, 4000, 9999)]
    assert again.compact(34 * DAY).merged == 0
    assert not list(tmp_path.rglob("*.tmp"))  # noqa: ASYNC240


async def test_a_file_that_goes_between_listing_and_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(tmp_path / "shard-0", [body(n, 2000) for n in range(0, 4000, 2000)])
    Lake(tmp_path, SETTINGS).compact(DAY)
    listed = lake_files.list_parquet
    gone = lake_files.parquet_path(tmp_path / "readings", "shard-9", "0" * 16, 1, 2)
    calls = 0

    def stale(folder: Path) -> Any:
        nonlocal calls
        calls += 1
        live, obsolete = listed(folder)
        return ([*live, gone], obsolete) if calls == 1 else (live, obsolete)

    monkeypatch.setattr("greenlang_iot.sinks.lake_query.list_parquet", stale)
    assert rows(tmp_path, COUNT) == [(4000, 4000, 0, 3999)]
    assert calls > 2


async def test_queries_while_it_is_written(tmp_path: Path) -> None:
    sender = LakeSender(SETTINGS, tmp_path / "shard-0")
    await sender.open()
    lake, reader = Lake(tmp_path, SETTINGS), LakeReader(tmp_path)
    for n in range(5):
        await sender.send(body(n * 1000, 1000), 1000)
        found = reader.query("SELECT count(*) AS n FROM readings").to_pylist()
        assert found == [{"n": (n + 1) * 1000}]
        if n % 2:
            await asyncio.to_thread(lake.compact, DAY)
    await sender.close()


def transition(number: int, state: str) -> dict[str, Any]:
    return Transition(
        "a", number, state, "spike", "warning", "acme", "site-0", "d0", "temperature",
        1, number, 2.5, None, None, 0.999, "spike", "odd", ("flapping",),
    ).as_dict()  # fmt: skip


def test_alerts_are_stored_once(tmp_path: Path) -> None:
    lake = Lake(tmp_path, SETTINGS)
    lake.append_alerts([transition(1, "open"), transition(2, "resolved")])
    lake.append_alerts([transition(2, "resolved")])
    lake.append_alerts([])
    found = LakeReader(tmp_path).query("SELECT * EXCLUDE (time) FROM alerts ORDER BY number")
    wanted = [transition(1, "open"), transition(2, "resolved")]
    nothing = dict.fromkeys(NEWER)
    assert found.to_pylist() == [{k: v for k, v in t.items() if k != "v"} | nothing for t in wanted]
    lake.close()
    again = Lake(tmp_path, SETTINGS)
    again.append_alerts([transition(3, "open")])
    again.compact(DAY)
    assert rows(tmp_path, "SELECT number FROM alerts ORDER BY 1") == [(1,), (2,), (3,)]
    again.close()


def test_a_disk_that_fails_does_not_pile_up_what_was_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The courier tries an alert again until the lake has it."""
    lake = Lake(tmp_path, SETTINGS)
    lake.append_alerts([transition(1, "open")])
    genuine = OsFiles.sync

    def sync(files: OsFiles, fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(OsFiles, "sync", sync)
    for _ in range(5):
        with pytest.raises(OSError, match="Input/output error"):
            lake.append_alerts([transition(2, "resolved")])
    monkeypatch.setattr(OsFiles, "sync", genuine)
    lake.append_alerts([transition(2, "resolved")])
    lake.close()
    records = [rows for _, rows in row_counts(tmp_path / "alerts" / "log")]
    assert records == [1, 1, 1]  # the second one twice: at least once
    assert rows(tmp_path, "SELECT number FROM alerts ORDER BY 1") == [(1,), (2,)]


def test_an_empty_lake_has_its_tables(tmp_path: Path) -> None:
    for table in ("readings", "alerts", "quality"):
        assert rows(tmp_path, f"SELECT count(*) FROM {table}") == [(0,)]
    with pytest.raises(InputError, match="there is no lake"):
        LakeReader(tmp_path / "none").query("SELECT 1")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM readings", '"nope" not found'),
        ("SELECT 1; SELECT 2", "read only"),
        ("", "read only"),
        ("COPY readings TO '{folder}/x.csv'", "read only"),
        ("EXPLAIN ANALYZE COPY readings TO '{folder}/readings/x.csv'", "read only"),
        ("CREATE TABLE x AS SELECT 1", "read only"),
        ("ATTACH '{folder}/x.db'", "read only"),
        ("SET enable_external_access = true", "read only"),
        ("SELECT * FROM read_csv('/etc/passwd')", "Cannot access file"),
        ("SELECT * FROM read_text('{folder}/secret.txt')", "Cannot access file"),
        ("SELECT * FROM '/etc/passwd'", "/etc/passwd"),
    ],
)
def test_what_a_query_may_not_do(tmp_path: Path, sql: str, words: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    with pytest.raises(InputError, match=words) as caught:
        LakeReader(tmp_path).query(sql.format(folder=tmp_path))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["secret.txt"]


async def test_a_query_that_needs_too_much_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, temporary = tmp_path / "lake", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    await send(lake / "shard-0", [body(0)])

    def sorting(numbers: int) -> str:
        ordered = (
            f"SELECT range AS n FROM range({numbers}) ORDER BY hash(range) LIMIT {numbers - 1}"
        )
        return f"SELECT count(n) AS n FROM ({ordered})"

    small = 12 << 20
    room = "^the query needs more than 12 MiB of memory"
    with pytest.raises(GatewayError, match=rf"{room}; [^\n]*$"):
        LakeReader(lake, memory=small, spill=0, threads=1).query(sorting(400_000))
    with pytest.raises(GatewayError, match=rf"{room} and 1 MiB in a temporary folder; [^\n]*$"):
        LakeReader(lake, memory=small, spill=1 << 20, threads=1).query(sorting(3_000_000))
    spilled = LakeReader(lake, memory=small, threads=1).query(sorting(400_000))
    assert spilled["n"].to_pylist() == [399_999]
    with pytest.raises(GatewayError, match=r"^the query has more than 12 MiB of rows; "):
        LakeReader(lake, memory=small).query("SELECT * FROM range(2_000_000)")
    assert list(temporary.iterdir()) == []


async def test_a_lake_that_cannot_be_opened_is_down(tmp_path: Path) -> None:
    sender = LakeSender(SETTINGS, tmp_path / "shard-0")
    with pytest.raises(SinkError) as closed:
        await sender.send(body(0), 100)
    assert closed.value.down
    await sender.open()
    second = LakeSender(SETTINGS, tmp_path / "shard-0")
    with pytest.raises(SinkError, match="in use") as busy:
        await second.open()
    assert busy.value.down
    await sender.close()
    await sender.close()


async def test_the_loop_goes_on_while_the_lake_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new writer copies and syncs the newest segment: on a slow disk the shard stood still, and was taken for dead."""
    await send(tmp_path / "shard-0", [body(0)])
    begun, go_on, genuine = threading.Event(), threading.Event(), OsFiles.sync

    def sync(files: OsFiles, fd: int) -> None:
        begun.set()
        assert go_on.wait(20), "the loop stood still"
        genuine(files, fd)

    monkeypatch.setattr(OsFiles, "sync", sync)
    sender = LakeSender(SETTINGS, tmp_path / "shard-0")
    opening = asyncio.ensure_future(sender.open())
    while not begun.is_set():
        await asyncio.sleep(0)
    opening.cancel()  # the drain does not wait for it, and the folder is let go of all the same
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await sender.close()
    await send(tmp_path / "shard-0", [body(100)])


async def test_a_full_lake_says_so(tmp_path: Path) -> None:
    small = LakeSettings(segment_bytes=65_536, max_bytes=1000)
    sender = LakeSender(small, tmp_path / "shard-0")
    await sender.open()
    with pytest.raises(SinkError, match="full") as full:
        await sender.send(body(0), 100)
    assert (full.value.reason, full.value.retryable) == ("full", True)
    await sender.close()


def test_alerts_of_an_earlier_version_are_read_and_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_files, "MERGE_AT", 2)
    old = pa.schema([f for f in ALERT_SCHEMA if f.name not in NEWER])
    (tmp_path / "alerts").mkdir()
    for first in (1, 2):
        path = lake_files.parquet_path(tmp_path / "alerts", "alerts", "0" * 16, first, first).path
        pq.write_table(pa.Table.from_pylist([transition(first, "open")], old), path)
    lake = Lake(tmp_path, SETTINGS)
    newer = transition(3, "acknowledged") | {"by": "kim", "labels": {"team": "north"}}
    lake.append_alerts([newer])
    wanted = [(1, None, None), (2, None, None), (3, "kim", '{"team":"north"}')]
    sql = 'SELECT number, "by", labels FROM alerts ORDER BY number'
    assert rows(tmp_path, sql) == wanted
    assert lake.compact(0).merged == 2
    assert rows(tmp_path, sql) == wanted
    lake.close()
