"""The file system calls of the log, so that tests can put a simulated disk in their place."""

import contextlib
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from greenlang_iot.model.pieces import Body

_IOV_MAX = 1024


class Files(Protocol):
    """Blocking calls; every one may raise OSError. Written files have mode 0600."""

    def make_folder(self, folder: Path) -> None:
        """Make the folder and its parents (mode 0700); their names are durable afterwards."""

    def lock(self, path: Path) -> int:
        """Take the lock until `close`; BlockingIOError where another process holds it."""

    def create(self, path: Path) -> int:
        """An empty file, open for writing; its name is durable after `sync_folder`."""

    def write(self, fd: int, parts: Sequence[Body]) -> None:
        """Append all the parts."""

    def sync(self, fd: int) -> None:
        """What was written is durable when this returns. After a failure it may be lost."""

    def forget(self, fd: int) -> None:
        """What is synced need not stay in memory: a hint, never an error."""

    def close(self, fd: int) -> None: ...

    def rename(self, old: Path, new: Path) -> None: ...

    def unlink(self, path: Path) -> None:
        """FileNotFoundError is not raised."""

    def sync_folder(self, folder: Path) -> None:
        """Names made, replaced and removed in the folder are durable when this returns."""

    def names(self, folder: Path) -> list[str]: ...

    def size(self, path: Path) -> int: ...

    def read(self, path: Path, offset: int, size: int) -> bytes: ...

    def sync_path(self, path: Path) -> None:
        """`sync` of a file that somebody else writes."""


class OsFiles:
    """The real disk."""

    def make_folder(self, folder: Path) -> None:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        for path in reversed(missing):
            path.mkdir(mode=0o700, exist_ok=True)
            self.sync_folder(path.parent)

    def lock(self, path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def create(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, parts: Sequence[Body]) -> None:
        for start in range(0, len(parts), _IOV_MAX):
            some = parts[start : start + _IOV_MAX]
            done = os.writev(fd, some)
            if done < sum(map(len, some)):
                rest = memoryview(b"".join(some))[done:]
                while rest:
                    rest = rest[os.write(fd, rest) :]

    def sync(self, fd: int) -> None:
        os.fdatasync(fd)

    def forget(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self, fd: int) -> None:
        os.close(fd)

    def rename(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def names(self, folder: Path) -> list[str]:
        return os.listdir(folder)

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def read(self, path: Path, offset: int, size: int) -> bytes:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts: list[bytes] = []
            while size and (part := os.pread(fd, size, offset)):
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(fd)

    def sync_path(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)


OS_FILES = OsFiles()


class Replacement:
    """A file that is written bit by bit; it takes its name when it is whole. Until then the old content stays."""

    def __init__(self, files: Files, path: Path) -> None:
        """OSError: nothing was made."""
        self._files = files
        self._path = path
        self._temporary = path.with_name(path.name + ".tmp")
        self._fd = files.create(self._temporary)

    def write(self, parts: Sequence[Body]) -> None:
        """Append all the parts. OSError: `abandon` it."""
        self._files.write(self._fd, parts)

    def finish(self) -> None:
        """After a crash there is the old or the new content, never a mix. OSError: the old one is there, and nothing else."""
        try:
            try:
                self._files.sync(self._fd)
            finally:
                self._files.close(self._fd)
            self._files.rename(self._temporary, self._path)
        except OSError:
            self._remove()
            raise
        self._files.sync_folder(self._path.parent)

    def abandon(self) -> None:
        """The old content stays; never an error."""
        with contextlib.suppress(OSError):
            self._files.close(self._fd)
        self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._files.unlink(self._temporary)


def replace_durably(files: Files, path: Path, content: bytes | Sequence[bytes]) -> None:
    """Write a file (all of it, or its pieces in order) so that after a crash there is the old or the new content, never a mix.

    OSError: the old content is there, and nothing else.
    """
    new = Replacement(files, path)
    try:
        for piece in [content] if isinstance(content, bytes) else content:
            new.write([piece])
    except OSError:
        new.abandon()
        raise
    new.finish()
