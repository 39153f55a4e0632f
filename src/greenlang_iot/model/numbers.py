"""Readings that no message brought: those of the past, and simulated ones."""

import numpy as np

from greenlang_iot.model.batches import F64, I32, I64, ReadingBatch
from greenlang_iot.model.flags import HAS_SEQ


def batch_of_numbers(
    series: I32, ts_ns: I64, value: F64, *, seq: I64 | None = None, received_ns: int = 0
) -> ReadingBatch:
    """Their columns as a batch without texts, on connection 1.

    series, ts_ns, value: contiguous, of equal length, kept and not copied. seq: of each reading, or None.
    received_ns: wall clock, ns since 1970.
    """
    n = len(series)
    nothing = np.zeros(0, np.uint8)
    return ReadingBatch(
        n=n,
        series=series,
        ts_ns=ts_ns,
        value=value,
        seq=np.zeros(n, np.int64) if seq is None else seq,
        flags=np.full(n, 0 if seq is None else HAS_SEQ, np.uint16),
        frame=np.zeros(n, np.int32),
        text_off=np.zeros(n, np.int32),
        text_len=np.zeros(n, np.int16),
        buffer=nothing,
        arena=nothing,
        connection=1,
        received_ns=received_ns,
    )
