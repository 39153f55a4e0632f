"""What a series is at the moment: its level, its spread, and how far the level lags behind.

They learn from what is inside (z ≤ 4), clipped at 3; what is outside is not learnt until ADOPT_AFTER readings in a
row were: then the change has lasted and becomes the new normal.
"""

from typing import Any

from greenlang_iot.detect.kernels_arrival import MAX_COUNT
from greenlang_iot.model.jit import leaf

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

ADOPT_AFTER = 60
"""Readings outside in a row after which a lasting change is the new normal."""
LEVEL_RATE = 0.15
SPREAD_RATE = 0.02
STEADY_ROWS = 50
"""Readings after which level and spread move at these rates."""
DRIFT_RATE = 0.02
WIDEST = 1e37
"""Deviations that float32 holds with room to spare."""
OTHER_RATE = 0.1
CLIP = 3.0


@leaf
def learn(row: Row, y: float, deviation: float, sigma: float) -> None:
    """Move level and spread towards a reading that is inside (or part of the warm-up)."""
    n = int(row["n"])
    step = deviation
    if n >= 8 and sigma > 0.0:
        step = min(max(deviation, -CLIP * sigma), CLIP * sigma)
    if n == 0:
        row["level"] = y
        row["spread"] = 0.0
        row["drift"] = 0.0
    else:
        drift = float(row["drift"])
        spread = float(row["spread"])
        level_rate, spread_rate = LEVEL_RATE, SPREAD_RATE
        if n < STEADY_ROWS:
            level_rate = max(1.0 / (n + 1.0), LEVEL_RATE)
            spread_rate = max(1.0 / n, SPREAD_RATE)
        row["level"] += (step + drift) * level_rate
        row["drift"] = min(max(drift + DRIFT_RATE * step, -WIDEST), WIDEST)
        row["spread"] = min(spread + (abs(step) - spread) * spread_rate, WIDEST)
    if n < MAX_COUNT:
        row["n"] = n + 1


@leaf
def stay_outside(row: Row, deviation: float) -> None:
    """Follow the readings outside; when they last, theirs becomes the baseline.

    deviation: from the expected value, which stays where it is meanwhile.
    """
    x = min(max(deviation, -WIDEST), WIDEST)
    if row["outside"] == 0:
        row["other_level"] = x
        row["other_spread"] = row["spread"]
    else:
        other, spread = float(row["other_level"]), float(row["other_spread"])
        row["other_level"] = other + OTHER_RATE * (x - other)
        row["other_spread"] = min(spread + OTHER_RATE * (abs(x - other) - spread), WIDEST)
    row["outside"] += 1
    if row["outside"] >= ADOPT_AFTER:
        row["level"] = row["level"] + row["drift"] + row["other_level"]
        row["spread"] = row["other_spread"]
        row["outside"] = 0
        row["drift"] = 0.0
        row["shift_up"] = 0.0
        row["shift_down"] = 0.0
