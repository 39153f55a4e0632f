"""From what happens in a shard to the cells of the catalogue: once per batch or chunk, never per row."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from greenlang_iot.model import flags
from greenlang_iot.model.batches import I64, Decoded, FrameBatch, ScoreBatch
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.model.reasons import Reason
from greenlang_iot.observe.catalog import METRICS, cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.pipeline import StageSeconds
from greenlang_iot.runtime.kernels_meter import BITS, count_batch

_FRAME_CELLS = {flags.FRAME_RETAIN: "messages_retained"}
_FLAG_CELLS = {
    flags.DUPLICATE: "readings_duplicate",
    flags.REPLAYED: "readings_replayed",
    flags.TS_COLLISION: "readings_ts_collision",
    flags.LATE: "readings_late",
    flags.RETAINED: "readings_retained",
    flags.CLOCK_SUSPECT: "readings_clock_suspect",
}
_VERDICT_CELLS = {
    flags.SUSPECT: "scores_suspect",
    flags.LEARNING: "scores_learning",
    flags.SECOND_STAGE: "second_stage_scores",
    flags.SHED: "second_stage_shed",
}
_BATCHES = cell("batches")
_GAPS = cell("sparkplug_missing_messages")
_REBIRTHS = cell("sparkplug_rebirth_requests")
_ACKS = cell("acks_sent")
_ACK_SECONDS = cell("ack_seconds")
_LAST_MESSAGE = cell("last_message_age_seconds")


def _by_bit(names: dict[int, str]) -> list[int]:
    return [cell(names[1 << bit]) if 1 << bit in names else -1 for bit in range(BITS)]


_LAYOUT: I64 = np.array(
    [
        cell("messages_received"),
        cell("received_bytes"),
        cell("messages_decoded"),
        cell("messages_fast"),
        cell("readings_decoded"),
        cell("process_seconds"),
        *(cell("stage_seconds", stage=stage) for stage in StageSeconds._fields),
        cell("batch_messages"),
        *_by_bit(_FRAME_CELLS),
        *_by_bit(_FLAG_CELLS),
        *_by_bit(_VERDICT_CELLS),
    ],
    np.int64,
)
"""As `kernels_meter.count_batch` takes it."""
_STAGE_BOUNDS = np.array(METRICS["stage_seconds"].buckets)
_BATCH_BOUNDS = np.array(METRICS["batch_messages"].buckets, np.float64)


class BatchMeter:
    """The pipeline's meter."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def batch(
        self, frames: FrameBatch, decoded: Decoded, scores: ScoreBatch, seconds: StageSeconds
    ) -> None:
        counters, readings = self._counters, decoded.readings
        rejected = self._rejects(decoded) if decoded.rejects else 0
        count_batch(
            counters.cells,
            _LAYOUT,
            _STAGE_BOUNDS,
            _BATCH_BOUNDS,
            frames.n,
            frames.nbytes,
            decoded.messages - decoded.undecodable,
            decoded.fast,
            readings.n + rejected,
            *seconds,
            frames.flags,
            readings.flags,
            scores.verdict,
        )
        counters.add(_BATCHES)
        counters.touch(_LAST_MESSAGE)
        if decoded.gaps:
            counters.add(_GAPS, decoded.gaps)
        if decoded.publications:
            counters.add(_REBIRTHS, len(decoded.publications))

    def _rejects(self, decoded: Decoded) -> int:
        reasons = Counter(reason for reject in decoded.rejects for _, reason in reject.paths)
        readings = 0
        for reason, count in reasons.items():
            if Reason(reason).is_message:
                self._counters.add(cell("messages_undecodable", reason=reason), count)
            else:
                self._counters.add(cell("readings_rejected", reason=reason), count)
                readings += count
        return readings

    def transitions(self, transitions: Sequence[Transition]) -> None:
        for item in transitions:
            self._counters.add(cell("alert_transitions", state=item.state, severity=item.severity))

    def acked(self, messages: int, seconds: float) -> None:
        self._counters.add(_ACKS, messages)
        self._counters.observe(_ACK_SECONDS, seconds, messages)


class SinkMeter:
    """A runner's meter. beside: gauges of other spools of this sink, which are added to its own."""

    def __init__(self, counters: Counters, sink: str) -> None:
        self.counters = counters
        self.sink = sink
        self.beside: list[dict[str, float]] = []
        names = (
            "sink_delivered_readings",
            "sink_refused_readings",
            "sink_spooled_readings",
            "sink_chunks",
            "sink_sent_bytes",
            "sink_request_seconds",
            "sink_answer_seconds",
            "sink_up",
            "sink_queue_readings",
            "sink_queue_bytes",
            "sink_in_flight_chunks",
            "sink_spool_readings",
            "sink_spool_records",
            "sink_spool_bytes",
            "sink_spool_full",
        )
        self._cell = {name: cell(name, sink=sink) for name in names}

    def requested(self, seconds: float) -> None:
        self.counters.observe(self._cell["sink_request_seconds"], seconds)

    def delivered(self, rows: int, size: int) -> None:
        add = self.counters.add
        add(self._cell["sink_delivered_readings"], rows)
        add(self._cell["sink_chunks"])
        add(self._cell["sink_sent_bytes"], size)

    def answered(self, rows: int, seconds: float) -> None:
        self.counters.observe(self._cell["sink_answer_seconds"], seconds, rows)

    def refused(self, rows: int) -> None:
        self.counters.add(self._cell["sink_refused_readings"], rows)

    def spooled(self, rows: int) -> None:
        self.counters.add(self._cell["sink_spooled_readings"], rows)

    def dropped(self, rows: int) -> None:
        self.counters.add(cell("sink_dropped_readings", sink=self.sink), rows)

    def retried(self, reason: str) -> None:
        self.counters.add(cell("sink_retries", sink=self.sink, reason=reason))

    def up(self, is_up: bool) -> None:
        self.counters.set(self._cell["sink_up"], float(is_up))

    def gauges(self, values: dict[str, float]) -> None:
        """Set `sink_<name>` gauges: queue_readings, queue_bytes, spool_bytes, …"""
        for name, value in values.items():
            others = sum(other.get(name, 0.0) for other in self.beside)
            self.counters.set(self._cell[f"sink_{name}"], value + others)
