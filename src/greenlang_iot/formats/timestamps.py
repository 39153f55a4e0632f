"""`ts` of a payload → ns since 1970 (int64).

Text: ISO 8601 as in RFC 3339, `2024-05-01T12:34:56[.123456789][Z|±hh:mm|±hhmm|±hh]`, with `T`, `t` or
a blank between date and time, `.` or `,` before 1–9 digits of the fraction; no offset means UTC. The leap
second 23:59:60 UTC is the second after it, as in POSIX time.

Number: an epoch time whose unit follows from its magnitude: below 1e11 seconds, below 1e14 ms,
below 1e17 µs, else ns (1e11 is the year 5138 in seconds and 1973 in ms). An integer is exact;
a number with a fraction or an exponent is rounded to the µs, which is what a float64 holds today.

An `Instant` is what CBOR and MessagePack, which have times of their own, say a time is.

Times that int64 cannot hold (before 1678, after 2261) are invalid.
"""

import re
from datetime import date

_ISO = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?"
    r"(?:[Zz]|([+-])(\d\d)(?::?(\d\d))?)?",
    re.ASCII,
)
_EPOCH = date(1970, 1, 1).toordinal()
_LIMIT = 2**63


class Instant(int):
    """ns since 1970, of any size, of a format with a type for times; as a value it is no number."""


def parse_ts(ts: object) -> int | None:
    """ns since 1970, or None where `ts` (as orjson reads it, or an Instant) is no time."""
    if type(ts) is str:
        ns = _iso(ts)
    elif type(ts) is int:
        ns = ts * _ns_per_unit(ts)
    elif type(ts) is float:
        us_per_unit = _ns_per_unit(ts) / 1000
        ns = round(ts * us_per_unit) * 1000
    elif type(ts) is Instant:
        ns = int(ts)
    else:
        return None
    return ns if ns is not None and -_LIMIT <= ns < _LIMIT else None


def _ns_per_unit(number: float) -> int:
    size = abs(number)
    if size < 1e11:
        return 1_000_000_000
    if size < 1e14:
        return 1_000_000
    return 1_000 if size < 1e17 else 1


def _iso(text: str) -> int | None:
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, offset_h, offset_m = match.groups()
    try:
        days = date(int(year), int(month), int(day)).toordinal() - _EPOCH
    except ValueError:
        return None
    h, m, s = int(hour), int(minute), int(second)
    off_h, off_m = int(offset_h or 0), int(offset_m or 0)
    if h > 23 or m > 59 or s > 60 or off_h > 23 or off_m > 59:
        return None
    seconds = days * 86_400 + h * 3600 + m * 60 + s
    offset = off_h * 3600 + off_m * 60
    seconds += offset if sign == "-" else -offset
    if s == 60 and seconds % 86_400:
        return None
    return seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))
