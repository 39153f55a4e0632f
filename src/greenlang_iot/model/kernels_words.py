"""What numba has no name for: unchecked loads and stores of one element, of 8 and of 16 unaligned
bytes, and trailing zeros.

All are plain Python functions with an overload for compiled code, so that `NUMBA_DISABLE_JIT=1`
runs the same kernels.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
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


def store64(word: np.uint64, buffer: U8, at: int) -> None:
    """`word` to `buffer[at:at + 8]`, lowest byte first; checks no bounds."""
    buffer[at : at + 8] = np.frombuffer(int(word).to_bytes(8, "little"), np.uint8)


def copy16(source: U8, start: int, buffer: U8, at: int) -> None:
    """`source[start:start + 16]` to `buffer[at:at + 16]`; checks no bounds."""
    buffer[at : at + 16] = source[start : start + 16]


def peek(array: npt.NDArray[Any], at: int) -> Any:
    """`array[at]`, without a test for a negative index."""
    return array[at]


def poke(array: npt.NDArray[Any], at: int, value: Any) -> None:
    """`array[at] = value`, without a test for a negative index."""
    array[at] = value


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


def _typed_store64(_: Any, word: Any, buffer: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[1])(context, builder, arguments[1])
        pointer = builder.gep(array.data, [arguments[2]])
        wide = builder.bitcast(pointer, ir.IntType(64).as_pointer())
        builder.store(arguments[0], wide, align=1)
        return context.get_dummy_value()

    return types.void(types.uint64, buffer, types.int64), generate


def _typed_copy16(_: Any, source: Any, start: Any, buffer: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.VectorType(ir.IntType(8), 16).as_pointer()
        kinds = signature.args
        places = [
            builder.bitcast(
                builder.gep(context.make_array(kind)(context, builder, array).data, [place]), wide
            )
            for kind, array, place in (
                (kinds[0], arguments[0], arguments[1]),
                (kinds[2], arguments[2], arguments[3]),
            )
        ]
        builder.store(builder.load(places[0], align=1), places[1], align=1)
        return context.get_dummy_value()

    return types.void(source, types.int64, buffer, types.int64), generate


def _typed_peek(_: Any, array: Any, at: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.gep(data, [arguments[1]]))

    return array.dtype(array, types.int64), generate


def _typed_poke(_: Any, array: Any, at: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store(arguments[2], builder.gep(data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(array, types.int64, array.dtype), generate


def _typed_trailing_zeros(_: Any, word: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


_load8 = intrinsic(_typed_load8)
_load64 = intrinsic(_typed_load64)
_store64 = intrinsic(_typed_store64)
_copy16 = intrinsic(_typed_copy16)
_peek = intrinsic(_typed_peek)
_poke = intrinsic(_typed_poke)
_trailing_zeros = intrinsic(_typed_trailing_zeros)


# numba wants the names and the (missing) annotations of both functions alike.
def _compile_load8(buffer, at):  # type: ignore[no-untyped-def]
    return lambda buffer, at: _load8(buffer, at)


def _compile_load64(buffer, at):  # type: ignore[no-untyped-def]
    return lambda buffer, at: _load64(buffer, at)


def _compile_store64(word, buffer, at):  # type: ignore[no-untyped-def]
    return lambda word, buffer, at: _store64(word, buffer, at)


def _compile_copy16(source, start, buffer, at):  # type: ignore[no-untyped-def]
    return lambda source, start, buffer, at: _copy16(source, start, buffer, at)


def _compile_peek(array, at):  # type: ignore[no-untyped-def]
    return lambda array, at: _peek(array, at)


def _compile_poke(array, at, value):  # type: ignore[no-untyped-def]
    return lambda array, at, value: _poke(array, at, value)


def _compile_trailing_zeros(word):  # type: ignore[no-untyped-def]
    return lambda word: _trailing_zeros(word)


overload(load8, inline="never")(_compile_load8)
overload(load64, inline="never")(_compile_load64)
overload(store64, inline="never")(_compile_store64)
overload(copy16, inline="never")(_compile_copy16)
overload(peek, inline="never")(_compile_peek)
overload(poke, inline="never")(_compile_poke)
overload(trailing_zeros, inline="never")(_compile_trailing_zeros)


@fused
def signed(word: np.uint64) -> int:
    """A word below 2⁶³ as int64 (numba would make float64 of uint64 and int64 where branches meet)."""
    return np.int64(word)  # type: ignore[return-value]
