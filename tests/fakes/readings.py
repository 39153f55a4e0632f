"""Hand-made batches for unit tests, built without frames."""

from collections.abc import Sequence

import numpy as np

from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.flags import HAS_SEQ
from greenlang_iot.model.numbers import batch_of_numbers

SECOND = 1_000_000_000
MINUTE = 60 * SECOND


def readings(
    series: Sequence[int],
    ts_ns: Sequence[int],
    value: Sequence[float],
    *,
    seq: Sequence[int | None] | None = None,
    flags: Sequence[int] | None = None,
    connection: int = 1,
    received_ns: int = 0,
) -> ReadingBatch:
    """A ReadingBatch of these columns, without texts. flags: besides HAS_SEQ where a row has a seq."""
    batch = batch_of_numbers(
        np.array(series, np.int32),
        np.array(ts_ns, np.int64),
        np.array(value, np.float64),
        received_ns=received_ns,
    )
    batch.connection = connection
    if flags is not None:
        batch.flags[:] = flags
    for row, number in enumerate(seq or ()):
        if number is not None:
            batch.seq[row] = number
            batch.flags[row] |= HAS_SEQ
    return batch


def scores(
    score: Sequence[float],
    detector: Sequence[int] | None = None,
    verdict: Sequence[int] | None = None,
    *,
    expected: float = 61.04,
    band: float = 2.2,
) -> ScoreBatch:
    """A ScoreBatch of these columns (zeros where there is none), with one expectation for all rows."""
    n = len(score)
    return ScoreBatch(
        n=n,
        score=np.array(score, np.float32),
        detector=np.array(detector or [0] * n, np.uint8),
        verdict=np.array(verdict or [0] * n, np.uint8),
        expected=np.full(n, expected, np.float32),
        band=np.full(n, band, np.float32),
    )
