"""Stepping over a JSON value that nobody asked for: the firmware's version, a position, a list of alarms.

As in `kernels_json`, a piece returns the position behind what it read, or −1 for what it does not take.
What is skipped is checked in full: a message is good only if all of it is JSON.
"""

import numpy as np

from greenlang_iot.decode.kernels_json import ASCII_TEXT, number, plain_end, skip_space
from greenlang_iot.decode.kernels_layouts import SKIP, mark
from greenlang_iot.model.batches import I64, U8
from greenlang_iot.model.jit import fused, leaf
from greenlang_iot.model.kernels_words import load8, load64

DEEPEST = 32
"""Levels of objects and arrays in a value that is skipped."""
_NULL = np.uint64(int.from_bytes(b"null", "little"))
_TRUE = np.uint64(int.from_bytes(b"true", "little"))
_FALS = np.uint64(int.from_bytes(b"fals", "little"))
_WORD4 = np.uint64(0xFFFF_FFFF)
_LARGEST_EXPONENT = 200  # a number of at most 19 digits stays finite below it


@leaf
def _utf8_end(buffer: U8, i: int) -> int:
    """Position behind the UTF-8 sequence of two to four bytes at `i` (Unicode's table 3-7), or −1."""
    lead = load8(buffer, i)
    second = load8(buffer, i + 1)
    low = 0xA0 if lead == 0xE0 else 0x90 if lead == 0xF0 else 0x80
    high = 0x9F if lead == 0xED else 0x8F if lead == 0xF4 else 0xBF
    if not (0xC2 <= lead <= 0xF4 and low <= second <= high):
        return -1
    size = 2 + (lead >= 0xE0) + (lead >= 0xF0)
    for k in range(2, size):
        if load8(buffer, i + k) & 0xC0 != 0x80:
            return -1
    return i + size


@leaf
def _escape_end(buffer: U8, i: int) -> int:
    """Position behind the escape whose backslash is at `i`, or −1; surrogates are not taken."""
    c = load8(buffer, i + 1)
    if c in (34, 92, 47, 98, 102, 110, 114, 116):  # " \\ / b f n r t
        return i + 2
    if c != 117:
        return -1
    code = 0
    for k in range(2, 6):
        digit = load8(buffer, i + k)
        if 48 <= digit <= 57:
            code = code * 16 + digit - 48
        elif 97 <= digit | 32 <= 102:
            code = code * 16 + (digit | 32) - 87
        else:
            return -1
    return -1 if 0xD800 <= code <= 0xDFFF else i + 6


@leaf
def skip_string(buffer: U8, i: int, end: int) -> int:
    """Position behind the string whose opening quote is at `i`."""
    i = plain_end(buffer, i + 1, end, ASCII_TEXT)
    while i < end:
        c = load8(buffer, i)
        if c == 34:
            return i + 1
        if c == 92:
            i = _escape_end(buffer, i)
        elif c >= 128:
            i = _utf8_end(buffer, i)
        else:
            return -1
        if i < 0:
            return -1
        i = plain_end(buffer, i, end, ASCII_TEXT)
    return -1


@leaf
def _skip_scalar(buffer: U8, i: int, end: int) -> int:
    """Position behind a string, number, true, false or null."""
    c = load8(buffer, i)
    if c == 34:
        return skip_string(buffer, i, end)
    if c == 45 or 48 <= c <= 57:
        i, _, exponent, _, _ = number(buffer, i, end)
        return i if -_LARGEST_EXPONENT <= exponent <= _LARGEST_EXPONENT else -1
    word = load64(buffer, i) & _WORD4
    if word == _FALS:
        return i + 5 if load8(buffer, i + 4) == 101 else -1
    return i + 4 if word in (_NULL, _TRUE) else -1


@fused
def _skip_key(buffer: U8, i: int, end: int) -> int:
    """Position of the value behind the key, colon and whitespace at `i`."""
    if i >= end or load8(buffer, i) != 34:
        return -1
    i = skip_string(buffer, i, end)
    if i < 0:
        return -1
    i = skip_space(buffer, i, end)
    return skip_space(buffer, i + 1, end) if i < end and load8(buffer, i) == 58 else -1


@leaf
def skip_value(buffer: U8, i: int, end: int, fields: I64) -> int:
    """Position behind any JSON value at most DEEPEST deep; its numbers are marked in `fields`."""
    depth = 0
    objects = 0  # a bit per level, the innermost lowest: 1 = object, 0 = array
    while i < end:
        c = load8(buffer, i)
        if c == 123 or c == 91:
            if depth == DEEPEST:
                return -1
            depth += 1
            objects = objects << 1 | (c == 123)
            i = skip_space(buffer, i + 1, end)
            if i >= end:
                return -1
            if load8(buffer, i) != c + 2:  # not empty: } and ] are two behind { and [
                if c == 123:
                    i = _skip_key(buffer, i, end)
                    if i < 0:
                        return -1
                continue
        else:
            at = i
            i = _skip_scalar(buffer, i, end)
            if i < 0:
                return -1
            if c == 45 or 48 <= c <= 57:
                mark(fields, at, i, SKIP)
            if depth == 0:
                return i
            i = skip_space(buffer, i, end)
        # what closes, and then a comma
        while i < end and load8(buffer, i) == (125 if objects & 1 else 93):
            depth -= 1
            objects >>= 1
            if depth == 0:
                return i + 1
            i = skip_space(buffer, i + 1, end)
        if i >= end or load8(buffer, i) != 44:
            return -1
        i = skip_space(buffer, i + 1, end)
        if objects & 1:
            i = _skip_key(buffer, i, end)
            if i < 0:
                return -1
    return -1
