"""Hand-made batches for unit tests, built without frames."""

from collections.abc import Sequence

import numpy as np

from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.flags import HAS_SEQ

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def readings(
    series: Sequence[int],
    ts_ns: Sequence[int],
    value: Sequence[float],
    *,
    seq: Sequence[int] | None = None,
    flags: Sequence[int] | None = None,
    connection: int = 1,
    received_ns: int = 0,
) -> ReadingBatch:
    """A ReadingBatch of these columns; `seq` sets HAS_SEQ on every row."""
    n = len(series)
    bits = np.array(flags if flags is not None else [0] * n, np.uint16)
    if seq is not None:
        bits |= np.uint16(HAS_SEQ)
    nothing = np.zeros(0, np.uint8)
    return ReadingBatch(
        n=n,
        series=np.array(series, np.int32),
        ts_ns=np.array(ts_ns, np.int64),
        value=np.array(value, np.float64),
        seq=np.array(seq if seq is not None else [0] * n, np.int64),
        flags=bits,
        frame=np.zeros(n, np.int32),
        text_off=np.zeros(n, np.int32),
        text_len=np.zeros(n, np.int16),
        buffer=nothing,
        arena=nothing,
        connection=connection,
        received_ns=received_ns,
    )


def scores(
    score: Sequence[float],
    detector: Sequence[int],
    verdict: Sequence[int],
    *,
    expected: float = 61.04,
    band: float = 2.2,
) -> ScoreBatch:
    """A ScoreBatch of these columns, with one expectation for all rows."""
    n = len(score)
    return ScoreBatch(
        n=n,
        score=np.array(score, np.float32),
        detector=np.array(detector, np.uint8),
        verdict=np.array(verdict, np.uint8),
        expected=np.full(n, expected, np.float32),
        band=np.full(n, band, np.float32),
    )
