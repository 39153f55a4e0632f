"""A simulated disk: page cache and platter apart, with power loss, torn writes and failed syncs."""

import errno
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PAGE = 64
"""Bytes that reach the platter together: small, so that short files have many."""


class Crash(BaseException):
    """The machine stops in the middle of a call."""


@dataclass(slots=True)
class _Inode:
    cached: bytes = b""  # what reads return
    stored: bytes = b""  # what survives power loss
    clean: int = 0  # bytes of `cached` that the kernel believes stored: never written again


@dataclass
class SimulatedDisk:
    """Implements spool.files.Files.

    crash_in: number of the call (counted down) in which the machine stops; −1 = never.
    failing: names of calls that raise OSError while they are in the set.
    A failed sync loses the unsynced pages of that file for good: reads still show them, no later
    sync writes them (Linux does that).
    """

    seed: int = 0
    crash_in: int = -1
    failing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._names: dict[Path, _Inode] = {}  # as processes see them
        self._stored_names: dict[Path, _Inode] = {}
        self._open: dict[int, _Inode] = {}
        self._next_fd = 3

    # what happens to the machine

    def power_loss(self) -> None:
        """Only what was synced is certain; of the rest anything may have reached the platter."""
        names = dict(self._stored_names)
        for path in self._names.keys() | self._stored_names.keys():
            changed = self._names.get(path) is not self._stored_names.get(path)
            if changed and self._random.random() < 0.5:
                self._keep_name(names, path)
        for inode in {id(i): i for i in names.values()}.values():
            inode.cached = inode.stored = inode.stored + self._torn(inode)
            inode.clean = len(inode.cached)
        self._names, self._stored_names = dict(names), dict(names)
        self._restart()

    def _keep_name(self, names: dict[Path, _Inode], path: Path) -> None:
        if path in self._names:
            names[path] = self._names[path]
        else:
            names.pop(path, None)

    def _torn(self, inode: _Inode) -> bytes:
        lost = inode.cached[len(inode.stored) :]
        kept = bytearray(lost[: self._random.randint(0, len(lost))])
        for start in range(0, len(kept), PAGE):  # pages reach the platter in any order
            if self._random.random() < 0.2:
                kept[start : start + PAGE] = bytes(len(kept[start : start + PAGE]))
        tail = self._random.choice([b"", bytes(7), bytes(64)])
        return bytes(kept) + tail[: len(lost) - len(kept)]

    def process_death(self) -> None:
        """The page cache survives, open files do not."""
        self._restart()

    def _restart(self) -> None:
        self._open = {}
        self.crash_in = -1
        self.failing = set()

    def flip(self, path: Path, offset: int) -> None:
        """Damage one byte of a file."""
        inode = self._names[path]
        data = bytearray(inode.cached)
        data[offset] ^= 0xFF
        inode.cached = inode.stored = bytes(data)

    def _call(self, name: str) -> None:
        if self.crash_in == 0:
            raise Crash(name)
        self.crash_in -= 1
        if name in self.failing:
            raise OSError(errno.EIO, f"simulated failure of {name}")

    # Files

    def make_folder(self, folder: Path) -> None:
        return

    def lock(self, path: Path) -> int:
        return 0

    def create(self, path: Path) -> int:
        self._call("create")
        inode = self._names[path] = _Inode()
        self._next_fd += 1
        self._open[self._next_fd] = inode
        return self._next_fd

    def write(self, fd: int, parts: Sequence[bytes]) -> None:
        data = b"".join(parts)
        inode = self._open[fd]
        try:
            self._call("write")
        except (Crash, OSError):
            inode.cached += data[: self._random.randint(0, len(data))]
            raise
        inode.cached += data

    def sync(self, fd: int) -> None:
        self._sync(self._open[fd])

    def _sync(self, inode: _Inode) -> None:
        try:
            self._call("sync")
        except OSError:
            inode.clean = len(inode.cached)
            raise
        if inode.clean == len(inode.stored):
            inode.stored = inode.cached
        # Otherwise pages in between were lost to a failed sync: nothing after them can be trusted.
        inode.clean = len(inode.cached)

    def forget(self, fd: int) -> None:
        inode = self._open[fd]
        inode.cached = inode.stored + inode.cached[inode.clean :]

    def close(self, fd: int) -> None:
        self._open.pop(fd, None)

    def rename(self, old: Path, new: Path) -> None:
        self._call("rename")
        self._names[new] = self._names.pop(old)

    def unlink(self, path: Path) -> None:
        self._call("unlink")
        self._names.pop(path, None)

    def sync_folder(self, folder: Path) -> None:
        self._call("sync_folder")
        self._stored_names = dict(self._names)

    def names(self, folder: Path) -> list[str]:
        return [path.name for path in self._names if path.parent == folder]

    def size(self, path: Path) -> int:
        return len(self._inode(path).cached)

    def read(self, path: Path, offset: int, size: int) -> bytes:
        self._call("read")
        return self._inode(path).cached[offset : offset + size]

    def sync_path(self, path: Path) -> None:
        self._sync(self._inode(path))

    def _inode(self, path: Path) -> _Inode:
        try:
            return self._names[path]
        except KeyError:
            raise FileNotFoundError(path) from None


@dataclass
class FullDisk(SimulatedDisk):
    """One of `room` bytes: a write beyond them is done as far as it goes and fails with ENOSPC."""

    room: int = 1 << 30

    @property
    def used(self) -> int:
        return sum(len(inode.cached) for inode in self._names.values())

    def write(self, fd: int, parts: Sequence[bytes]) -> None:
        data = b"".join(parts)
        left = max(0, self.room - self.used)
        super().write(fd, [data[:left]])
        if len(data) > left:
            raise OSError(errno.ENOSPC, "No space left on device")
