"""The one place where numba's flags are set.

A kernel is a flat function over contiguous 1-D arrays: no classes, dicts, strings or clocks, and
the caller passes the output arrays. `NUMBA_DISABLE_JIT=1` runs every kernel as plain Python, so
kernels that wrap around (hashes, CRC) must mask explicitly.

Never `fastmath`: NaN from a sensor must survive. Never `parallel`: a shard owns one core.
"""

import hashlib
import importlib
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE = Path(__file__).resolve().parent.parent
CONSTANTS = (
    "detect/limits.py",
    "detect/state.py",
    "model/batches.py",
    "model/flags.py",
    "quality/record.py",
)
"""Other sources that kernels take constants from: compiled code has their values in it."""
_FLAGS = {"cache": True, "nogil": True, "error_model": "numpy"}


def _cache_folder() -> Path:
    """Folder for compiled kernels, keyed by every file that they are made of, the flags, and who compiles them.

    numba's own key is the file that holds the caller, so a change of a callee in another file would
    keep the old machine code alive; and bounds checks are silently absent on a warm cache. Its entries
    are of one place of the sources and one Python: another clone compiles anew, and must know it.
    """
    compiler = (str(_PACKAGE), sys.implementation.cache_tag, version("numba"))
    bounds = os.environ.get("NUMBA_BOUNDSCHECK", "0")
    digest = hashlib.sha256(repr((_FLAGS, bounds, compiler)).encode())
    others = (_PACKAGE / name for name in CONSTANTS)
    for source in sorted((*_PACKAGE.rglob("kernels*.py"), *others)):
        digest.update(source.relative_to(_PACKAGE).as_posix().encode())
        digest.update(source.read_bytes())
    root = os.environ.get("GREENLANG_IOT_KERNEL_CACHE")
    if root is None:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        root = str(base / "greenlang-iot" / "kernels")
    folder = Path(root) / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"greenlang-iot-{os.getuid()}" / folder.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


CACHE_FOLDER = _cache_folder()
COMPILED = CACHE_FOLDER / "complete"
"""Is there once every kernel has been compiled: a start without it takes up to a minute. It holds the
checksum of every file then."""


def seal() -> None:
    """Every kernel is compiled: remember what the files are like. OSError where they cannot be read."""
    checksums = json.dumps(_checksums(), indent=0).encode()
    if not COMPILED.exists() or COMPILED.read_bytes() != checksums:
        temporary = COMPILED.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(checksums)
        temporary.replace(COMPILED)


def drop_damaged() -> list[str]:
    """Delete what is not as it was sealed, so that it is compiled anew; names of those files.

    numba ends with a stack trace at a file that was cut in half, and runs whatever machine code it reads.
    What was added since (other commands compile kernels of their own) is left alone.
    """
    try:
        sealed = json.loads(COMPILED.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError:
        sealed = dict.fromkeys(_checksums())
    damaged = [name for name, found in _checksums().items() if sealed.get(name, found) != found]
    for name in damaged:
        (CACHE_FOLDER / name).unlink(missing_ok=True)
    if damaged:
        COMPILED.unlink(missing_ok=True)
    return damaged


def _checksums() -> dict[str, int]:
    """By name; a few megabytes are read."""
    paths = sorted(CACHE_FOLDER.rglob("*.nb?"))
    return {p.relative_to(CACHE_FOLDER).as_posix(): zlib.crc32(p.read_bytes()) for p in paths}


drop_damaged()
os.environ["NUMBA_CACHE_DIR"] = str(CACHE_FOLDER)

_BLAS = "scipy.linalg.cython_blas"


def _import_without_blas() -> None:
    """numba looks whether SciPy could multiply matrices for it: 0.2 s at every start, for no kernel of ours."""
    absent = _BLAS not in sys.modules
    if absent:
        sys.modules[_BLAS] = None  # type: ignore[assignment]  # "there is none"
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        if absent:
            del sys.modules[_BLAS]


_import_without_blas()
import numba  # noqa: E402  (numba reads NUMBA_CACHE_DIR when it is imported)

JIT_DISABLED = bool(numba.config.DISABLE_JIT)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call (from the cache where it is there)."""
    compiled: Callable[P, R] = numba.njit(**_FLAGS)(function)
    return compiled


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A small piece called by kernels of the same room; LLVM inlines it."""
    compiled: Callable[P, R] = numba.njit(**_FLAGS, inline="never")(function)
    return compiled


def leaf(function: Callable[P, R]) -> Callable[P, R]:
    """Like `inlined`, for a piece that neither allocates nor returns an array: no reference counts.

    (An `inlined` piece with an array argument costs some 10 ns of atomic counting a call.)
    """
    compiled: Callable[P, R] = numba.njit(**_FLAGS, inline="never", _nrt=False)(function)
    return compiled


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """Like `leaf`, and always inlined: for small pieces that are called for every few bytes.

    (A call that is not inlined passes seven words on the stack for each array.)
    """
    compiled: Callable[P, R] = numba.njit(**_FLAGS, inline="never", _nrt=False, forceinline=True)(
        function
    )
    return compiled
