"""The runner of one sink: it alone owns the open chunk, queue, retry and spool of that sink.

    append ─▶ open chunk ─▶ queue ─▶ send (retry, back-off, Retry-After) ─▶ settle
                              │
                              └▶ spool (fsync) ─▶ settle ─▶ replay, first in first out ─▶ release

Rules
1. A ticket is settled when its rows are delivered, fsynced in the spool, or durable dead letters.
2. Chunks grow with load: while a chunk is on its way, rows gather in the open chunk; a second chunk
   is sent beside it only when it is large. An idle sink gets what there is at the end of the loop's turn.
3. The spool takes over when the sink is known to be down, or has left a chunk unanswered for
   `spool.after` while rows older than that wait. Rows that are old only because many wait before
   them are back pressure: the sink is fine. While the spool has a backlog every chunk goes through
   it, so order per device is kept; rows gather for `spool.gather` seconds, so that replay is faster
   than what comes.
4. A chunk whose answer is still awaited when spooling starts is spooled too; if the answer then says
   delivered, its record is skipped at replay.
5. A full spool is back pressure for a required sink (rows stay unsettled) and a counted drop for a
   best-effort one.
6. What waits for a disk that fails is delivered from memory when the sink is back, and then live. What it
   cannot read is read again later: nothing is given up for that.
"""

import asyncio
import contextlib
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from greenlang_iot.model.batches import Chunk, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import SinkError
from greenlang_iot.model.outcomes import Refused
from greenlang_iot.model.protocols import OpenChunk, Sender
from greenlang_iot.settings.model import RunnerSettings, SpoolSettings
from greenlang_iot.sinks.backlog import READ_AGAIN, Backlog
from greenlang_iot.sinks.endings import end
from greenlang_iot.spool.log import SegmentLog, SpoolFull

log = structlog.get_logger(__name__)
CLOSE_WITHIN = 1.0
"""Seconds a sender gets to say goodbye: nothing depends on it."""


class Meter(Protocol):
    """What a runner reports, once per chunk."""

    def requested(self, seconds: float) -> None: ...
    def delivered(self, rows: int, size: int) -> None: ...
    def answered(self, rows: int, seconds: float) -> None: ...
    def refused(self, rows: int) -> None: ...
    def spooled(self, rows: int) -> None: ...
    def dropped(self, rows: int) -> None: ...
    def retried(self, reason: str) -> None: ...
    def up(self, is_up: bool) -> None: ...
    def gauges(self, values: dict[str, float]) -> None: ...


class Runner:
    """See the module's rules. Everything runs in the shard's loop; `append` never blocks.

    bit: this sink's bit in the ack ledger. settle(bit, first, last) releases tickets.
    refuse(refused, sink): returns when the refused lines are durable dead letters.
    """

    def __init__(
        self,
        name: str,
        bit: int,
        encoder: OpenChunk,
        sender: Sender,
        settings: RunnerSettings,
        *,
        spool: SegmentLog | None,
        spool_settings: SpoolSettings,
        settle: Callable[[int, int, int], None],
        refuse: Callable[[str, list[Refused]], Awaitable[None]],
        meter: Meter,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.bit = bit
        self.required = settings.policy == "required"
        self.down_reason: str | None = None
        self._encoder = encoder
        self._sender = sender
        self._settings = settings
        self._backlog = Backlog(name, spool) if spool is not None else None
        self._spool_settings = spool_settings
        self._settle = settle
        self._refuse = refuse
        self._meter = meter
        self._clock = clock
        self._first_ticket = 0  # tickets of the open chunk; 0 = none
        self._last_ticket = 0
        self._opened = 0.0
        self._received = 0.0  # monotonic time of receipt of the open chunk's oldest row
        self._queue: deque[Chunk] = deque()
        self._queued_bytes = 0
        self._sending: dict[int, Chunk] = {}  # by order of sending
        self._sent_at: dict[int, float] = {}  # of those: first tried when
        self._spooled_while_sending: dict[int, int] = {}  # order of sending → record number
        self._orders = 0
        self._spooling = False
        self._pump_due = False
        self._open = False
        self._closing = False
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._mistake: asyncio.Future[None] = self._loop.create_future()

    # ---- synchronous side, called by the pipeline -------------------------------------------

    def append(self, batch: ReadingBatch, scores: ScoreBatch, ticket: int, received: float) -> int:
        """Encode a batch under its ticket; return the rows added (duplicates are not).

        received: monotonic seconds when the batch came.
        """
        if not self.required and self.over_queue:
            rows = batch.n
            self._meter.dropped(rows)
            return 0
        before = self._encoder.rows
        rows = self._encoder.append(batch, scores)
        if before == 0 and rows == 0:
            # Only duplicates: the first copy's ticket comes earlier on the same connection.
            self._settle(self.bit, ticket, ticket)
            return 0
        if self._first_ticket == 0:
            self._first_ticket = ticket
            self._opened = self._clock()
            self._received = received
        self._last_ticket = ticket
        if self._large():
            self._seal()
        self._pump_soon()
        return rows

    def grow(self, directory: Directory) -> None:
        """Go on with a newer Directory in which known series keep their index."""
        self._encoder.grow(directory)

    def seal(self) -> None:
        """End the open chunk, whatever its size."""
        self._seal()
        self._pump()

    def check(self, oldest: float | None) -> None:
        """Called by the shard's tick with the opening time of the oldest unsettled ticket (rule 3)."""
        limit = self._clock() - self._spool_settings.after
        late = oldest is not None and oldest < limit and not self.idle
        if late and min(self._sent_at.values(), default=-math.inf) < limit:
            self._start_spooling("the sink leaves rows unanswered for too long")
        self._pump()
        self._report()

    @property
    def idle(self) -> bool:
        """Nothing waits in memory: every row given is settled.

        What is spooled may still be on its way: its record is replayed unless an answer comes.
        """
        if self._queue or self._encoder.rows:
            return False
        if self._backlog is not None and self._backlog.syncing:
            return False
        return all(order in self._spooled_while_sending for order in self._sending)

    @property
    def spooling(self) -> bool:
        return self._spooling

    @property
    def spool_full(self) -> bool:
        return self._spooling and bool(self._queue)

    @property
    def over_queue(self) -> bool:
        """More waits in memory than `queue_bytes`: the sockets have to pause."""
        return self.pending_bytes > self._settings.queue_bytes

    @property
    def backlog(self) -> int:
        """Records of the spool that are not delivered, an earlier process's included."""
        return self._backlog.records if self._backlog is not None else 0

    @property
    def pending_bytes(self) -> int:
        """Bytes in memory that are neither delivered nor spooled."""
        sending = sum(len(chunk.body) for chunk in self._sending.values())
        return self._queued_bytes + sending + self._encoder.size

    # ---- asynchronous side --------------------------------------------------------------------

    async def run(self) -> None:
        """Connect the sender, deliver the spool's backlog, then go live; ends at `close`.

        Raises what a sender raises that is no SinkError: a mistake, after which nothing is settled.
        """
        live = asyncio.ensure_future(self._live())
        try:
            await asyncio.wait({live, self._mistake}, return_when=asyncio.FIRST_COMPLETED)
            if live.cancelled():
                raise _cancelled(self.name)
            await (self._mistake if self._mistake.done() else live)
        finally:
            await end([live])

    async def _live(self) -> None:
        if self._backlog is not None and self._backlog.records:
            self._spooling = True
            await self._backlog.count(lambda: self._closing)
        await self._connect()
        while not self._closing:
            if self._spooling and self._backlog is not None and not self._sending:
                await self._replay(self._backlog)
            self._pump()
            await self._changed.wait()
            self._changed.clear()

    async def close(self) -> None:
        """Stop sending; what is unsettled stays unacknowledged and comes again."""
        self._closing = True
        self._changed.set()
        await end(self._tasks)
        try:
            async with asyncio.timeout(CLOSE_WITHIN):
                await self._sender.close()
        except TimeoutError:
            pass
        except SinkError as error:  # what is not settled was not acknowledged
            log.error("the sink was not closed in order", sink=self.name, why=str(error))
        if self._backlog is not None:
            await self._backlog.spool.close()

    # ---- sealing and sending ------------------------------------------------------------------

    def _large(self) -> bool:
        encoder = self._encoder
        return (
            encoder.rows >= self._settings.chunk_rows or encoder.size >= self._settings.chunk_bytes
        )

    def _seal(self) -> None:
        if self._encoder.rows == 0:
            return
        rows = self._encoder.rows
        body = self._encoder.seal()
        chunk = Chunk(body, rows, self._first_ticket, self._last_ticket, self._received)
        self._first_ticket = self._last_ticket = 0
        self._queue.append(chunk)
        self._queued_bytes += len(body)

    def _pump_soon(self) -> None:
        """When the batches of this turn of the loop are appended: one chunk, not one each."""
        if not self._pump_due:
            self._pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = False
        if self._spooling:
            self._pump_spool()
            return
        while self._open and not self._closing and len(self._sending) < self._settings.in_flight:
            if not self._queue:
                if self._encoder.rows == 0 or self._sending:
                    return  # rule 2: a small chunk waits for the answer to the one before
                self._seal()
            chunk = self._queue.popleft()
            self._queued_bytes -= len(chunk.body)
            self._orders += 1
            self._sending[self._orders] = chunk
            self._sent_at[self._orders] = self._clock()
            self._spawn(self._deliver(self._orders, chunk))

    def _spawn(self, coroutine: Awaitable[None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[None]) -> None:
        error: BaseException | None
        self._tasks.discard(task)
        if task.cancelled():
            error = None if self._closing else _cancelled(self.name)
        else:
            error = task.exception()
        if error is not None and not self._mistake.done():
            self._mistake.set_exception(error)  # not a sink's failure: `run` raises it

    async def _deliver(self, order: int, chunk: Chunk) -> None:
        backoff = self._settings.backoff_initial
        while True:
            try:
                await self._send_once(chunk)
            except SinkError as error:
                self._note_failure(error)
                if not error.retryable and not error.down:
                    await self._refuse_whole(chunk, error)
                    self._finish(order, chunk)
                    break
                if error.down:
                    self._start_spooling(str(error))
                if order in self._spooled_while_sending:
                    break  # its record is replayed
                delay, backoff = self._next_delay(backoff, error)
                await asyncio.sleep(delay)
                if order in self._spooled_while_sending:
                    break
                if self._spooling and self.backlog:
                    self._put_back(chunk)  # the spool had no room for it and holds what came before
                    break
            else:
                self._finish(order, chunk)
                break
        self._sending.pop(order, None)
        self._sent_at.pop(order, None)
        self._spooled_while_sending.pop(order, None)
        if self._spooling:
            self._changed.set()  # the replay waits for what is in flight
        self._pump()

    def _put_back(self, chunk: Chunk) -> None:
        """To its place in the queue."""
        earlier = sum(waiting.first_ticket < chunk.first_ticket for waiting in self._queue)
        self._queue.insert(earlier, chunk)
        self._queued_bytes += len(chunk.body)

    def _finish(self, order: int, chunk: Chunk) -> None:
        """The chunk needs nothing more: settle it, or skip its record when it is replayed (rule 4)."""
        record = self._spooled_while_sending.get(order)
        if record is not None and self._backlog is not None:
            self._backlog.delivered(record)
        else:
            self._settle(self.bit, chunk.first_ticket, chunk.last_ticket)

    async def _send_once(self, chunk: Chunk) -> None:
        begun = self._clock()
        try:
            outcome = await self._sender.send(chunk.body, chunk.rows)
        finally:
            self._meter.requested(self._clock() - begun)
        if outcome.refused:
            await self._refuse(self.name, outcome.refused)
            self._meter.refused(sum(item.readings for item in outcome.refused))
        self._meter.delivered(outcome.delivered, len(chunk.body))
        if chunk.received:
            self._meter.answered(chunk.rows, self._clock() - chunk.received)
        if self.down_reason is not None:
            log.info("sink is back", sink=self.name)
            self.down_reason = None
        self._meter.up(True)

    async def _refuse_whole(self, chunk: Chunk, error: SinkError) -> None:
        await self._refuse(self.name, [Refused(bytes(chunk.body), str(error), chunk.rows)])
        self._meter.refused(chunk.rows)

    def _note_failure(self, error: SinkError) -> None:
        self._meter.retried(error.reason)
        if self.down_reason is None:
            log.warning("sink failed", sink=self.name, reason=error.reason, answer=str(error))
        self.down_reason = str(error)
        self._meter.up(False)

    def _next_delay(self, backoff: float, error: SinkError) -> tuple[float, float]:
        delay = random.uniform(self._settings.backoff_initial, max(backoff * 3, 1e-3))
        delay = min(delay, self._settings.backoff_max)
        return max(delay, error.retry_after or 0.0), delay

    async def _connect(self) -> None:
        backoff = self._settings.backoff_initial
        while not self._closing:
            try:
                await self._sender.open()
            except SinkError as error:
                self._note_failure(error)
                delay, backoff = self._next_delay(backoff, error)
                await asyncio.sleep(delay)
            else:
                self._open = True
                self._meter.up(True)
                self.down_reason = None
                return

    # ---- spool --------------------------------------------------------------------------------

    def _start_spooling(self, why: str) -> None:
        if self._spooling or self._backlog is None:
            return
        self._spooling = True
        log.warning("spooling", sink=self.name, why=why)
        self._spool_sending()
        self._pump_spool()
        self._changed.set()

    def _spool_sending(self) -> bool:
        """Spool the chunks in flight, in order (rule 4); False where the spool has no room for one.

        What came after that one waits behind it, else the spool would deliver it first.
        """
        for order, chunk in sorted(self._sending.items()):
            if order not in self._spooled_while_sending:
                record = self._write(chunk)
                if record is None:
                    return False  # it stays in flight, unsettled
                self._spooled_while_sending[order] = record
        return True

    def _pump_spool(self) -> None:
        """Move the queue to the spool, and the open chunk when it has gathered for long enough.

        Records must not be small: they are replayed one by one while more rows come.
        """
        assert self._backlog is not None
        if self._backlog.syncing or self._closing:
            return
        if self._clock() - self._opened >= self._spool_settings.gather:
            self._seal()
        if not self._spool_sending():
            return
        while self._queue:
            chunk = self._queue[0]
            if self._write(chunk) is None:
                return
            self._queue.popleft()
            self._queued_bytes -= len(chunk.body)

    def _write(self, chunk: Chunk) -> int | None:
        """Append to the spool; the tickets settle after its fsync. None when it is full."""
        assert self._backlog is not None
        try:
            record = self._backlog.write(chunk)
        except SpoolFull:
            if self.required:
                return None
            self._meter.dropped(chunk.rows)
            return -1
        self._meter.spooled(chunk.rows)
        self._spawn(self._settle_when_durable(self._backlog, record, chunk))
        return record

    async def _settle_when_durable(self, backlog: Backlog, record: int, chunk: Chunk) -> None:
        await backlog.synced(record)
        self._settle(self.bit, chunk.first_ticket, chunk.last_ticket)
        self._changed.set()
        self._pump()

    async def _replay(self, backlog: Backlog) -> None:
        """Deliver the spool's records in order; go live again when none is left (rule 3)."""
        spool, pace = backlog.spool, self._spool_settings.replay_bytes_per_second
        while not self._closing:
            sent = 0
            end = spool.durable_number
            records = spool.read(spool.released + 1)
            while (record := backlog.next(records)) is not None:
                chunk = Chunk(record.body, record.rows, 1, 0, 0.0)
                if backlog.needs_replay(record.number) and not await self._replay_one(chunk):
                    return
                backlog.done(record.number, record.rows)
                self._pump_spool()
                sent += len(record.body)
                if sent > pace / 10:
                    await asyncio.sleep(sent / pace)
                    sent = 0
            if backlog.unreadable:
                await asyncio.sleep(READ_AGAIN)
                continue
            if end > spool.released:
                backlog.give_up(end)
            failing = spool.last_error is not None
            if not failing:
                self._pump_spool()
            elif not await self._deliver_unsynced(backlog):
                return
            # Neither a disk that fails nor an empty spool will ever take what is queued still.
            useless = failing or spool.nbytes == 0
            if backlog.records or ((backlog.syncing or self._queue) and not useless):
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), 0.05)
                continue
            self._spooling = False
            log.info("spool is empty, live again", sink=self.name)
            return

    async def _deliver_unsynced(self, backlog: Backlog) -> bool:
        """Deliver what waits for the disk, in order (rule 6); False when the runner closes before."""
        while (chunk := backlog.syncing.get(number := backlog.spool.released + 1)) is not None:
            if backlog.needs_replay(number) and not await self._replay_one(chunk):
                return False
            self._settle(self.bit, chunk.first_ticket, chunk.last_ticket)
            backlog.done(number, chunk.rows)
        return True

    async def _replay_one(self, chunk: Chunk) -> bool:
        """Deliver it, however long that takes; False when the runner closes before."""
        backoff = self._settings.backoff_initial
        while not self._closing:
            try:
                await self._send_once(chunk)
                return True
            except SinkError as error:
                self._note_failure(error)
                if not error.retryable and not error.down:
                    await self._refuse_whole(chunk, error)
                    return True
                delay, backoff = self._next_delay(backoff, error)
                await asyncio.sleep(delay)
        return False

    def _report(self) -> None:
        waiting = (*self._queue, *self._sending.values())
        backlog = self._backlog
        if backlog is not None and (rows := backlog.expired()):
            self._meter.dropped(rows)
        self._meter.gauges(
            {
                "queue_readings": self._encoder.rows + sum(chunk.rows for chunk in waiting),
                "queue_bytes": self.pending_bytes,
                "in_flight_chunks": len(self._sending),
                "spool_readings": backlog.rows if backlog else 0,
                "spool_records": self.backlog,
                "spool_bytes": backlog.spool.nbytes if backlog else 0,
                "spool_full": float(self.spool_full),
            }
        )


def _cancelled(sink: str) -> RuntimeError:
    """Nobody of ours did it: where it passed for an end, what was sent would wait for ever."""
    return RuntimeError(f"a send to {sink} was cancelled from within")
