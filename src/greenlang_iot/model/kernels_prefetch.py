"""`prefetch`: ask for a cache line that a kernel needs some rows later.

Devices come in random order, so every table row is a cache miss, and on a busy machine a miss costs
more than all the work on a reading. Asked for AHEAD rows before, the misses of many rows overlap.
"""

from typing import Any

import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, overload

AHEAD = 8
"""Rows between asking for a table's line and using it; what leads to the line is asked for earlier."""


def prefetch(array: npt.NDArray[Any], at: int, line: int = 0) -> None:
    """Load the cache line of `array[at]` in the background, or the `line`th after it.

    Any position is allowed.
    """


def _typed_prefetch(_: Any, array: Any, at: Any, line: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        i32 = ir.IntType(32)
        row = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        pointer = builder.gep(row, [builder.mul(arguments[2], ir.IntType(64)(64))])
        name = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [pointer.type],
            ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32]),
        )
        builder.call(name, [pointer, i32(0), i32(3), i32(1)])  # for reading, into all levels, data
        return context.get_dummy_value()

    return types.void(array, types.int64, types.int64), generate


_prefetch = intrinsic(_typed_prefetch)


# numba wants the names and the (missing) annotations of both functions alike.
def _compile_prefetch(array, at, line=0):  # type: ignore[no-untyped-def]
    return lambda array, at, line=0: _prefetch(array, at, line)


overload(prefetch, inline="never")(_compile_prefetch)
