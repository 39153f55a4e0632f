"""The log on the real disk and under asyncio; readers in other places; its bounds."""

import asyncio
import contextlib
import errno
import shutil
import stat
from pathlib import Path

import pytest
from tests.fakes.disk import Crash, FullDisk, SimulatedDisk

from greenlang_iot.model.pieces import Pieces
from greenlang_iot.spool.files import OsFiles
from greenlang_iot.spool.format import RECORD_SIZE, Damage, FormatError, Record
from greenlang_iot.spool.log import SegmentLog, SpoolFull
from greenlang_iot.spool.reader import SegmentReader, list_segments, unlink_before
from greenlang_iot.spool.store import FORGOTTEN, LogInUse


def opened(folder: Path, **options: object) -> SegmentLog:
    given: dict[str, object] = {
        "segment_bytes": 1000,
        "max_bytes": 1 << 20,
        "fsync_every": 0.001,
        **options,
    }
    return SegmentLog(folder, **given)  # type: ignore[arg-type]


def fill(log: SegmentLog, records: int, size: int = 100) -> None:
    for _ in range(records):
        log.append(b"%d " % (log.last + 1) + bytes(size), 1)
        log.flush()


def numbers(items: list[Record | Damage]) -> list[int]:
    return [item.number for item in items if isinstance(item, Record)]


async def test_durable_returns_when_it_is_on_disk(tmp_path: Path) -> None:
    log = opened(tmp_path / "a" / "log")
    first, second = log.append(b"one", 3), log.append(bytearray(b"two"), 4)
    assert (first, second, log.durable_number) == (1, 2, 0)
    await log.durable(second)
    assert log.durable_number == 2
    assert [(r.number, r.rows, r.body) for r in log.read(1)] == [(1, 3, b"one"), (2, 4, b"two")]
    await log.durable(1)
    await log.close()
    again = opened(tmp_path / "a" / "log")
    assert (again.last, again.append(b"three", 1)) == (2, 3)
    await again.close()
    assert [r.body for r in again.read(2)] == [b"two", b"three"]


async def test_pieces_are_written_as_if_they_were_joined(tmp_path: Path) -> None:
    joined, apart = opened(tmp_path / "joined"), opened(tmp_path / "apart")
    body = bytes(range(200))
    joined.append(body, 7)
    apart.append(Pieces((body[:3], bytearray(body[3:90]), memoryview(body)[90:])), 7)
    for log in (joined, apart):
        await log.durable(1)
        assert [(r.rows, r.body) for r in log.read(1)] == [(7, body)]
        await log.close()
    sizes = [list_segments(tmp_path / name)[0].path.stat().st_size for name in ("joined", "apart")]
    assert sizes[0] == sizes[1]


async def test_the_pages_of_a_large_write_are_given_back_once_they_are_synced() -> None:
    calls: list[str] = []

    class Told(SimulatedDisk):
        def sync(self, fd: int) -> None:
            super().sync(fd)
            calls.append("sync")

        def forget(self, fd: int) -> None:
            super().forget(fd)
            calls.append("forget")

    log = opened(Path("/log"), files=Told(), segment_bytes=1 << 23, max_bytes=1 << 24)
    fill(log, 1)
    calls.clear()
    fill(log, 1, size=FORGOTTEN)
    assert calls == ["sync", "forget"]
    fill(log, 1)
    assert calls == ["sync", "forget", "sync"]
    assert numbers(list(log.read(1))) == [1, 2, 3]
    await log.close()


async def test_one_group_commit_for_many_records() -> None:
    disk = SimulatedDisk()
    log = opened(Path("/log"), files=disk, segment_bytes=1 << 20)
    log.append(b"begin", 1)
    await log.durable(1)
    syncs = 0
    real = disk.sync

    def counted(fd: int) -> None:
        nonlocal syncs
        syncs += 1
        real(fd)

    disk.sync = counted  # type: ignore[method-assign]
    last = [log.append(b"x", 1) for _ in range(100)][-1]
    await asyncio.gather(*(log.durable(n) for n in range(2, last + 1)))
    assert syncs == 1
    await log.close()


async def test_a_failing_disk_reports_nothing_durable_until_it_works() -> None:
    disk = SimulatedDisk()
    disk.failing = {"sync"}
    log = opened(Path("/log"), files=disk, max_pending=3 * (RECORD_SIZE + 10))
    waiting = asyncio.ensure_future(log.durable(log.append(bytes(10), 1)))
    while not log.failures:
        await asyncio.sleep(0)
    assert not waiting.done()
    assert isinstance(log.last_error, OSError)
    log.append(bytes(10), 1)
    log.append(bytes(10), 1)
    with pytest.raises(SpoolFull, match="wait for the disk"):
        log.append(bytes(10), 1)
    disk.failing = set()
    await waiting
    assert log.last_error is None
    assert numbers(list(log.read(1))) == [1, 2, 3]
    await log.close()


async def test_a_cancelled_wait_leaves_nothing_behind(tmp_path: Path) -> None:
    log = opened(tmp_path, fsync_every=0.02)
    waiting = asyncio.ensure_future(log.durable(log.append(b"x", 1)))
    await asyncio.sleep(0)
    waiting.cancel()
    await log.durable(1)
    await log.close()
    assert numbers(list(log.read(0))) == [1]
    with pytest.raises(ValueError, match="never appended"):
        await log.durable(2)


def test_files_are_private_and_segments_bounded(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    fill(log, 30)
    files = [p for p in (tmp_path / "log").iterdir() if p.is_file()]
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    segments = list_segments(tmp_path / "log")
    assert len(segments) == 4
    assert max(s.path.stat().st_size for s in segments) < 1000 + RECORD_SIZE + 104
    assert log.nbytes == sum(s.path.stat().st_size for s in segments)


def test_a_large_batch_fills_several_segments(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for _ in range(30):
        log.append(bytes(100), 1)
    log.flush()
    assert len(list_segments(tmp_path)) == 4
    assert numbers(list(log.read(1))) == list(range(1, 31))


def test_full_is_exact_and_release_makes_room(tmp_path: Path) -> None:
    log = opened(tmp_path, max_bytes=2000)
    with pytest.raises(SpoolFull, match="full"):  # noqa: PT012
        while True:
            fill(log, 1)
            assert log.nbytes <= 2000
    last = log.last
    log.release(last)
    log.flush()
    assert log.nbytes == 0
    assert list_segments(tmp_path) == []
    assert log.append(b"x", 1) == last + 1


def test_room_made_by_another_process_is_noticed(tmp_path: Path) -> None:
    log = opened(tmp_path, max_bytes=2500)
    fill(log, 18)
    with pytest.raises(SpoolFull):
        log.append(bytes(200), 1)
    assert len(unlink_before(tmp_path, 10)) == 1
    assert log.append(bytes(200), 1) == 19


def test_numbering_survives_an_empty_folder(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 3)
    log.release(3)
    asyncio.run(log.close())
    assert list_segments(tmp_path) == []
    again = opened(tmp_path)
    assert (again.last, again.released, again.append(b"x", 1)) == (3, 3, 4)
    with pytest.raises(ValueError, match="never appended"):
        again.release(5)


def test_what_was_released_before_it_was_durable_is_never_written(tmp_path: Path) -> None:
    """It was delivered otherwise; what comes after it is read without a gap that counts as loss."""
    log = opened(tmp_path)
    fill(log, 2)
    log.append(b"delivered otherwise", 1)
    log.release(3)
    assert (log.released, log.durable_number) == (3, 3)
    log.append(b"after it", 1)
    asyncio.run(log.close())
    again = opened(tmp_path)
    assert [(r.number, r.body) for r in again.read(0)] == [(4, b"after it")]
    assert (again.lost, again.last, again.released) == (0, 4, 3)
    asyncio.run(again.close())


def test_waiting_rows_counts_what_was_not_released(tmp_path: Path) -> None:
    log = opened(tmp_path, segment_bytes=300)
    for rows in range(1, 11):
        log.append(bytes(100), rows)
    log.flush()
    assert len(list_segments(tmp_path)) > 2
    log.release(4)
    assert log.waiting_rows(10) == sum(range(5, 11))
    assert log.waiting_rows(6) == 5 + 6  # what came later is counted by whoever appended it
    asyncio.run(log.close())
    assert opened(tmp_path, segment_bytes=300).waiting_rows(10) == sum(range(5, 11))


def test_one_writer(tmp_path: Path) -> None:
    log = opened(tmp_path)
    with pytest.raises(LogInUse, match="in use by another process"):
        opened(tmp_path)
    asyncio.run(log.close())
    asyncio.run(opened(tmp_path).close())


def test_old_records_expire_loudly() -> None:
    now = 0
    log = opened(Path("/log"), files=SimulatedDisk(), max_age=60, clock_ns=lambda: now)
    fill(log, 9)  # more than one segment
    now += 50 * 10**9
    fill(log, 9)
    now += 20 * 10**9
    fill(log, 1)
    assert log.expired == log.released == log.expired_rows == 8
    assert numbers(list(log.read(0))) == list(range(9, 20))


def test_segments_end_by_age() -> None:
    now = 0
    log = opened(Path("/log"), files=SimulatedDisk(), segment_age=60, clock_ns=lambda: now)
    fill(log, 1)
    now += 59 * 10**9
    fill(log, 1)
    now += 1 * 10**9
    fill(log, 1)
    assert [s.first for s in list_segments(Path("/log"), log._files)] == [1, 3]


def test_damage_in_the_middle_is_counted(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 20)
    segment = list_segments(tmp_path)[1]
    data = bytearray(segment.path.read_bytes())
    data[100] ^= 1
    segment.path.write_bytes(data)
    found = numbers(list(log.read(1)))
    assert found == [n for n in range(1, 21) if n != segment.first]
    assert log.lost == 1


def test_a_damaged_header_loses_its_segment_and_no_number_is_used_twice(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 20)
    asyncio.run(log.close())
    segments = list_segments(tmp_path)
    data = segments[-1].path.read_bytes()
    segments[-1].path.write_bytes(b"x" + data[1:])
    again = opened(tmp_path)
    assert again.last > 20
    fill(again, 1)
    assert numbers(list(again.read(1))) == [*range(1, segments[-1].first), again.last]
    assert again.lost == again.last - segments[-1].first


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 1)
    asyncio.run(log.close())
    path = list_segments(tmp_path)[0].path
    data = bytearray(path.read_bytes())
    data[8] = 9
    path.write_bytes(data)
    with pytest.raises(FormatError, match="version 9"):
        opened(tmp_path)


def test_an_unreadable_ledger_means_delivering_again(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 3)
    log.release(2)
    asyncio.run(log.close())
    (tmp_path / "ledger.json").write_text("{")
    again = opened(tmp_path)
    assert again.released == 0
    assert numbers(list(again.read(0))) == [1, 2, 3]
    assert (tmp_path / "ledger.damaged").exists()


# readers elsewhere


def test_tailing_a_growing_log(tmp_path: Path) -> None:
    reader = SegmentReader(tmp_path / "log")
    assert reader.poll() == []
    log = opened(tmp_path / "log")
    fill(log, 3)
    assert numbers(reader.poll()) == [1, 2, 3]
    fill(log, 20)
    assert numbers(reader.poll(records=2)) == [4, 5]
    assert numbers(reader.poll(nbytes=250)) == [6, 7, 8]
    assert numbers(reader.poll()) == list(range(9, 24))
    assert reader.poll() == []
    assert reader.position == 24
    assert numbers(SegmentReader(tmp_path / "log", 21).poll()) == [21, 22, 23]


def test_a_torn_tail_is_waited_for(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 2)
    path = list_segments(tmp_path)[0].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    reader = SegmentReader(tmp_path)
    assert numbers(reader.poll()) == [1]
    assert numbers(reader.poll()) == []
    path.write_bytes(whole)
    assert numbers(reader.poll()) == [2]


def test_a_tail_goes_on_after_a_failed_sync() -> None:
    disk = SimulatedDisk()
    log = opened(Path("/log"), files=disk)
    reader = SegmentReader(Path("/log"), files=disk)
    fill(log, 2)
    assert numbers(reader.poll()) == [1, 2]
    log.append(b"three", 1)
    disk.failing = {"sync"}
    with pytest.raises(OSError, match="sync"):
        log.flush()
    with pytest.raises(OSError, match="sync"):
        reader.poll()
    assert reader.position == 3
    disk.failing = set()
    log.append(b"four", 1)
    log.flush()
    assert numbers(reader.poll()) == [3, 4]
    disk.power_loss()
    assert numbers(SegmentReader(Path("/log"), files=disk).poll()) == [1, 2, 3, 4]


def test_a_read_that_fails_half_way_leaves_nothing_out(tmp_path: Path) -> None:
    class FailsOnce(OsFiles):
        failing: Path | None = None

        def read(self, path: Path, offset: int, size: int) -> bytes:
            if path == self.failing:
                self.failing = None
                raise OSError(errno.EMFILE, "Too many open files")
            return super().read(path, offset, size)

    written = opened(tmp_path, segment_bytes=100)
    fill(written, 3)
    assert len(list_segments(tmp_path)) == 3
    files = FailsOnce()
    files.failing = list_segments(tmp_path)[1].path
    reader = SegmentReader(tmp_path, files=files)
    found: list[int] = []
    for _ in range(3):
        with contextlib.suppress(OSError):
            found += numbers(reader.poll())
    assert found == [1, 2, 3]
    written.close_blocking()


def test_a_gap_is_reported(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 25)
    segments = list_segments(tmp_path)
    segments[1].path.unlink()
    items = SegmentReader(tmp_path).poll()
    assert [i for i in items if isinstance(i, Damage)] == [
        Damage(segments[1].first, segments[2].first - 1)
    ]


def test_the_newest_segment_is_never_unlinked_by_others(tmp_path: Path) -> None:
    log = opened(tmp_path)
    fill(log, 25)
    segments = list_segments(tmp_path)
    assert unlink_before(tmp_path, 26) == segments[:-1]
    assert list_segments(tmp_path) == segments[-1:]
    asyncio.run(log.close())
    assert opened(tmp_path).last == 25


def test_what_a_killed_writer_left_is_made_durable_before_numbers_go_on() -> None:
    disk = SimulatedDisk()
    log = opened(Path("/log"), files=disk)
    fill(log, 2)
    log.append(b"three", 1)
    disk.crash_in = 1  # written, not synced
    with pytest.raises(Crash):
        log.flush()
    disk.process_death()
    again = opened(Path("/log"), files=disk)
    assert again.last == 3
    fill(again, 1)
    disk.power_loss()
    final = opened(Path("/log"), files=disk)
    assert numbers(list(final.read(1))) == [1, 2, 3, 4]
    assert final.lost == 0


def test_after_a_failed_write_records_go_to_a_new_segment() -> None:
    disk = SimulatedDisk(seed=1)
    log = opened(Path("/log"), files=disk)
    fill(log, 2)
    log.append(bytes(50), 1)
    disk.failing = {"write"}
    with pytest.raises(OSError, match="write"):
        log.flush()
    disk.failing = set()
    log.flush()
    assert [s.first for s in list_segments(Path("/log"), disk)] == [1, 3]
    assert numbers(list(log.read(1))) == [1, 2, 3]


def fill_disk(log: SegmentLog) -> int:
    """Number of the record that there was no room for."""
    while True:
        number = log.append(b"x" * 1_000, 1)
        try:
            log.flush()
        except OSError:
            return number


def test_a_full_disk_is_freed_by_what_was_delivered() -> None:
    """Releasing needs no room: neither a failing write nor an unwritable ledger may prevent it."""
    disk = FullDisk(room=40_000)
    log = opened(Path("/log"), segment_bytes=4_000, files=disk)
    number = fill_disk(log)
    durable = log.durable_number
    assert durable == number - 1
    log.release(durable - 4)
    with contextlib.suppress(OSError):
        log.flush()  # may have room for the record only at the next try
    log.flush()
    assert log.durable_number == number
    assert [r.number for r in log.read(0)] == list(range(durable - 3, number + 1))
    log.close_blocking()


def test_a_full_disk_is_freed_although_other_files_took_the_last_byte() -> None:
    disk = FullDisk(room=40_000)
    log = opened(Path("/log"), segment_bytes=4_000, files=disk)
    for _ in range(20):
        log.append(b"x" * 1_000, 1)
    log.flush()
    disk.room = disk.used
    log.release(10)
    with contextlib.suppress(OSError):
        log.flush()
    log.append(b"x" * 1_000, 1)
    log.flush()
    assert [r.number for r in log.read(0)] == list(range(11, 22))
    log.close_blocking()
    again = opened(Path("/log"), segment_bytes=4_000, files=disk)
    assert [r.number for r in again.read(0)] == list(range(11, 22))
    again.close_blocking()


def test_the_file_of_a_failed_write_is_not_left_behind() -> None:
    disk = FullDisk(room=10_000)
    log = opened(Path("/log"), segment_bytes=4_000, files=disk)
    log.append(b"x" * 20_000, 1)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            log.flush()
    assert disk.used == 0
    disk.room = 30_000
    log.flush()
    assert log.durable_number == 1
    log.close_blocking()


def test_a_full_disk_is_freed_when_everything_was_delivered() -> None:
    disk = FullDisk(room=40_000)
    log = opened(Path("/log"), segment_bytes=4_000, files=disk)
    number = fill_disk(log)
    disk.room = disk.used
    log.release(log.durable_number)
    with contextlib.suppress(OSError):
        log.flush()
    log.flush()
    assert [r.number for r in log.read(0)] == [number]
    log.close_blocking()


def test_a_folder_of_the_first_format_is_read_and_written_on(tmp_path: Path) -> None:
    """Golden files: every later version reads what this one has written."""
    golden = Path(__file__).parent
    shutil.copy(golden / "golden-v1.seg", tmp_path / f"{7:020d}.seg")
    shutil.copy(golden / "golden-v1.ledger.json", tmp_path / "ledger.json")
    log = opened(tmp_path)
    assert [(r.number, r.rows) for r in log.read(0)] == [(9, 90), (10, 100)]
    assert (log.released, log.last, log.append(b"next", 1)) == (8, 10, 11)
    asyncio.run(log.close())
    assert [r.number for r in opened(tmp_path).read(0)] == [9, 10, 11]
