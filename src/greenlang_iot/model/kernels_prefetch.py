"""`prefetch`: ask for a cache line that a kernel needs some rows later.

Devices come in random order, so every table row is a cache miss, and on a busy machine a miss costs
more than all the work on a reading. Asked for AHEAD rows before, the misses of many rows overlap.
"""

from functools import partial
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


def prefetch_far(array: npt.NDArray[Any], at: int, line: int = 0) -> None:
    """Likewise, into the second level of caches only.

    For more lines at a time than the first level waits for (some two dozen), after which it holds up everything else.
    """


def _asking(level: int, context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Code for it; level: 3, into all caches, or 2."""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    i32 = ir.IntType(32)
    row = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
    pointer = builder.gep(row, [builder.mul(arguments[2], ir.IntType(64)(64))])
    name = builder.module.declare_intrinsic(
        "llvm.prefetch",
        [pointer.type],
        ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32]),
    )
    builder.call(name, [pointer, i32(0), i32(level), i32(1)])  # for reading, data
    return context.get_dummy_value()


def _typed_prefetch(_: Any, array: Any, at: Any, line: Any) -> Any:
    return types.void(array, types.int64, types.int64), partial(_asking, 3)


def _typed_prefetch_far(_: Any, array: Any, at: Any, line: Any) -> Any:
    return types.void(array, types.int64, types.int64), partial(_asking, 2)


_prefetch = intrinsic(_typed_prefetch)
_prefetch_far = intrinsic(_typed_prefetch_far)


# numba wants the names and the (missing) annotations of both functions alike.
def _compile_prefetch(array, at, line=0):  # type: ignore[no-untyped-def]
    return lambda array, at, line=0: _prefetch(array, at, line)


def _compile_prefetch_far(array, at, line=0):  # type: ignore[no-untyped-def]
    return lambda array, at, line=0: _prefetch_far(array, at, line)


overload(prefetch, inline="never")(_compile_prefetch)
overload(prefetch_far, inline="never")(_compile_prefetch_far)
