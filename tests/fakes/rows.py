"""ReadingBatches and ScoreBatches from plain lists, for sinks that store rows."""

import numpy as np

from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.flags import HAS_SEQ

SLACK = np.zeros(64, np.uint8)


def readings(
    series: list[int],
    ts_ns: list[int],
    values: list[float],
    seqs: list[int | None] | None = None,
    flags: list[int] | None = None,
) -> ReadingBatch:
    """A ReadingBatch without texts; `flags` come on top of HAS_SEQ where there is a seq."""
    n = len(series)
    given = seqs if seqs is not None else [None] * n
    return ReadingBatch(
        n=n,
        series=np.array(series, np.int32),
        ts_ns=np.array(ts_ns, np.int64),
        value=np.array(values, np.float64),
        seq=np.array([0 if s is None else s for s in given], np.int64),
        flags=np.array(
            [
                (0 if s is None else HAS_SEQ) | f
                for s, f in zip(given, flags or [0] * n, strict=True)
            ],
            np.uint16,
        ),
        frame=np.arange(n, dtype=np.int32),
        text_off=np.zeros(n, np.int32),
        text_len=np.zeros(n, np.int16),
        buffer=SLACK,
        arena=SLACK,
        connection=1,
        received_ns=0,
    )


def scores(scores: list[float], verdicts: list[int] | None = None) -> ScoreBatch:
    """A ScoreBatch without expectations."""
    n = len(scores)
    return ScoreBatch(
        n=n,
        score=np.array(scores, np.float32),
        detector=np.zeros(n, np.uint8),
        verdict=np.array(verdicts or [0] * n, np.uint8),
        expected=np.full(n, np.nan, np.float32),
        band=np.full(n, np.nan, np.float32),
    )
