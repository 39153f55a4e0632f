"""Is an anomaly news? After a suspect reading the next ones are TOLD, until the series was quiet for a while."""

from typing import Any

from greenlang_iot.model.flags import DETECTOR_STUCK
from greenlang_iot.model.jit import fused, leaf

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

QUIET_SHARE = 0.06  # of the readings seen
QUIET_LEAST = 25.0
QUIET_MOST = 140.0
QUIET_AFTER_HABIT = 12
"""And what is told because it comes every day: a nightly job must not hide what comes hours later."""

TOLD_BELOW = 0.3
"""Share of the threshold that the score of what is told stays below it at most: the stranger it is, the less."""


@fused
def told_score(score: float, threshold: float) -> float:
    """The score of what is told, from what it would be as news: below the threshold, so that it opens nothing, but above
    nearly all that is normal, and in the order of how strange it is. A ranking of readings by score finds the whole anomaly."""
    return threshold * (1.0 - TOLD_BELOW * threshold / score)


FARTHER_BY = 3.0
"""Times as far from its level as the outlier before that what is told must be to open an alert all the same."""


@leaf
def is_farther(row: Row, deviation: float) -> bool:
    """Is this much farther off than the readings outside before it, which may have begun the quiet time? Asked before the row
    knows of it; of a run of readings outside only the first one is."""
    first: bool = row["outside"] == 0
    return first and abs(deviation) >= FARTHER_BY * abs(float(row["other_level"]))


@leaf
def is_told(row: Row, suspect: bool, detector: int, score: float, threshold: float) -> bool:
    """Is this anomaly no news? Every suspect reading prolongs the quiet time of its series."""
    if detector == DETECTOR_STUCK:
        # news in the moment in which the run becomes too long
        return suspect and score * (row["run"] - 2.0) >= threshold * (row["run"] - 1.0)
    if suspect:
        return was_quiet(row)
    if row["quiet"] > 0:
        row["quiet"] -= 1
    return False


@leaf
def was_quiet(row: Row) -> bool:
    """Begin or prolong the quiet time of a series; was it one already?"""
    quiet = int(row["quiet"])
    row["quiet"] = int(min(max(QUIET_SHARE * row["seen"], QUIET_LEAST), QUIET_MOST))
    return quiet > 0
