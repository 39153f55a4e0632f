"""The one place where numba's flags are set.

A kernel is a flat function over contiguous 1-D arrays: no classes, dicts, strings or clocks, and
the caller passes the output arrays. `NUMBA_DISABLE_JIT=1` runs every kernel as plain Python, so
kernels that wrap around (hashes, CRC) must mask explicitly.

Never `fastmath`: NaN from a sensor must survive. Never `parallel`: a shard owns one core.
"""

import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from greenlang_iot.model.imports import import_without
from greenlang_iot.model.kernel_cache import CACHE_FOLDER, FLAGS, drop_damaged

P = ParamSpec("P")
R = TypeVar("R")

drop_damaged()
os.environ["NUMBA_CACHE_DIR"] = str(CACHE_FOLDER)

# numba looks whether SciPy could multiply matrices for it: 0.2 s at every start, for no kernel of ours
import_without("numba.np.arraymath", "scipy.linalg.cython_blas")
# and whether somebody's C functions are called by kernels, with a parser of C
import_without("numba.core.typing.cffi_utils", "cffi")
import numba  # noqa: E402  (numba reads NUMBA_CACHE_DIR when it is imported)

JIT_DISABLED = bool(numba.config.DISABLE_JIT)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call (from the cache where it is there)."""
    compiled: Callable[P, R] = numba.njit(**FLAGS)(function)
    return compiled


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A small piece called by kernels of the same room; LLVM inlines it."""
    compiled: Callable[P, R] = numba.njit(**FLAGS, inline="never")(function)
    return compiled


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Like `inlined`, for a piece that neither allocates nor returns an array: no reference counts.

    (An `inlined` piece with an array argument costs some 10 ns of atomic counting a call.)
    """
    compiled: Callable[P, R] = numba.njit(**FLAGS, inline="never", _nrt=False)(function)
    return compiled


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Like `leaf`, and always inlined: for small pieces that are called for every few bytes.

    (A call that is not inlined passes seven words on the stack for each array.)
    """
    compiled: Callable[P, R] = numba.njit(**FLAGS, inline="never", _nrt=False, forceinline=True)(
        function
    )
    return compiled
