"""The detector of a shard: state rows, the scoring kernel, the second stage, silence."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from greenlang_iot.detect import checkpoint, kernels, kernels_arrival, kernels_lanes, state
from greenlang_iot.detect.checkpoint import Snapshot
from greenlang_iot.detect.limits import limits
from greenlang_iot.detect.outlook import outlook
from greenlang_iot.detect.river_bank import RiverBank
from greenlang_iot.detect.silence import NextLook
from greenlang_iot.model.batches import I64, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Silences, Standing
from greenlang_iot.model.pieces import Body
from greenlang_iot.settings.model import DetectSettings


class Detector:
    """Scores batches and remembers per series what is normal and what came lately.

    time_scale: seconds of event time per second of wall time (a replay may run faster).
    Deterministic: the same batches in the same order give the same scores, whatever their size
    (with a second stage: from the moment it is loaded).
    """

    def __init__(
        self, directory: Directory, settings: DetectSettings, time_scale: float = 1.0
    ) -> None:
        self.settings = settings
        self._directory = directory
        self._time_scale = time_scale
        self._rows = state.unheard(directory.n_series)
        self._limits = limits(directory, settings.threshold, settings.second_stage.enabled)
        self._siblings = state.strangers(self._compared())
        self._room = kernels_lanes.room()
        self._bank = RiverBank(settings.second_stage)
        self._next_look = NextLook()
        self._paused_ns = 0  # wall time that did not count, all in all
        self._heard_ns = 0  # input clock of the newest batch
        self._started: int | None = None  # input clock of the first look for silence

    def load_second_stage(self) -> None:
        """Import river (takes seconds; may run in a thread); until then its work is SHED."""
        if self.settings.second_stage.enabled:
            self._bank.load()

    @property
    def observations(self) -> int:
        """What the second stage has looked at since the start."""
        return self._bank.observations

    @property
    def models(self) -> int:
        """Second-stage models held now."""
        return self._bank.models

    def score(self, batch: ReadingBatch) -> ScoreBatch:
        """Score a batch row by row; sets the duplicate bits in `batch.flags`."""
        n = batch.n
        self._heard_ns = max(self._heard_ns, batch.received_ns - self._paused_ns)
        score, expected, band, z, change = np.empty((5, n), np.float32)
        detector, verdict = np.empty((2, n), np.uint8)
        scores = ScoreBatch(n, score, detector, verdict, expected, band)
        if not self.settings.enabled:
            for column in (score, detector, verdict):
                column[:] = 0
            for column in (expected, band):
                column[:] = np.nan
            self._recognise(batch)
            return scores
        kernels.score_batch(  # which writes every row of them
            n,
            batch.series,
            batch.ts_ns,
            batch.value,
            batch.value.view(np.int64),
            batch.seq,
            batch.flags,
            batch.connection & 0xFFFFFFFF,
            batch.received_ns - self._paused_ns,
            self.settings.warmup,
            self._rows,
            state.halves(self._rows),
            state.weeks(self._rows),
            self._limits.rows,
            self._limits.kind,
            self._siblings,
            scores.score,
            scores.detector,
            scores.verdict,
            scores.expected,
            scores.band,
            z,
            change,
            *self._room,
        )
        self._bank.review(batch, scores, self._directory, self._limits, z, change)
        return scores

    def _recognise(self, batch: ReadingBatch) -> None:
        """Detection is switched off: duplicates are still recognised, nothing is judged or learnt."""
        kernels_arrival.recognise_batch(
            batch.n,
            batch.series,
            batch.ts_ns,
            batch.value,
            batch.value.view(np.int64),
            batch.seq,
            batch.flags,
            batch.connection & 0xFFFFFFFF,
            batch.received_ns - self._paused_ns,
            self._rows,
            self._limits.rows,
            self._limits.kind,
        )

    def grow(self, directory: Directory) -> None:
        """Go on with a newer Directory; known series keep their state."""
        self._next_look.forget()
        rows, known = self._rows, self._siblings
        seen = state.seen(rows)
        to, source = state.moved(seen, self._directory, directory)
        unmoved = len(to) == len(rows) and np.array_equal(to, source)
        worth = seen[source]
        to, source = to[worth], source[worth]
        if not unmoved or directory.n_series != len(rows):
            self._rows = state.unheard(directory.n_series)
            state.carry(self._rows, to, rows, source)
        self._limits = limits(
            directory, self.settings.threshold, self.settings.second_stage.enabled
        )
        self._siblings = state.strangers(self._compared())
        if unmoved and len(known) == len(self._siblings):
            self._siblings = known
        elif len(known) and len(self._siblings):
            state.carry(self._siblings, to, known, source)
        self._directory = directory
        self._bank.newest = np.zeros(directory.n_series, np.float32)  # places may have changed

    def _compared(self) -> int:
        """How many series are compared with their siblings: all, or none where no device has several metrics."""
        return len(self._limits.kind) if (self._limits.rows["metrics"] > 1).any() else 0

    def silent(self, now_ns: int, watched: npt.NDArray[np.bool_] | None = None) -> Silences:
        """Series without a reading for settings.silence_intervals expected intervals of wall time.

        Call it only while input is connected and caught up. The first call starts the clocks of
        all series, so that a start or restart has the same grace as a reading. `watched` says per
        device whether this shard is the one that listens to it (default: all).
        """
        if self._started is None:
            self._started = now_ns - self._paused_ns
        d, clock = self._directory, now_ns - self._paused_ns
        intervals = self.settings.silence_intervals
        few = self._next_look.few(clock, watched, intervals)
        found: list[tuple[npt.NDArray[np.intp], I64]] = []
        for which in self._expected_to_speak(watched) if few is None else [few]:
            interval = d.interval_ns[which]
            quiet = self._quiet(which, now_ns)
            left = (interval * intervals).astype(np.int64) - quiet
            overdue = quiet > interval * intervals
            self._next_look.note(clock, which, left, overdue, self._time_scale)
            found.append((which[overdue], (quiet - interval)[overdue]))
        series = np.concatenate([np.zeros(0, np.intp), *(one for one, _ in found)])
        beyond = np.concatenate([np.zeros(0, np.int64), *(one for _, one in found)])
        newest = state.newest(self._rows[series])
        never = newest == state.NO_TS
        last: I64 = np.where(never, 0, newest)
        return Silences(series.astype(np.int32), last, beyond, never)

    def presence(self, now_ns: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Per device: (has anything ever come, is every series overdue that has an interval)."""
        d = self._directory
        on, overdue = (np.zeros(d.n_series, np.bool_) for _ in range(2))
        for which in self._expected_to_speak():
            on[which] = True
            patience = d.interval_ns[which] * self.settings.silence_intervals
            overdue[which] = self._quiet(which, now_ns) > patience
        heard = _per_device(d, state.seen(self._rows)) > 0
        expected = _per_device(d, on)
        return heard, (expected > 0) & (_per_device(d, overdue) == expected)

    def standing(self, series: npt.NDArray[np.intp], now_ns: int) -> Standing:
        """How some series stand now, for somebody who looks at them."""
        rows, limit = state.plain(self._rows[series]), self._limits.of(series)
        expected, band = outlook(rows, limit, self.settings.warmup)
        heard = rows["heard_ns"] > 0
        return Standing(
            seen=state.seen(rows),
            last_ts=rows["last_ts"],
            last_value=rows["last_value"],
            quiet_ns=np.where(heard, self._quiet(series, now_ns), -1),
            learning=rows["n"] < self.settings.warmup,
            expected=expected,
            band=band,
        )

    def _expected_to_speak(
        self, watched: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[npt.NDArray[np.intp]]:
        """The series that have an interval, a piece at a time: of millions every column is memory."""
        d = self._directory
        for at in range(0, d.n_series, state.PIECE):
            piece = slice(at, at + state.PIECE)
            device = d.series_device[piece]
            on = (d.enabled[device] != 0) & (d.series_enabled[piece] != 0)
            on &= d.interval_ns[piece] > 0
            if watched is not None:
                on &= watched[device]
            yield np.flatnonzero(on) + at

    def _quiet(self, series: npt.NDArray[np.intp], now_ns: int) -> I64:
        """Event time since the last reading, or since the first look where there was none."""
        clock = now_ns - self._paused_ns
        started = clock if self._started is None else self._started
        heard = np.maximum(self._rows["heard_ns"][series], started)
        quiet: I64 = ((clock - heard) * self._time_scale).astype(np.int64)
        return quiet

    def quiet(self, now_ns: int) -> tuple[I64, I64]:
        """Per series: (ns without a reading, as `silent` counts them; event time of the newest, 0: none)."""
        if self._started is None:
            self._started = now_ns - self._paused_ns
        n = len(self._rows)
        quiet, last = np.empty(n, np.int64), np.empty(n, np.int64)
        for at in range(0, n, state.PIECE):
            which = np.arange(at, min(at + state.PIECE, n))
            quiet[which] = self._quiet(which, now_ns)
            newest = state.newest(self._rows[at : at + state.PIECE])
            last[which] = np.where(newest == state.NO_TS, 0, newest)
        return quiet, last

    def pause_clock(self, from_ns: int, to_ns: int) -> None:
        """Wall time between the two does not count as silence: input was away or behind."""
        self._paused_ns += max(to_ns - from_ns, 0)
        self._next_look.forget()
        latest = to_ns - self._paused_ns
        if self._heard_ns <= latest:
            return  # nothing came meanwhile
        self._heard_ns = latest
        for at in range(0, len(self._rows), state.PIECE):
            heard = self._rows["heard_ns"][at : at + state.PIECE]
            heard[heard > latest] = latest  # nothing is written where nothing changes

    def checkpoint(self) -> bytes:
        """All that was learnt and remembered; a restored Detector goes on as if nothing happened."""
        snapshot, parts = self.snapshot(), checkpoint.head()
        while not snapshot.done:
            parts += snapshot.step().parts()
        parts += checkpoint.tail(self.second_stage_memory())
        return b"".join((*parts, checkpoint.checksum(checkpoint.add(parts))))

    def snapshot(self) -> Snapshot:
        """A checkpoint that is taken in steps between batches."""
        return Snapshot(self._directory, self._rows, self._bank.newest, self._siblings)

    def second_stage_memory(self) -> dict[str, Any]:
        """What a checkpoint keeps of the second stage, as plain JSON types."""
        return self._bank.saved()

    def restore(self, blob: Body) -> int:
        """Take over a checkpoint; returns how many series. ValueError says why it is refused."""
        self._next_look.forget()
        extra, pieces = checkpoint.load(blob, self._directory)
        self._bank.restore(extra)
        if len(self._bank.newest) != self._directory.n_series:
            self._bank.newest = np.zeros(self._directory.n_series, np.float32)
        count = 0
        for saved in pieces:
            state.put(self._rows, saved.series, saved.rows)
            self._bank.newest[saved.series] = saved.newest
            if len(self._siblings):
                state.put(self._siblings, saved.series, saved.siblings)
            count += len(saved.series)
        return count


def _per_device(d: Directory, series: npt.NDArray[np.bool_]) -> I64:
    """How many of each device's series it is true for."""
    running = np.concatenate((np.zeros(1, np.int64), np.cumsum(series, dtype=np.int64)))
    count: I64 = running[d.series_start[1:]] - running[d.series_start[:-1]]
    return count
