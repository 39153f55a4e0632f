"""From what happens in a shard to the cells of the catalogue: once per batch or chunk, never per row."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from greenlang_iot.model import flags
from greenlang_iot.model.batches import Decoded, FrameBatch, ScoreBatch
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.model.reasons import Reason
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.pipeline import StageSeconds

_FLAG_CELLS = (
    (flags.DUPLICATE, cell("readings_duplicate")),
    (flags.REPLAYED, cell("readings_replayed")),
    (flags.TS_COLLISION, cell("readings_ts_collision")),
    (flags.LATE, cell("readings_late")),
    (flags.RETAINED, cell("readings_retained")),
    (flags.CLOCK_SUSPECT, cell("readings_clock_suspect")),
)
_VERDICT_CELLS = (
    (flags.SUSPECT, cell("scores_suspect")),
    (flags.LEARNING, cell("scores_learning")),
    (flags.SECOND_STAGE, cell("second_stage_scores")),
    (flags.SHED, cell("second_stage_shed")),
)
_FRAME_CELLS = ((flags.FRAME_RETAIN, cell("messages_retained")),)
_RECEIVED = cell("messages_received")
_BYTES = cell("received_bytes")
_GAPS = cell("sparkplug_missing_messages")
_REBIRTHS = cell("sparkplug_rebirth_requests")
_DECODED_MESSAGES = cell("messages_decoded")
_FAST = cell("messages_fast")
_READINGS = cell("readings_decoded")
_BATCHES = cell("batches")
_BATCH_MESSAGES = cell("batch_messages")
_ACKS = cell("acks_sent")
_ACK_SECONDS = cell("ack_seconds")
_PROCESS_SECONDS = cell("process_seconds")
_STAGES = tuple(cell("stage_seconds", stage=stage) for stage in StageSeconds._fields)
_LAST_MESSAGE = cell("last_message_age_seconds")
_or = np.bitwise_or.reduce


class BatchMeter:
    """The pipeline's meter."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def batch(
        self, frames: FrameBatch, decoded: Decoded, scores: ScoreBatch, seconds: StageSeconds
    ) -> None:
        counters = self._counters
        n = decoded.readings.n
        add = counters.add
        add(_RECEIVED, frames.n)
        add(_BYTES, frames.nbytes)
        add(_DECODED_MESSAGES, decoded.messages - decoded.undecodable)
        add(_FAST, decoded.fast)
        add(_BATCHES)
        add(_PROCESS_SECONDS, sum(seconds))
        for histogram, took in zip(_STAGES, seconds, strict=True):
            counters.observe(histogram, took, frames.n)
        counters.observe(_BATCH_MESSAGES, frames.n)
        counters.touch(_LAST_MESSAGE)
        if decoded.gaps:
            add(_GAPS, decoded.gaps)
        if decoded.publications:
            add(_REBIRTHS, len(decoded.publications))
        self._columns(frames.flags[: frames.n], _FRAME_CELLS)
        rejected = self._rejects(decoded) if decoded.rejects else 0
        add(_READINGS, n + rejected)
        if n:
            self._columns(decoded.readings.flags[:n], _FLAG_CELLS)
            self._columns(scores.verdict[:n], _VERDICT_CELLS)

    def _columns(self, column: np.ndarray, cells: tuple[tuple[int, int], ...]) -> None:
        seen = _or(column, initial=0)
        if seen:
            for bit, index in cells:
                if seen & bit:
                    self._counters.add(index, int(np.count_nonzero(column & bit)))

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
