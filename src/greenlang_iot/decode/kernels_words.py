"""What numba has no name for: unchecked loads of one byte and of 8 unaligned ones, trailing zeros.

All are plain Python functions with an overload for compiled code, so that `NUMBA_DISABLE_JIT=1`
runs the same kernels.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

from greenlang_iot.model.batches import U8
from greenlang_iot.model.jit import fused


def load8(buffer: U8, at: int) -> int:
    """The byte at `at`; unlike `buffer[at]` without a test for a negative index."""
    return int(buffer[at])


def load64(buffer: U8, at: int) -> np.uint64:
    """The 8 bytes at `buffer[at:at + 8]`, first byte lowest.

    Compiled code checks no bounds: callers keep `at + 8` within the buffer and its SLACK.
    """
    return np.uint64(int.from_bytes(buffer[at : at + 8].tobytes(), "little"))


def trailing_zeros(word: np.uint64) -> int:
    """Number of zero bits below the lowest one bit; 64 for zero."""
    bits = int(word)
    return (bits & -bits).bit_length() - 1 if bits else 64


def _typed_load8(_: Any, buffer: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte = builder.load(builder.gep(array.data, [arguments[1]]))
        return builder.zext(byte, ir.IntType(64))

    return types.int64(buffer, types.int64), generate


def _typed_load64(_: Any, buffer: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        pointer = builder.gep(array.data, [arguments[1]])
        wide = builder.bitcast(pointer, ir.IntType(64).as_pointer())
        return builder.load(wide, align=1)

    return types.uint64(buffer, types.int64), generate


def _typed_trailing_zeros(_: Any, word: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


_load8 = intrinsic(_typed_load8)
_load64 = intrinsic(_typed_load64)
_trailing_zeros = intrinsic(_typed_trailing_zeros)


# numba wants the names and the (missing) annotations of both functions alike.
def _compile_load8(buffer, at):  # type: ignore[no-untyped-def]
    return lambda buffer, at: _load8(buffer, at)


def _compile_load64(buffer, at):  # type: ignore[no-untyped-def]
    return lambda buffer, at: _load64(buffer, at)


def _compile_trailing_zeros(word):  # type: ignore[no-untyped-def]
    return lambda word: _trailing_zeros(word)


overload(load8, inline="never")(_compile_load8)
overload(load64, inline="never")(_compile_load64)
overload(trailing_zeros, inline="never")(_compile_trailing_zeros)


@fused
def signed(word: np.uint64) -> int:
    """A word below 2⁶³ as int64 (numba would make float64 of uint64 and int64 where branches meet)."""
    return np.int64(word)  # type: ignore[return-value]
