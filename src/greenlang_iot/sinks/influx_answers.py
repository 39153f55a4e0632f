"""What an answer of InfluxDB's write API means, and which lines it refused (pure).

| answer | what was written | what to do |
|---|---|---|
| 204 | all | done |
| 400 with a line of ours named | nothing (1.x: the rest) | refuse the named lines, send the rest again |
| 422; 1.x: 400 `partial write` | the rest | send parts again (idempotent) until the lines are known |
| 413 | nothing | send smaller bodies |
| 429, 503, other 5xx | nothing | wait (Retry-After), try again |
| 401, 403, 404 and what is no answer of InfluxDB | nothing | the sink is down, no line is to blame |

`dropped=` may be too small (only one shard's or one reason's count is told), never too large, so it
only proves something when it names every line.
"""

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from enum import Enum

from greenlang_iot.model.errors import SinkError
from greenlang_iot.sinks.influx_http import Answer

LONGEST_WAIT = 300.0
"""Seconds of a Retry-After that are waited at most: who says more, a proxy in maintenance, is asked again."""


class Verdict(Enum):
    """What an answer says of one body."""

    DONE = "done"
    REFUSED = "refused"  # some lines of the body are refused; the others are to be sent again
    TOO_LARGE = "too_large"


# Any other 400 is about the request (or a proxy's): no reason to refuse readings.
_ABOUT_LINES = re.compile("unable to parse|partial write|time outside range|line protocol")


def judge(answer: Answer, now: float) -> Verdict:
    """The verdict on one written body; SinkError where no line is to blame.

    now: wall clock in seconds, for a Retry-After that is a date.
    """
    status = answer.status
    if status == 204:  # a 200 is a proxy's, or a login page: nothing is written
        return Verdict.DONE
    if status in (400, 422) and _ABOUT_LINES.search(answer.error or ""):
        return Verdict.REFUSED
    if status == 413:
        return Verdict.TOO_LARGE
    if status == 500 and "unable to read data" in answer.message:
        raise SinkError(
            f"InfluxDB could not read the body: {answer.message}",
            reason="unreadable",
            retryable=False,
        )
    if status in (408, 429) or status >= 500:
        raise SinkError(
            f"InfluxDB answered {status}: {answer.message}",
            reason=f"http_{status}",
            retry_after=retry_after(answer.headers, now),
        )
    reason = {401: "unauthorized", 403: "forbidden", 404: "not_found"}.get(status, f"http_{status}")
    raise SinkError(f"InfluxDB answered {status}: {answer.message}", reason=reason, down=True)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, from a Retry-After in seconds or as an HTTP date; None without a usable one."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return min(float(value), LONGEST_WAIT)
    try:
        until = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=dt.UTC)
    return min(max(0.0, until.timestamp() - now), LONGEST_WAIT)


def sort_out(
    message: str, lines: Sequence[bytes]
) -> tuple[list[tuple[bytes, str]], list[list[bytes]]]:
    """Who is to blame for a refused body of these lines.

    Returns the refused lines, each with InfluxDB's words, and the parts to send again (each smaller
    than `lines`, so that this ends).
    """
    if len(lines) == 1 or dropped(message) == len(lines):
        return [(line, message) for line in lines], []
    named = named_lines(message)
    bound = retention_bound(message)
    refused, rest = [], []
    for line in lines:
        words = named.get(line.decode(errors="replace"))
        stamp = _TIME.search(line)
        if words is None and bound is not None and stamp and int(stamp[1]) < bound:
            words = message
        if words is None:
            rest.append(line)
        else:
            refused.append((line, words))
    if refused:
        return refused, [rest] if rest else []
    return [], _parts(message, lines)


def halves(lines: Sequence[bytes]) -> list[list[bytes]]:
    middle = len(lines) // 2
    return [list(lines[:middle]), list(lines[middle:])]


_NAMED = re.compile(r"(?:^|\n)(?:partial write: )?unable to parse '")


def named_lines(message: str) -> dict[str, str]:
    """The lines that a parse error echoes (several are joined by newlines), each with its reason."""
    found = {}
    for part in _NAMED.split(message)[1:]:
        line, quote, reason = part.rpartition("': ")
        if quote:
            found[line] = f"unable to parse: {reason}"
    return found


_DROPPED = re.compile(r"dropped=(\d{1,18})(?!\d)")


def dropped(message: str) -> int | None:
    """How many points a partial write says it dropped."""
    found = _DROPPED.findall(message)
    return int(found[-1]) if found else None


_TIME = re.compile(rb" (-?\d{1,19})$")
_BOUND = re.compile(
    r"Retention Policy Lower Bound at (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z"
)


def retention_bound(message: str) -> int | None:
    """Points before this time (ns) were refused as past the bucket's retention; None if not told."""
    found = _BOUND.findall(message)
    if not found:
        return None
    second, fraction = found[-1]
    try:
        whole = int(dt.datetime.fromisoformat(f"{second}+00:00").timestamp())
    except ValueError:
        return None
    return whole * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)


_CONFLICT = re.compile(r'input field "((?:[^"\\]|\\.)*)" on measurement')


def _parts(message: str, lines: Sequence[bytes]) -> list[list[bytes]]:
    """Two smaller bodies: lines with the field in conflict apart from the others, else halves."""
    conflict = _CONFLICT.search(message)
    if conflict is not None:
        field = re.sub(r"([,= ])", r"\\\1", conflict[1]).encode() + b"="
        marks = (b" " + field, b"," + field)
        having = [line for line in lines if any(mark in line for mark in marks)]
        if 0 < len(having) < len(lines):
            others = [line for line in lines if not any(mark in line for mark in marks)]
            return [others, having]
    return halves(lines)
