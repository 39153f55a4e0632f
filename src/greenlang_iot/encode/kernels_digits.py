"""Decimal integers, eight digits a step. Writers may spill up to 7 bytes past what they return."""

import numpy as np

from greenlang_iot.model.batches import U8
from greenlang_iot.model.jit import fused

SPILL = 7
_MINUS = 45
_EIGHT = 100_000_000
_ASCII_ZEROS = np.uint64(0x3030_3030_3030_3030)


@fused
def put_word(word: np.uint64, out: U8, at: int) -> None:
    """Eight bytes, the least significant first (LLVM makes one store of them)."""
    a = np.uint64(at)
    out[a] = word & np.uint64(255)
    out[a + np.uint64(1)] = (word >> np.uint64(8)) & np.uint64(255)
    out[a + np.uint64(2)] = (word >> np.uint64(16)) & np.uint64(255)
    out[a + np.uint64(3)] = (word >> np.uint64(24)) & np.uint64(255)
    out[a + np.uint64(4)] = (word >> np.uint64(32)) & np.uint64(255)
    out[a + np.uint64(5)] = (word >> np.uint64(40)) & np.uint64(255)
    out[a + np.uint64(6)] = (word >> np.uint64(48)) & np.uint64(255)
    out[a + np.uint64(7)] = word >> np.uint64(56)


@fused
def _eight_digits(number: int) -> np.uint64:
    """The digits of `number` < 10**8, zero padded, as bytes: halves of 4, 2 and 1 side by side."""
    u = np.uint64(number)
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
    put_word(_eight_digits(number), out, at)
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
    put_word(_eight_digits(number) >> np.uint64(64 - 8 * size), out, at)
    return at + size


@fused
def integer_size(number: int) -> int:
    """Characters of `number` in decimal (not below −2**63 + 1)."""
    sign = 0
    if number < 0:
        sign = 1
        number = -number
    if number < _EIGHT:
        return sign + _size_short(number)
    high = number // _EIGHT
    if high < _EIGHT:
        return sign + 8 + _size_short(high)
    return sign + 16 + _size_short(high // _EIGHT)


@fused
def put_integer(number: int, out: U8, at: int) -> int:
    """`number` in decimal (not below −2**63 + 1)."""
    if number < 0:
        out[at] = _MINUS
        at += 1
        number = -number
    if number < _EIGHT:
        return _put_short(number, out, at)
    high = number // _EIGHT
    low = number - high * _EIGHT
    if high < _EIGHT:
        at = _put_short(high, out, at)
    else:
        top = high // _EIGHT
        at = _put_short(top, out, at)
        at = put_eight_digits(high - top * _EIGHT, out, at)
    return put_eight_digits(low, out, at)
