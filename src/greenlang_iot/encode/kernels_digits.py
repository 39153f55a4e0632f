"""Decimal integers, eight digits a step. Writers may spill up to 7 bytes past what they return."""

import numpy as np

from greenlang_iot.model.batches import U8
from greenlang_iot.model.jit import fused
from greenlang_iot.model.kernels_words import poke, signed, store64

SPILL = 7
_MINUS = 45
_EIGHT = 100_000_000
_ASCII_ZEROS = np.uint64(0x3030_3030_3030_3030)
_NINETEEN = 10**18
_E8, _E16 = np.uint64(10**8), np.uint64(10**16)
_40 = np.uint64(40)


@fused
def _digits8(u: np.uint64) -> np.uint64:
    """The digits of a number < 10**8, zero padded, as bytes: halves of 4, 2 and 1 side by side."""
    high = u // np.uint64(10_000)
    u = high | ((u - high * np.uint64(10_000)) << np.uint64(32))
    high = ((u * np.uint64(10_486)) >> np.uint64(20)) & np.uint64(0x0000_007F_0000_007F)
    u = high | ((u - high * np.uint64(100)) << np.uint64(16))
    high = ((u * np.uint64(103)) >> np.uint64(10)) & np.uint64(0x000F_000F_000F_000F)
    u = high | ((u - high * np.uint64(10)) << np.uint64(8))
    return u + _ASCII_ZEROS


@fused
def put_eight_digits(number: int, out: U8, at: int) -> int:
    """`number` < 10**8, zero padded."""
    store64(_digits8(np.uint64(number)), out, at)
    return at + 8


@fused
def _size_short(number: int) -> int:
    """Digits of `number` < 10**8."""
    return (
        1
        + (number >= 10)
        + (number >= 100)
        + (number >= 1_000)
        + (number >= 10_000)
        + (number >= 100_000)
        + (number >= 1_000_000)
        + (number >= 10_000_000)
    )


@fused
def _put_short(number: int, out: U8, at: int) -> int:
    size = _size_short(number)
    store64(_digits8(np.uint64(number)) >> np.uint64(64 - 8 * size), out, at)
    return at + size


@fused
def _split(number: int) -> tuple[int, int]:
    """(all but the last eight digits, those) of a number ≥ 0."""
    u = np.uint64(number)
    high = u // _E8
    return signed(high), signed(u - high * _E8)


@fused
def integer_size(number: int) -> int:
    """Characters of `number` in decimal (not below −2**63 + 1)."""
    if number >= _NINETEEN:
        return 19
    sign = 0
    if number < 0:
        sign = 1
        number = -number
    if number < _EIGHT:
        return sign + _size_short(number)
    high = _split(number)[0]
    if high < _EIGHT:
        return sign + 8 + _size_short(high)
    return sign + 16 + _size_short(_split(high)[0])


@fused
def put_integer(number: int, out: U8, at: int) -> int:
    """`number` in decimal (not below −2**63 + 1)."""
    if number >= _NINETEEN:  # a time stamp since 2001
        u = np.uint64(number)
        top = u // _E16
        u -= top * _E16
        high = u // _E8
        store64(_digits8(top) >> _40, out, at)
        store64(_digits8(high), out, at + 3)
        store64(_digits8(u - high * _E8), out, at + 11)
        return at + 19
    if number < 0:
        poke(out, at, _MINUS)
        at += 1
        number = -number
    if number < _EIGHT:
        return _put_short(number, out, at)
    high8, low = _split(number)
    if high8 < _EIGHT:
        at = _put_short(high8, out, at)
    else:
        top8, middle = _split(high8)
        at = _put_short(top8, out, at)
        at = put_eight_digits(middle, out, at)
    return put_eight_digits(low, out, at)
