"""Logarithm and exponential in a few multiplications, for kernels that need several of them a reading.

libm's are calls, at which every register is saved; these are inlined. They are exact to about 1e-10, a
thousandth of what float32 columns keep, and use nothing but additions, multiplications and one
division, so that compiled and plain Python agree bit for bit.
"""

import struct  # noqa: I001 (`jit` first: numba reads where its cache is when it is imported)
from typing import Any

from greenlang_iot.model.jit import fused

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

_ROOT_HALF_BITS = 0x3FE6A09E667F3BCD
"""Bits of the square root of a half: mantissas are taken from there to twice as much."""
_MANTISSA = 52
_BIAS = 1023
LN2 = 0.6931471805599453
PER_LN2 = 1.4426950408889634


def bits_of(x: float) -> int:
    """The bits of a float64."""
    result: int = struct.unpack("<q", struct.pack("<d", x))[0]
    return result


def float_of(bits: int) -> float:
    """The float64 that has these bits."""
    result: float = struct.unpack("<d", struct.pack("<q", bits))[0]
    return result


def _typed_bits(_: Any, x: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


def _typed_float(_: Any, bits: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


_bits = intrinsic(_typed_bits)
_float = intrinsic(_typed_float)


# numba wants the names and the (missing) annotations of both functions alike.
def _compile_bits(x):  # type: ignore[no-untyped-def]
    return lambda x: _bits(x)


def _compile_float(bits):  # type: ignore[no-untyped-def]
    return lambda bits: _float(bits)


overload(bits_of, inline="never")(_compile_bits)
overload(float_of, inline="never")(_compile_float)


@fused
def log(x: float) -> float:
    """Natural logarithm of x; 1e-300 < x < 1e308."""
    bits = bits_of(x)
    power = (bits - _ROOT_HALF_BITS) >> _MANTISSA
    m = float_of(bits - (power << _MANTISSA))
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11)))))
    return LN2 * power + 2.0 * s * series


@fused
def exp(x: float) -> float:
    """e to the power of x; 0 <= x < 700."""
    power = int(x * PER_LN2 + 0.5)
    r = x - LN2 * power
    series = 1.0 + r * (
        1 / 2
        + r
        * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720 + r * (1 / 5040 + r * (1 / 40320))))))
    )
    return (1.0 + r * series) * float_of((power + _BIAS) << _MANTISSA)


@fused
def exp_down(x: float) -> float:
    """e to the power of −x, exact to about 1e-13; 0 <= x < 700."""
    power = int(x * PER_LN2 + 0.5)
    r = LN2 * power - x
    series = 1 / 40320 + r * (1 / 362880 + r * (1 / 3628800 + r * (1 / 39916800)))
    series = 1 / 24 + r * (1 / 120 + r * (1 / 720 + r * (1 / 5040 + r * series)))
    series = 1.0 + r * (1 / 2 + r * (1 / 6 + r * series))
    return (1.0 + r * series) * float_of((_BIAS - power) << _MANTISSA)
