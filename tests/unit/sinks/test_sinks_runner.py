"""The runner's rules, against a scripted sink and a real spool."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.fakes.disk import SimulatedDisk
from tests.fakes.readings import readings, scores
from tests.fakes.sinks import ListEncoder, ScriptedSender

from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.errors import SinkError
from greenlang_iot.model.flags import DUPLICATE
from greenlang_iot.model.outcomes import Outcome, Refused
from greenlang_iot.settings.model import RunnerSettings, SpoolSettings
from greenlang_iot.sinks.runner import Runner
from greenlang_iot.spool.files import OS_FILES, Files
from greenlang_iot.spool.log import SegmentLog

BIT = 4


def batch(*timestamps: int, duplicate: bool = False) -> tuple[ReadingBatch, ScoreBatch]:
    zeros = [0] * len(timestamps)
    flags = [DUPLICATE if duplicate else 0] * len(timestamps)
    return readings(zeros, timestamps, zeros, flags=flags), scores(zeros)


class Meter:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.values: dict[str, float] = {}
        self.answers: list[tuple[int, float]] = []
        self.requests = 0
        self.is_up: bool | None = None

    def _count(self, name: str, rows: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + rows

    def requested(self, seconds: float) -> None:
        self.requests += 1

    def delivered(self, rows: int, size: int) -> None:
        self._count("delivered", rows)

    def answered(self, rows: int, seconds: float) -> None:
        self.answers.append((rows, seconds))

    def refused(self, rows: int) -> None:
        self._count("refused", rows)

    def spooled(self, rows: int) -> None:
        self._count("spooled", rows)

    def dropped(self, rows: int) -> None:
        self._count("dropped", rows)

    def retried(self, reason: str) -> None:
        self._count(f"retried_{reason}", 1)

    def up(self, is_up: bool) -> None:
        self.is_up = is_up

    def gauges(self, values: dict[str, float]) -> None:
        self.values = values


class Bench:
    """A runner with everything around it."""

    def __init__(
        self,
        folder: Path,
        *,
        spooled: bool = True,
        spool_bytes: int = 1 << 20,
        after: float = 1.0,
        gather: float = 0.0,
        files: Files = OS_FILES,
        **runner: object,
    ) -> None:
        self.encoder = ListEncoder()
        self.sender = ScriptedSender()
        self.meter = Meter()
        self.settled: set[int] = set()
        self.refused: list[Refused] = []
        self.now = 100.0
        self._changed = asyncio.Event()
        spool_settings = SpoolSettings(after=after, gather=gather)
        self.spool = (
            SegmentLog(
                folder,
                segment_bytes=spool_bytes // 4,
                max_bytes=spool_bytes,
                fsync_every=0.0,
                files=files,
            )
            if spooled
            else None
        )
        fields = {"backoff_initial": 0.001, "backoff_max": 0.01, **runner}
        self.runner = Runner(
            "test",
            BIT,
            self.encoder,
            self.sender,
            RunnerSettings(**fields),  # type: ignore[arg-type]
            spool=self.spool,
            spool_settings=spool_settings,
            settle=self._settle,
            refuse=self._refuse,
            meter=self.meter,
            clock=lambda: self.now,
        )
        self.task = asyncio.ensure_future(self.runner.run())

    def _settle(self, bit: int, first: int, last: int) -> None:
        assert bit == BIT
        self.settled |= set(range(first, last + 1))
        self._changed.set()

    async def _refuse(self, sink: str, refused: list[Refused]) -> None:
        assert sink == "test"
        self.refused += refused

    def append(self, ticket: int, *timestamps: int, duplicate: bool = False) -> int:
        return self.runner.append(*batch(*timestamps, duplicate=duplicate), ticket, self.now)

    async def until(self, condition: Callable[[], bool], pause: float = 0.0) -> None:
        """pause: seconds between looks, where a log's thread has much to do and needs the GIL, too."""
        async with asyncio.timeout(20):
            while not condition():
                self.runner.check(None)
                await asyncio.sleep(pause)

    async def runner_turns(self) -> None:
        for _ in range(20):
            self.runner.check(None)
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        await self.runner.close()
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def build(**kwargs: object) -> Bench:
        made.append(Bench(tmp_path / f"spool-{len(made)}", **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for bench in made:
        await bench.close()


def down() -> SinkError:
    return SinkError("connection refused", reason="refused", down=True)


async def test_a_ticket_settles_when_its_rows_are_delivered(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.sender.gate.clear()
    assert bench.append(1, 10, 11) == 2
    await bench.until(lambda: bool(bench.sender.attempts))
    assert bench.settled == set()
    bench.sender.gate.set()
    await bench.until(lambda: bench.settled == {1})
    assert bench.sender.delivered == ["10", "11"]
    assert bench.meter.counts == {"delivered": 2}


async def test_rows_gather_while_a_chunk_is_on_its_way(make: Callable[..., Bench]) -> None:
    bench = make()
    await bench.until(lambda: bench.meter.is_up is True)
    bench.sender.gate.clear()
    bench.append(1, 1)
    await bench.until(lambda: bool(bench.sender.attempts))
    for ticket in range(2, 6):
        bench.append(ticket, ticket)
        await bench.runner_turns()
    bench.sender.gate.set()
    await bench.until(lambda: bench.settled == {1, 2, 3, 4, 5})
    assert bench.sender.attempts == [["1"], ["2", "3", "4", "5"]]


async def test_what_is_appended_in_one_turn_of_the_loop_is_one_chunk(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    await bench.until(lambda: bench.meter.is_up is True)
    bench.append(1, 1)
    bench.append(2, 2)
    await bench.until(lambda: bench.settled == {1, 2})
    assert bench.sender.attempts == [["1", "2"]]


async def test_a_large_chunk_goes_beside_the_first(make: Callable[..., Bench]) -> None:
    bench = make(chunk_rows=2, in_flight=2)
    await bench.until(lambda: bench.meter.is_up is True)
    bench.sender.gate.clear()
    bench.append(1, 1)
    await bench.until(lambda: bool(bench.sender.attempts))
    bench.append(2, 2, 3)
    bench.append(3, 4, 5)
    await bench.until(lambda: len(bench.sender.attempts) == 2)
    assert bench.sender.attempts == [["1"], ["2", "3"]]


async def test_the_time_to_the_answer_counts_from_the_oldest_reading(
    make: Callable[..., Bench],
) -> None:
    bench = make(spooled=False)
    bench.sender.gate.clear()
    bench.append(1, 10)
    await bench.sender.attempted.wait()
    bench.append(2, 20, 21)
    bench.now += 0.25
    bench.append(3, 30)
    bench.sender.gate.set()
    await bench.until(lambda: bench.settled == {1, 2, 3})
    assert bench.meter.answers == [(1, 0.25), (3, 0.25)]
    assert bench.meter.requests == 2


async def test_what_is_replayed_from_the_spool_has_no_time_to_the_answer(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.sender.answer = lambda rows: SinkError("away", reason="refused", down=True)
    bench.append(1, 10)
    await bench.until(lambda: bench.settled == {1})
    assert bench.meter.requests >= 1
    assert bench.meter.answers == []
    bench.sender.answer = lambda rows: None
    await bench.until(lambda: bench.sender.delivered == ["10"])
    assert bench.meter.answers == []


async def test_duplicates_settle_at_once_and_are_not_sent(make: Callable[..., Bench]) -> None:
    bench = make()
    assert bench.append(7, 1, 2, duplicate=True) == 0
    assert bench.settled == {7}
    assert bench.sender.attempts == []


async def test_a_failing_sink_is_retried_until_it_delivers(make: Callable[..., Bench]) -> None:
    bench = make()
    answers = iter([SinkError("busy", reason="busy")] * 3)
    bench.sender.answer = lambda rows: next(answers, None)
    bench.append(1, 10)
    await bench.until(lambda: bench.settled == {1})
    assert len(bench.sender.attempts) == 4
    assert bench.meter.counts == {"retried_busy": 3, "delivered": 1}
    assert bench.meter.is_up is True


async def test_refused_rows_are_dead_letters_before_the_ticket_settles(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    refused = Refused(b"10", "field type conflict")
    bench.sender.answer = lambda rows: Outcome(1, [refused])
    bench.append(1, 10, 11)
    await bench.until(lambda: bench.settled == {1})
    assert bench.refused == [refused]
    assert bench.meter.counts == {"refused": 1, "delivered": 1}


async def test_a_chunk_refused_as_a_whole_is_a_dead_letter(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.sender.answer = lambda rows: SinkError("no", reason="too_large", retryable=False)
    bench.append(1, 10, 11)
    await bench.until(lambda: bench.settled == {1})
    assert [(r.body, r.answer, r.readings) for r in bench.refused] == [(b"10,11", "no", 2)]


async def test_a_sink_that_is_down_is_spooled_and_replayed_in_order(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.sender.answer = lambda rows: down()
    bench.append(1, 1)
    await bench.until(lambda: bench.settled == {1})
    bench.append(2, 2)
    bench.append(3, 3)
    await bench.until(lambda: bench.settled == {1, 2, 3})
    assert bench.sender.delivered == []
    assert bench.meter.is_up is False
    assert bench.runner.spooling
    bench.sender.answer = lambda rows: None
    await bench.until(lambda: not bench.runner.spooling)
    assert bench.sender.delivered == ["1", "2", "3"]
    assert bench.meter.counts["delivered"] == 3
    bench.append(4, 4)
    await bench.until(lambda: bench.settled == {1, 2, 3, 4})
    assert bench.sender.delivered == ["1", "2", "3", "4"]


async def test_rows_that_wait_too_long_are_spooled(make: Callable[..., Bench]) -> None:
    bench = make(after=1.0)
    await bench.until(lambda: bench.meter.is_up is True)
    bench.sender.gate.clear()
    bench.append(1, 1)
    await bench.until(lambda: bool(bench.sender.attempts))
    opened = bench.now
    bench.append(2, 2)
    bench.now += 1.0
    bench.runner.check(opened)
    assert not bench.runner.spooling
    bench.now += 0.01
    bench.runner.check(opened)
    assert bench.runner.spooling
    await bench.until(lambda: bench.settled == {1, 2})


async def test_a_chunk_answered_after_it_was_spooled_is_not_sent_again(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    await bench.until(lambda: bench.meter.is_up is True)
    bench.sender.gate.clear()
    bench.append(1, 1)
    await bench.until(lambda: bool(bench.sender.attempts))
    bench.append(2, 2)
    opened, bench.now = bench.now, bench.now + 5
    bench.runner.check(opened)
    await bench.until(lambda: bench.settled == {1, 2})
    bench.sender.gate.set()
    await bench.until(lambda: not bench.runner.spooling)
    assert bench.sender.delivered == ["1", "2"]


async def test_a_chunk_refused_after_it_was_spooled_is_a_dead_letter_once(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    await bench.until(lambda: bench.meter.is_up is True)
    bench.sender.gate.clear()
    bench.sender.answer = lambda rows: (
        SinkError("400 nonsense", reason="bad_request", retryable=False) if rows == ["1"] else None
    )
    bench.append(1, 1)
    await bench.until(lambda: bool(bench.sender.attempts))
    bench.append(2, 2)
    opened, bench.now = bench.now, bench.now + 5
    bench.runner.check(opened)
    await bench.until(lambda: bench.settled == {1, 2})
    bench.sender.gate.set()
    await bench.until(lambda: not bench.runner.spooling)
    assert [item.body for item in bench.refused] == [b"1"]
    assert bench.sender.attempts == [["1"], ["2"]]
    assert bench.meter.counts["refused"] == 1


async def test_a_chunk_that_fails_after_it_was_spooled_is_replayed_once(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    await bench.until(lambda: bench.meter.is_up is True)
    bench.sender.gate.clear()
    answers = iter([SinkError("timeout", reason="timeout")])
    bench.sender.answer = lambda rows: next(answers, None)
    bench.append(1, 1)
    await bench.until(lambda: bool(bench.sender.attempts))
    opened, bench.now = bench.now, bench.now + 5
    bench.runner.check(opened)
    bench.sender.gate.set()
    await bench.until(lambda: not bench.runner.spooling)
    assert bench.sender.delivered == ["1"]
    assert bench.settled == {1}


async def test_a_backlog_is_delivered_after_a_restart(make: Callable[..., Bench]) -> None:
    first = make()
    first.sender.answer = lambda rows: down()
    first.append(1, 1, 2)
    await first.until(lambda: first.settled == {1})
    await first.close()
    assert first.spool is not None
    second = make()
    assert second.spool is not None
    await second.close()
    third = Bench(first.spool.folder)
    third.append(1, 3)
    await third.until(lambda: not third.runner.spooling and third.settled == {1})
    assert third.sender.delivered == ["1", "2", "3"]
    await third.close()


async def test_a_full_spool_keeps_rows_unsettled_and_loses_none(make: Callable[..., Bench]) -> None:
    bench = make(spool_bytes=2_000, chunk_rows=5)
    bench.sender.answer = lambda rows: down()
    for ticket in range(1, 200):
        bench.append(ticket, 10**17 + ticket)
        await asyncio.sleep(0)
    await bench.until(lambda: bench.runner.spool_full)
    assert len(bench.settled) < 199
    bench.sender.answer = lambda rows: None
    await bench.until(lambda: bench.settled == set(range(1, 200)), 0.001)
    await bench.until(lambda: not bench.runner.spooling, 0.001)
    assert sorted(set(bench.sender.delivered)) == [str(10**17 + t) for t in range(1, 200)]


async def test_a_chunk_in_flight_that_the_spool_has_no_room_for_does_not_overtake(
    make: Callable[..., Bench],
) -> None:
    """Two chunks are on their way when the sink goes away, and the spool takes only the first."""
    bench = make(spool_bytes=1_100, chunk_rows=1)
    await bench.until(lambda: bench.meter.is_up is True)
    bench.sender.gate.clear()
    bench.sender.answer = lambda rows: down()
    first = 10**17
    expected = []
    for ticket, rows in enumerate((1, 60, 1), 1):
        chunk = list(range(first, first + rows))
        bench.append(ticket, *chunk)
        expected += map(str, chunk)
        first += rows
    await bench.until(lambda: len(bench.sender.attempts) == 2)
    bench.sender.gate.set()
    await bench.until(lambda: bench.runner.spooling)
    bench.sender.answer = lambda rows: None
    await bench.until(lambda: bench.settled == {1, 2, 3} and not bench.runner.spooling)
    assert bench.sender.delivered == expected


async def test_a_best_effort_sink_drops_beyond_its_queue_and_counts(
    make: Callable[..., Bench],
) -> None:
    bench = make(spooled=False, policy="best_effort", queue_bytes=1_048_576, chunk_rows=10)
    bench.sender.gate.clear()
    many = range(10**17, 10**17 + 60_000)
    bench.append(1, *many)
    bench.append(2, 1, 2, 3)
    assert bench.meter.counts == {"dropped": 3}


async def test_a_sink_that_is_not_there_at_start_is_opened_later(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    bench.sender.open_error = down()
    bench.append(1, 1)
    await bench.until(lambda: bench.meter.is_up is False)
    bench.sender.open_error = None
    await bench.until(lambda: bench.settled == {1})
    assert bench.sender.delivered == ["1"]


async def test_idle_when_nothing_waits_in_memory(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.append(1, 1)
    assert not bench.runner.idle
    await bench.until(lambda: bench.runner.idle)
    assert bench.settled == {1}


async def test_a_mistake_of_the_sender_ends_the_runner_instead_of_hanging_it(
    make: Callable[..., Bench],
) -> None:
    """The shard sees `run` fail and stops; nothing of that chunk was settled."""
    bench = make()

    def broken(rows: list[str]) -> None:
        raise ZeroDivisionError("a mistake")

    bench.sender.answer = broken
    bench.append(1, 1)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(asyncio.shield(bench.task), 30)
    assert bench.settled == set()


@pytest.mark.parametrize("when", ["live", "replay"])
async def test_a_send_that_is_cancelled_from_within_ends_the_runner_instead_of_hanging_it(
    make: Callable[..., Bench], when: str
) -> None:
    """A client library that cancels its own future: nobody else would ever notice."""
    bench = make()
    bench.sender.answer = lambda rows: down()
    if when == "replay":
        bench.append(1, 1)
        await bench.until(lambda: bench.settled == {1})

    def cancelled(rows: list[str]) -> None:
        raise asyncio.CancelledError

    bench.sender.answer = cancelled
    bench.append(2, 2)
    with pytest.raises(RuntimeError, match="cancelled from within"):
        await asyncio.wait_for(asyncio.shield(bench.task), 30)


async def test_a_spool_smaller_than_a_chunk_does_not_keep_it_for_ever(
    make: Callable[..., Bench],
) -> None:
    bench = make(spool_bytes=2_000)
    bench.sender.answer = lambda rows: down()
    await bench.until(lambda: bench.meter.is_up is True)
    bench.append(1, 1)
    await bench.until(lambda: bench.runner.spooling)
    bench.append(2, *range(10**17, 10**17 + 500))
    bench.sender.answer = lambda rows: None
    await bench.until(lambda: bench.settled == {1, 2})
    await bench.until(lambda: not bench.runner.spooling)
    assert len(bench.sender.delivered) == 501


async def test_a_chunk_that_is_spooled_does_not_hold_up_a_drain(
    make: Callable[..., Bench],
) -> None:
    bench = make()
    await bench.until(lambda: bench.meter.is_up is True)
    bench.sender.gate.clear()
    bench.append(1, 1)
    await bench.until(lambda: bool(bench.sender.attempts))
    opened, bench.now = bench.now, bench.now + 5
    bench.runner.check(opened)
    await bench.until(lambda: bench.runner.idle)
    assert bench.settled == {1}


async def test_closing_ends_a_delivery_that_loses_its_cancellation(
    make: Callable[..., Bench],
) -> None:
    bench = make(spooled=False, backoff_initial=60.0, backoff_max=60.0)
    await bench.until(lambda: bench.meter.is_up is True)
    send = bench.sender.send

    async def loses_it(body: bytes, rows: int) -> Outcome:
        try:
            return await send(body, rows)
        except asyncio.CancelledError:
            raise down() from None

    bench.sender.send = loses_it  # type: ignore[assignment, method-assign]
    bench.sender.gate.clear()
    bench.append(1, 1)
    await bench.until(lambda: bool(bench.sender.attempts))
    async with asyncio.timeout(20):
        await bench.runner.close()
    assert bench.settled == set()


async def test_closing_does_not_wait_for_a_sender_that_does_not_close(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenlang_iot.sinks.runner.CLOSE_WITHIN", 0.01)
    bench = make()
    bench.sender.close = asyncio.Event().wait  # type: ignore[method-assign,assignment]
    await asyncio.wait_for(bench.runner.close(), 30)


async def test_while_spooling_rows_gather_in_one_record(make: Callable[..., Bench]) -> None:
    """Small records are slow to replay: a backlog of them would never become smaller."""
    bench = make(gather=0.1)
    bench.sender.answer = lambda rows: down()
    bench.append(1, 1)
    await bench.until(lambda: bench.settled == {1})
    for ticket in range(2, 8):
        bench.append(ticket, ticket)
        await bench.runner_turns()
    assert bench.settled == {1}
    bench.now += 0.11
    await bench.until(lambda: bench.settled == set(range(1, 8)))
    assert bench.spool is not None
    assert [record.rows for record in bench.spool.read(0)] == [1, 6]


async def test_rows_that_wait_behind_many_others_are_back_pressure_and_not_spooled(
    make: Callable[..., Bench],
) -> None:
    """Every request is answered in time: the sink is fine, the rows are only many."""
    bench = make(chunk_rows=1, in_flight=1, after=1.0)
    await bench.until(lambda: bench.meter.is_up is True)
    bench.sender.gate.clear()
    opened = bench.now
    for ticket in range(1, 5):
        bench.append(ticket, ticket)
    for answered in range(1, 5):
        await bench.until(lambda n=answered: len(bench.sender.attempts) == n)  # type: ignore[misc]
        bench.now += 0.9
        bench.runner.check(opened)
        assert not bench.runner.spooling
        bench.sender.gate.set()
        await bench.until(lambda n=answered: n in bench.settled)  # type: ignore[misc]
        bench.sender.gate.clear()
    assert bench.sender.delivered == ["1", "2", "3", "4"]
    assert "spooled" not in bench.meter.counts


async def test_a_failing_disk_does_not_hold_up_what_the_sink_takes_again(
    make: Callable[..., Bench],
) -> None:
    """Sink away, then the disk; the sink comes back and the disk does not."""
    disk = SimulatedDisk()
    bench = make(files=disk)
    bench.sender.answer = lambda rows: down()
    bench.append(1, 1)
    await bench.until(lambda: bench.settled == {1})
    disk.failing = {"write", "sync", "create"}
    bench.append(2, 2)
    assert bench.spool is not None
    await bench.until(lambda: bench.spool is not None and bench.spool.failures > 0)
    bench.append(3, 3)
    await bench.runner_turns()
    assert bench.settled == {1}
    bench.sender.answer = lambda rows: None
    await bench.until(lambda: bench.settled == {1, 2, 3})
    await bench.until(lambda: not bench.runner.spooling)
    assert bench.sender.delivered == ["1", "2", "3"]
    bench.append(4, 4)
    await bench.until(lambda: 4 in bench.settled)
    disk.failing = set()
    await bench.until(lambda: bench.spool is not None and bench.spool.last_error is None)
    assert bench.sender.delivered == ["1", "2", "3", "4"]
    assert (bench.spool.nbytes, bench.runner.backlog) == (0, 0)


async def test_a_spool_that_cannot_be_read_is_tried_again_and_nothing_of_it_given_up(
    make: Callable[..., Bench],
) -> None:
    """It ended the shard, after each restart again, until the budget of restarts was spent."""
    disk = SimulatedDisk()
    bench = make(files=disk)
    bench.sender.answer = lambda rows: down()
    bench.append(1, 1)
    await bench.until(lambda: bench.settled == {1})
    disk.failing = {"read"}
    bench.sender.answer = lambda rows: None
    with capture_logs() as told:
        await bench.until(lambda: bool(told), 0.001)
    assert [entry["event"] for entry in told] == ["the spool cannot be read; it is tried again"]
    bench.append(2, 2)
    await bench.until(lambda: bench.settled == {1, 2}, 0.001)
    assert not bench.task.done()
    disk.failing = set()
    await bench.until(lambda: not bench.runner.spooling, 0.001)
    assert bench.sender.delivered == ["1", "2"]


async def test_readings_of_a_backlog_are_counted_after_a_restart(
    make: Callable[..., Bench],
) -> None:
    first = make()
    first.sender.answer = lambda rows: down()
    first.append(1, 1, 2)
    await first.until(lambda: first.settled == {1})
    first.append(2, 3)
    await first.until(lambda: first.settled == {1, 2})
    await first.close()
    assert first.spool is not None
    second = Bench(first.spool.folder)
    second.sender.open_error = down()
    await second.until(lambda: second.meter.values.get("spool_readings") == 3)
    second.sender.open_error = None
    await second.until(lambda: not second.runner.spooling and second.runner.backlog == 0)
    second.runner.check(None)
    assert second.meter.values["spool_readings"] == 0
    await second.close()


async def test_what_waited_too_long_in_the_spool_is_counted_and_said(
    make: Callable[..., Bench], capfd: pytest.CaptureFixture[str]
) -> None:
    bench = make()
    assert bench.spool is not None
    bench.sender.answer = lambda rows: down()
    bench.append(1, 1, 2)
    await bench.until(lambda: bench.settled == {1})
    bench.spool.expired_rows = 2  # as the log does when it commits
    bench.runner.check(None)
    bench.runner.check(None)
    assert bench.meter.counts["dropped"] == 2
    assert bench.meter.values["spool_readings"] == 0
    assert "spool.max_age" in capfd.readouterr().out


async def test_a_backlog_that_cannot_be_counted_is_counted_later(
    make: Callable[..., Bench],
) -> None:
    """It ended the shard, after each restart again; and what came meanwhile was counted twice."""
    disk = SimulatedDisk()
    first = make(files=disk)
    first.sender.answer = lambda rows: down()
    first.append(1, 1, 2)
    await first.until(lambda: first.settled == {1})
    await first.close()
    assert first.spool is not None
    second = Bench(first.spool.folder, files=disk)
    disk.failing = {"read"}
    with capture_logs() as told:
        await second.until(lambda: bool(told), 0.001)
    assert [entry["event"] for entry in told] == ["the spool cannot be read; it is tried again"]
    second.sender.open_error = down()
    second.append(2, 3)
    await second.until(lambda: second.settled == {2}, 0.001)
    assert not second.task.done()
    disk.failing = set()
    await second.until(lambda: second.meter.values["spool_readings"] == 3, 0.001)
    second.sender.open_error = None
    await second.until(lambda: not second.runner.spooling, 0.001)
    assert second.sender.delivered == ["1", "2", "3"]
    second.runner.check(None)
    assert second.meter.values["spool_readings"] == 0
    await second.close()


async def test_a_sender_that_cannot_close_keeps_neither_the_spool_open_nor_the_shard_from_its_end(
    make: Callable[..., Bench],
) -> None:
    """The lake says so where its last sync fails; the drain ended there with a stack trace."""
    bench = make()

    async def close() -> None:
        raise SinkError("the lake is not synced", reason="disk")

    bench.sender.close = close  # type: ignore[method-assign]
    with capture_logs() as told:
        await bench.runner.close()
    assert [(entry["event"], entry["why"]) for entry in told] == [
        ("the sink was not closed in order", "the lake is not synced")
    ]
    assert bench.spool is not None
    assert bench.spool._closed
