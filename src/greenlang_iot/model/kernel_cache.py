"""Where compiled kernels are kept, and whether they are as they were. Light to import: no numba."""

import contextlib
import hashlib
import io
import json
import os
import stat
import sys
import tempfile
import zlib
from collections import deque
from importlib.metadata import version
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent
CONSTANTS = (
    "detect/limits.py",
    "detect/state.py",
    "model/batches.py",
    "model/flags.py",
    "quality/record.py",
)
"""Other sources that kernels take constants from: compiled code has their values in it."""
_CHOSEN = "GREENLANG_IOT_KERNEL_CACHE"
FLAGS = {"cache": True, "nogil": True, "error_model": "numpy"}


def _cache_folder() -> Path:
    """Folder for compiled kernels, keyed by every file that they are made of, the flags, and who compiles them.

    numba's own key is the file that holds the caller, so a change of a callee in another file would
    keep the old machine code alive; and bounds checks are silently absent on a warm cache. Its entries
    are of one place of the sources and one Python: another clone compiles anew, and must know it.
    """
    compiler = (str(_PACKAGE), sys.implementation.cache_tag, version("numba"))
    bounds = os.environ.get("NUMBA_BOUNDSCHECK", "0")
    digest = hashlib.sha256(repr((FLAGS, bounds, compiler)).encode())
    others = (_PACKAGE / name for name in CONSTANTS)
    for source in sorted((*_PACKAGE.rglob("kernels*.py"), *others)):
        digest.update(source.relative_to(_PACKAGE).as_posix().encode())
        digest.update(source.read_bytes())
    name = digest.hexdigest()[:16]
    if (chosen := os.environ.get(_CHOSEN)) is not None:
        with contextlib.suppress(OSError):
            (folder := Path(chosen) / name).mkdir(parents=True, exist_ok=True)
            return folder
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    temporary = Path(tempfile.gettempdir())
    for base, ours in (
        (cache, Path("greenlang-iot", "kernels", name)),
        (temporary, Path(f"greenlang-iot-{os.geteuid()}", name)),
    ):
        if _is_ours(base, ours):
            return base / ours
    fresh = tempfile.mkdtemp(prefix="greenlang-iot-")
    os.environ[_CHOSEN] = fresh  # for what this process starts, too
    (folder := Path(fresh) / name).mkdir()
    return folder


def _is_ours(base: Path, ours: Path) -> bool:
    """Whether the folder is there or can be made, and nobody else may put anything in: numba runs what it finds."""
    made = base
    try:
        base.mkdir(parents=True, exist_ok=True)
        for part in ours.parts:
            made /= part
            made.mkdir(exist_ok=True, mode=0o700)
            owners = {made.lstat().st_uid, made.stat().st_uid}  # of a link, and of what it names
            if not owners <= {0, os.geteuid()} or made.stat().st_mode & stat.S_IWOTH:
                return False
    except OSError:
        return False
    return True


CACHE_FOLDER = _cache_folder()
COMPILED = CACHE_FOLDER / "sealed.json"
"""Is there once every kernel has been compiled: a start without it takes up to a minute. It holds the
checksum and the size of every file then."""
_UNKNOWN = [0, 1 << 62]
"""What no file has: checksum and size."""
_PICKLES = 2
"""Of an index: numba's version, and which machine code is for which types."""


def seal() -> None:
    """Every kernel is compiled: remember what the files are like. OSError where they cannot be read."""
    checksums = json.dumps(_contents(), indent=0).encode()
    if not COMPILED.exists() or COMPILED.read_bytes() != checksums:
        temporary = COMPILED.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(checksums)
        temporary.replace(COMPILED)


def drop_damaged() -> list[str]:
    """Delete what is not as it was sealed, so that it is compiled anew; names of those files.

    numba ends with a stack trace at a file that was cut in half, and runs whatever machine code it reads.
    What was added since is left alone: other commands compile kernels of their own, or for other types, which
    makes an index longer.
    """
    contents = _contents()
    try:
        sealed = json.loads(COMPILED.read_bytes())
    except FileNotFoundError:
        return []
    except ValueError:
        sealed = dict.fromkeys(contents, _UNKNOWN)
    damaged = [
        name
        for name, found in contents.items()
        if sealed.get(name, found) != found and not _grown(name, sealed[name])
    ]
    for name in damaged:
        (CACHE_FOLDER / name).unlink(missing_ok=True)
    if damaged:
        COMPILED.unlink(missing_ok=True)
    return damaged


def _contents() -> dict[str, list[int]]:
    """CRC-32 and bytes by name; a few megabytes are read."""
    found = {}
    for path in sorted(CACHE_FOLDER.rglob("*.nb?")):
        with contextlib.suppress(FileNotFoundError):  # another process dropped it just now
            data = path.read_bytes()
            found[path.relative_to(CACHE_FOLDER).as_posix()] = [zlib.crc32(data), len(data)]
    return found


def _grown(name: str, sealed: list[int]) -> bool:
    """Is this an index that is whole and longer than it was? numba replaces it in one go."""
    if not name.endswith(".nbi"):
        return False
    import pickletools  # for this rare look only

    try:
        data = (CACHE_FOLDER / name).read_bytes()
    except FileNotFoundError:  # another process dropped it just now
        return False
    stream = io.BytesIO(data)
    try:
        for _ in range(_PICKLES):
            deque(pickletools.genops(stream), maxlen=0)
    except ValueError:
        return False
    return stream.tell() == len(data) > sealed[1]
