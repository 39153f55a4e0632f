"""What a series does at the same time of every day is no news: a nightly job, a morning's flush.

One habit is remembered per series: the time of day of its last anomaly that was news, on how many days it came
there, and how strong it was. From the fourth day on an anomaly of that time is told at once, unless it is
stronger by more than a decade. Anomalies at other times make a habit doubtful, and after a week without
it, it is forgotten. What is told by a habit counts for it: it lasts as long as it comes.
"""

from typing import Any

from greenlang_iot.model.jit import leaf

Row = Any
"""One record of Rows: a view, so what is assigned to its fields stays."""

MINUTE_NS = 60_000_000_000
DAY_MINUTES = 1_440
NEAR_MINUTES = 60
"""How far from the usual time of day an anomaly still belongs to the habit."""
DAYS = 3
"""Days on which it came before that make it a habit."""
MOST_DAYS = 7
APART_HOURS = 12
"""What comes again sooner is the same occurrence."""
FORGOTTEN_HOURS = 180
EIGHTHS = 8
"""Scores are kept in whole eighths of a decade."""
STRONGER = 8
FADES = 2
"""Eighths that the remembered strength loses a day."""
MOST_EIGHTHS = 255


@leaf
def minutes_off(row: Row, ts: int) -> int:
    """How far after the habit's time of day this is, or before it."""
    minute = (ts // MINUTE_NS) % DAY_MINUTES
    off = minute - int(row["habit_minute"]) + DAY_MINUTES // 2
    return off % DAY_MINUTES - DAY_MINUTES // 2


@leaf
def is_rest(row: Row, ts: int) -> bool:
    """Is this a known habit of today that is not over yet?"""
    today = ts // (60 * MINUTE_NS) - int(row["habit_hour"]) < APART_HOURS
    return row["habit_days"] >= DAYS and today and abs(minutes_off(row, ts)) <= NEAR_MINUTES


@leaf
def is_habit(row: Row, ts: int, score: float) -> bool:
    """Is this anomaly, which would be news, what the series does at this time of day? Learns from it."""
    minute = (ts // MINUTE_NS) % DAY_MINUTES
    hour = ts // (60 * MINUTE_NS)
    eighths = int(min(score * EIGHTHS, float(MOST_EIGHTHS)))
    since = hour - int(row["habit_hour"])
    days, peak = int(row["habit_days"]), int(row["habit_peak"])
    if since > FORGOTTEN_HOURS:
        days = 0
    off = minutes_off(row, ts)
    if days == 0 or abs(off) > NEAR_MINUTES:
        if days > 1:
            row["habit_days"] = days - 1
            return False
        row["habit_minute"] = minute
        row["habit_hour"] = hour
        row["habit_days"] = 1
        row["habit_peak"] = eighths
        return False
    known = days >= DAYS and eighths <= peak + STRONGER
    if since >= APART_HOURS:
        row["habit_minute"] = (int(row["habit_minute"]) + off // 2) % DAY_MINUTES
        row["habit_hour"] = hour
        row["habit_days"] = min(days + 1, MOST_DAYS)
        row["habit_peak"] = max(eighths, peak - FADES)
    return known
