"""Columns → one Arrow IPC stream per chunk, for the lake. Pure.

The columns are the fields of a Kafka reading record (docs/schemas/reading-v1.json); texts are
dictionary-encoded, so that a row costs four bytes per text column.
"""

import numpy as np
import pyarrow as pa

from greenlang_iot.model.batches import F32, F64, I32, I64, U8, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.model.flags import DUPLICATE, HAS_SEQ, LEARNING, SHED, SUSPECT

_TEXT = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("org", _TEXT, nullable=False),
        pa.field("site", _TEXT, nullable=False),
        pa.field("device", _TEXT, nullable=False),
        pa.field("type", _TEXT, nullable=False),
        pa.field("metric", _TEXT, nullable=False),
        pa.field("unit", _TEXT, nullable=False),
        pa.field("ts", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("seq", pa.int64()),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("verdict", _TEXT, nullable=False),
        pa.field("shed", pa.bool_(), nullable=False),
    ],
    metadata={"v": "1"},
)
"""ts: event time, ns since 1970-01-01 UTC. score in [0, 1]. verdict: ok, suspect, learning."""

_VERDICTS = pa.array(["ok", "suspect", "learning"])
_ROW_BYTES = 64
_WHOLE_DICTIONARY = 256
"""A text column with at most so many texts is written with all of them."""


class ArrowEncoder:
    """The open chunk of the lake (model.protocols.OpenChunk)."""

    def __init__(self, directory: Directory) -> None:
        self.rows = 0
        self._series: list[I32] = []
        self._ts: list[I64] = []
        self._value: list[F64] = []
        self._seq: list[I64] = []
        self._no_seq: list[U8] = []
        self._score: list[F32] = []
        self._verdict: list[U8] = []
        self.grow(directory)

    @property
    def size(self) -> int:
        return self.rows * _ROW_BYTES

    def grow(self, directory: Directory) -> None:
        """Go on with a newer Directory in which known series keep their index."""
        self._device = directory.series_device
        self._of_device = {
            "org": (_strings(directory.org), directory.org_of),
            "site": (_strings(directory.site), directory.site_of),
            "type": (_strings(directory.type), directory.type_of),
        }
        self._of_series = {
            "device": (_strings(directory.device), directory.series_device),
            "metric": (_strings(directory.metric), directory.series_metric),
            "unit": (_strings(directory.unit), directory.series_unit),
        }

    def append(self, batch: ReadingBatch, scores: ScoreBatch) -> int:
        """Copy the batch's readings, but for duplicates; return how many."""
        n = batch.n
        keep = np.flatnonzero((batch.flags[:n] & DUPLICATE) == 0)
        if len(keep) == 0:
            return 0
        self._series.append(batch.series[keep])
        self._ts.append(batch.ts_ns[keep])
        self._value.append(batch.value[keep])
        self._seq.append(batch.seq[keep])
        self._no_seq.append(((batch.flags[keep] & HAS_SEQ) == 0).view(np.uint8))
        self._score.append(scores.score[keep])
        self._verdict.append(scores.verdict[keep])
        self.rows += len(keep)
        return len(keep)

    def seal(self) -> bytes:
        """The chunk as an Arrow IPC stream of one record batch; the open chunk is empty again."""
        series = _joined(self._series, np.int32)
        verdict = _joined(self._verdict, np.uint8)
        columns: dict[str, pa.Array] = {
            name: _dictionary(codes[rows], texts)
            for rows, group in ((series, self._of_series), (self._device[series], self._of_device))
            for name, (texts, codes) in group.items()
        }
        columns["ts"] = pa.array(_joined(self._ts, np.int64))
        columns["value"] = pa.array(_joined(self._value, np.float64))
        columns["seq"] = pa.array(
            _joined(self._seq, np.int64), mask=_joined(self._no_seq, np.uint8).view(np.bool_)
        )
        columns["score"] = pa.array(share(_joined(self._score, np.float32)))
        columns["verdict"] = pa.DictionaryArray.from_arrays(pa.array(_words(verdict)), _VERDICTS)
        columns["shed"] = pa.array((verdict & SHED) != 0)
        self.rows = 0
        batch = pa.record_batch([columns[name] for name in SCHEMA.names], schema=SCHEMA)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(batch)
        body: bytes = sink.getvalue().to_pybytes()
        return body


def share(score: F32) -> F64:
    """Scores of a batch (−log10 of the tail share) as scores in [0, 1]: 1 − 10**−score."""
    found: F64 = -np.expm1(score.astype(np.float64) * -np.log(10.0))
    return found


def _words(verdict: U8) -> I32:
    """Index into `_VERDICTS`; LEARNING outranks SUSPECT."""
    suspect = (verdict & SUSPECT) != 0
    return np.where((verdict & LEARNING) != 0, 2, suspect).astype(np.int32)


def _joined(parts: list, dtype: type) -> np.ndarray:  # type: ignore[type-arg]
    """The parts as one array; the list is empty afterwards."""
    whole = np.concatenate(parts) if parts else np.zeros(0, dtype)
    parts.clear()
    return whole


def _strings(texts: Texts) -> pa.Array:
    """The texts without a copy of their bytes."""
    off = texts.off.astype(np.int32)
    return pa.StringArray.from_buffers(len(texts), pa.py_buffer(off), pa.py_buffer(texts.blob))


def _dictionary(codes: I32, texts: pa.Array) -> pa.Array:
    """A dictionary column; of many texts only those that occur are written."""
    if len(texts) <= _WHOLE_DICTIONARY:
        return pa.DictionaryArray.from_arrays(pa.array(codes), texts)
    seen = np.zeros(len(texts), np.bool_)
    seen[codes] = True
    present = np.flatnonzero(seen)
    place = np.zeros(len(texts), np.int32)
    place[present] = np.arange(len(present), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(place[codes]), texts.take(pa.array(present)))
