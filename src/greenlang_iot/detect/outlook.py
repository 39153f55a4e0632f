"""What a series would be expected to say next, for whoever looks at it. Pure.

The same sums as `kernels_judge.judge`, for many series at once and without learning: the two are held
together by a test.
"""

import numpy as np

from greenlang_iot.detect.kernels_context import LOG10E
from greenlang_iot.detect.kernels_lanes import (
    DOUBTED,
    HEAVIER,
    LIGHTEST,
    MAX_REACH,
    NEW_ROWS,
    SIGMA,
    TAIL_FROM,
    TAIL_SCORE,
    TWO,
    USUAL_BELIEF,
    USUAL_BELIEVED,
    USUAL_LIGHT,
)
from greenlang_iot.detect.kernels_tail import START
from greenlang_iot.detect.limits import COUNTER, RESOLUTION
from greenlang_iot.detect.state import GAUSS_TAIL, Rows
from greenlang_iot.model.batches import F64


def outlook(rows: Rows, limits: Rows, warmup: int) -> tuple[F64, F64]:
    """(expected, band) per row, in the value's unit; NaN while learning, and for counters.

    A counter's expectation is one of its increase: it depends on when the next reading comes.
    """
    level = rows["level"] + rows["drift"].astype(np.float64)
    floor = np.where(limits["floor"] == 0.0, RESOLUTION * np.abs(level), limits["floor"])
    sigma = np.maximum(SIGMA * rows["spread"], floor)
    weight = LIGHTEST + HEAVIER * np.maximum(rows["spike_tail"].astype(np.float64) - GAUSS_TAIL, 0)
    new = np.where(limits["threshold"] <= DOUBTED, 1.0 - rows["seen"] / NEW_ROWS, 0.0)
    weight *= 1.0 + 0.5 * np.maximum(new, 0.0) ** 2
    decades = np.maximum(_raised(rows, limits["threshold"].astype(np.float64)) - TAIL_SCORE, 0.0)
    band = sigma * TAIL_FROM * np.exp(np.minimum(weight * decades / LOG10E, MAX_REACH))
    unknown = (rows["n"] < warmup) | ((limits["detectors"] & COUNTER) != 0)
    return np.where(unknown, np.nan, level), np.where(unknown, np.nan, band)


def _raised(rows: Rows, score: F64) -> F64:
    """The raw scores of spikes and shifts that are worth these (`kernels_tail.raised`)."""
    belief = np.minimum(rows["seen"] / USUAL_BELIEVED, USUAL_BELIEF)
    start = rows["usual_start"].astype(np.float64) - TWO
    worth = USUAL_LIGHT / rows["usual_excess"].astype(np.float64)
    below = 1.0 - belief + belief * START / start
    above = 1.0 - belief + belief * worth
    raw = np.where(
        score > below * start, (score - belief * (START - start * worth)) / above, score / below
    )
    return np.maximum(score, raw)
