"""Pieces of a JSON scanner. Each takes a position and returns the position behind what it read, or −1
for anything it does not take: not only what is wrong, also what is merely unusual.

A piece reads at most 63 bytes beyond `end`; its caller checks that what was read ended before `end`.
"""

import numpy as np

from greenlang_iot.model.batches import U8
from greenlang_iot.model.jit import fused, leaf
from greenlang_iot.model.kernels_words import load8, load64, peek, signed, trailing_zeros

_LOW7 = np.uint64(0x7F7F_7F7F_7F7F_7F7F)
_HIGH1 = np.uint64(0x8080_8080_8080_8080)
_PRINTABLE = np.uint64(0x6060_6060_6060_6060)  # added to a byte below 0x20 it leaves the high bit 0
_QUOTES = np.uint64(0x2222_2222_2222_2222)
_BACKSLASHES = np.uint64(0x5C5C_5C5C_5C5C_5C5C)
_NOTHING = np.uint64(0)
_TEN = np.uint64(10)
_BYTE = np.uint64(0xFF)
_8 = np.uint64(8)

ANY_TEXT = _NOTHING
"""For `text_end`: bytes from 0x80 on pass; the caller compares the text with one known to be UTF-8."""
ASCII_TEXT = _HIGH1
"""For `text_end`: bytes from 0x80 on are not taken."""

_WORD4 = np.uint64(0xFFFF_FFFF)

_POWERS = np.array([float(f"1e{i}") for i in range(23)])  # exact in float64
_EXACT = 2**53
_WHOLE_POWERS = 10 ** np.arange(10, dtype=np.int64)

_ZEROS = np.uint64(0x3030_3030_3030_3030)
_ABOVE9 = np.uint64(0x7676_7676_7676_7676)  # added to 7 bits of a byte it sets the 8th from 10 on
_EVEN_BYTES = np.uint64(0x00FF_00FF_00FF_00FF)
_EVEN_PAIRS = np.uint64(0x0000_FFFF_0000_FFFF)
_HUNDRED = np.uint64(100)
_TEN4 = np.uint64(10_000)
_16 = np.uint64(16)
_32 = np.uint64(32)
_64 = np.uint64(64)


@fused
def skip_space(buffer: U8, i: int, end: int) -> int:
    """The first position from `i` on that is not insignificant whitespace (`end` at most)."""
    while True:
        c = load8(buffer, i)
        if c > 32 or i >= end or not (c == 32 or c == 10 or c == 13 or c == 9):
            return i
        i += 1


@fused
def plain_end(buffer: U8, i: int, end: int, refuse: np.uint64) -> int:
    """The first position from `i` on of a quote, backslash, control character or refused bit, or ≥ `end`."""
    while i < end:
        word = load64(buffer, i)
        low = word & _LOW7
        no_quote = ((word ^ _QUOTES) & _LOW7) + _LOW7 | (word ^ _QUOTES)
        no_backslash = ((word ^ _BACKSLASHES) & _LOW7) + _LOW7 | (word ^ _BACKSLASHES)
        no_control = low + _PRINTABLE | word
        stop = (~(no_quote & no_backslash & no_control) & _HIGH1) | (word & refuse)
        if stop != _NOTHING:
            return i + (trailing_zeros(stop) >> 3)
        i += 8
    return i


@fused
def text_end(buffer: U8, i: int, end: int, refuse: np.uint64) -> int:
    """Position of the closing quote of a string without escapes whose first character is at `i`."""
    i = plain_end(buffer, i, end, refuse)
    return i if i < end and load8(buffer, i) == 34 else -1


@fused
def digits8(buffer: U8, i: int) -> tuple[int, int]:
    """(how many of the 8 bytes at `i` are digits before the first other one, their value)."""
    x = load64(buffer, i) ^ _ZEROS
    others = ((x & _LOW7) + _ABOVE9 | x) & _HIGH1
    n = trailing_zeros(others) >> 3
    if n == 0:
        return 0, 0
    x = x << np.uint64(64 - 8 * n)  # the last digit to the last byte, zeros before the first one
    pairs = (x * _TEN + (x >> _8)) & _EVEN_BYTES
    fours = (pairs * _HUNDRED + (pairs >> _16)) & _EVEN_PAIRS
    return n, signed((fours & _WORD4) * _TEN4 + (fours >> _32))


@fused
def digits(buffer: U8, i: int) -> tuple[int, int]:
    """(how many digits from `i` on, their value); more than 24 count as 24.

    The value is right for up to 18 digits, and for 19 that begin with 1 to 8.
    """
    n, value = digits8(buffer, i)
    if n == 8:
        more, low = digits8(buffer, i + 8)
        n, value = 8 + more, value * int(peek(_WHOLE_POWERS, more)) + low
        if more == 8:
            more, low = digits8(buffer, i + 16)
            n += more
            if more < 3 or (more == 3 and load8(buffer, i) < 57):
                value = value * int(peek(_WHOLE_POWERS, more)) + low
    return n, value


@fused
def number(buffer: U8, i: int, end: int) -> tuple[int, int, int, bool, bool]:
    """(position, mantissa, exponent of ten, has a fraction or exponent, is negative).

    Takes up to 18 digits in all (an integer: 19 below 9e18) and an exponent of up to 3.
    """
    negative = load8(buffer, i) == 45
    if negative:
        i += 1
    n, mantissa = digits(buffer, i)
    c = load8(buffer, i)
    if n == 0 or (n > 1 and c == 48) or n > 19 or (n == 19 and c == 57):
        return -1, 0, 0, False, False
    i += n
    c = load8(buffer, i)
    real = c == 46
    exponent = 0
    if real:
        more, low = digits(buffer, i + 1)
        if more == 0 or n + more > 18:
            return -1, 0, 0, False, False
        if more < 10:
            mantissa = mantissa * int(peek(_WHOLE_POWERS, more)) + low
        else:
            mantissa = (
                mantissa * int(peek(_WHOLE_POWERS, 9)) * int(peek(_WHOLE_POWERS, more - 9)) + low
            )
        exponent = -more
        i += more + 1
        c = load8(buffer, i)
    if c | 32 == 101:
        real = True
        i, power = _exponent(buffer, i + 1, end)
        exponent += power
    return i, mantissa, exponent, real, negative


@leaf
def _exponent(buffer: U8, i: int, end: int) -> tuple[int, int]:
    """(position, power) of the part of a number behind its `e`."""
    sign = 1
    c = load8(buffer, i)
    if c == 45 or c == 43:
        sign = 44 - c
        i += 1
    n, power = digits(buffer, i)
    return (i + n, sign * power) if 0 < n <= 3 else (-1, 0)


@fused
def to_float(mantissa: int, exponent: int, real: bool, negative: bool) -> tuple[bool, float]:
    """(whether it can be converted here, the nearest float64), as Clinger's fast path does.

    Both factors are exact, so that the one operation rounds correctly. `-0` is left out, because
    orjson reads it as the integer 0.
    """
    if real:
        if mantissa > _EXACT or exponent > 22 or exponent < -22:
            return False, 0.0
        value = float(mantissa)
        value = (
            value * float(peek(_POWERS, exponent))
            if exponent >= 0
            else value / float(peek(_POWERS, -exponent))
        )
    else:
        if negative and mantissa == 0:
            return False, 0.0
        value = float(mantissa)
    return True, -value if negative else value


@fused
def epoch_ns(mantissa: int, exponent: int, real: bool, negative: bool) -> int:
    """An epoch time's unit follows from its magnitude (see `timestamps`); ns, or −1."""
    if negative:
        return -1
    if real:
        good, seconds = to_float(mantissa, exponent, real, negative)
        if not good or seconds >= 9e9:
            return -1
        return int(np.rint(seconds * 1e6)) * 1000
    if mantissa < 100_000_000_000:
        return mantissa * 1_000_000_000 if mantissa < 9_000_000_000 else -1
    if mantissa < 100_000_000_000_000:
        return mantissa * 1_000_000 if mantissa < 9_000_000_000_000 else -1
    if mantissa < 100_000_000_000_000_000:
        return mantissa * 1_000 if mantissa < 9_000_000_000_000_000 else -1
    return mantissa


# Digits (F) and separators of "YYYY-MM-", "DDThh:mm" and ":ss", first byte lowest.
_D1, _S1 = np.uint64(0x000F_0F00_0F0F_0F0F), np.uint64(0x2D30_302D_3030_3030)
_D2, _S2 = np.uint64(0x0F0F_000F_0F00_0F0F), np.uint64(0x3030_3A30_3054_3030)
_D3, _S3 = np.uint64(0x0000_0000_000F_0F00), np.uint64(0x0000_0000_0030_303A)
_D6, _S6 = np.uint64(0x0000_0F0F_000F_0F00), np.uint64(0x0000_3030_3A30_3000)  # "?hh:mm"
_24BITS = np.uint64(0xFF_FFFF)
_6BYTES = np.uint64(0xFFFF_FFFF_FF00)
_SIXES = np.uint64(0x0606_0606_0606_0606)  # added to a byte below 16 it reaches 16 from 10 on
_HIGH4 = np.uint64(0xF0F0_F0F0_F0F0_F0F0)


@fused
def _pairs(word: np.uint64, digits: np.uint64, shape: np.uint64) -> tuple[bool, np.uint64]:
    """(whether `word` has digits and separators as in `shape`, ten × each byte + the next)."""
    x = word ^ shape
    if x & ~digits != _NOTHING or (x + _SIXES) & _HIGH4 != _NOTHING:
        return False, _NOTHING
    return True, x * _TEN + (x >> _8)


@fused
def _byte(word: np.uint64, number: int) -> int:
    return signed((word >> np.uint64(8 * number)) & _BYTE)


@fused
def _days(year: int, month: int, day: int) -> int:
    """Days since 1970 of a date from 1970 to 2261, or −1 where there is no such date."""
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if month < 1 or month > 12 or day < 1 or year < 1970 or year > 2261:
        return -1
    length = (28 + leap) if month == 2 else 30 + ((month + (month >> 3)) & 1)
    if day > length:
        return -1
    y = year - (month <= 2)  # years begin in March, so that the leap day is the last one
    m = month + 9 if month <= 2 else month - 3
    return y * 365 + y // 4 - y // 100 + y // 400 + (153 * m + 2) // 5 + day - 719_469


@fused
def iso_ns(buffer: U8, i: int) -> tuple[int, int]:
    """(position behind the closing quote, ns since 1970) of an ISO 8601 time with `T` from 1970 on."""
    good1, a = _pairs(load64(buffer, i), _D1, _S1)
    good2, b = _pairs(load64(buffer, i + 8), _D2, _S2)
    good3, s = _pairs(load64(buffer, i + 16) & _24BITS, _D3, _S3)
    if not (good1 and good2 and good3):
        return -1, 0
    days = _days(_byte(a, 0) * 100 + _byte(a, 2), _byte(a, 5), _byte(b, 0))
    hour, minute, second = _byte(b, 3), _byte(b, 6), _byte(s, 1)
    if days < 0 or hour > 23 or minute > 59 or second > 59:
        return -1, 0
    seconds = days * 86_400 + hour * 3600 + minute * 60 + second
    i += 19
    fraction = 0
    c = load8(buffer, i)
    if c == 46:
        n, fraction = digits(buffer, i + 1)
        if n == 0 or n > 9:
            return -1, 0
        fraction *= int(peek(_WHOLE_POWERS, 9 - n))
        i += n + 1
        c = load8(buffer, i)
    if c == 90:
        i += 1
    elif c == 43 or c == 45:
        good, offset = _pairs(load64(buffer, i) & _6BYTES, _D6, _S6)
        if not good or _byte(offset, 1) > 23 or _byte(offset, 4) > 59:
            return -1, 0
        shift = _byte(offset, 1) * 3600 + _byte(offset, 4) * 60
        seconds += shift if c == 45 else -shift
        i += 6
    if load8(buffer, i) != 34:
        return -1, 0
    return i + 1, seconds * 1_000_000_000 + fraction
