"""What every process of a gateway holds once: the registry's columns, in a file of `run/`. And giving memory back."""

import ctypes
from pathlib import Path

from greenlang_iot.devices.columns import Columns
from greenlang_iot.model.directory import Directory

_PATTERN = "registry-*"


class SharedRegistry:
    """The registry's file: written anew for each reload, the one before is removed when nobody opens it any more."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._number = 0
        for stale in run.glob(_PATTERN):  # of an earlier run
            stale.unlink()

    def put(self, directory: Directory) -> tuple[Columns, Directory]:
        """(the file, the same Directory as it lies there). OSError where it cannot be written."""
        self._number += 1
        columns = Columns.write(directory, self._run / f"registry-{self._number}")
        return columns, columns.open()

    def drop_older(self) -> None:
        """Who has an older one mapped keeps it; nobody may open it after this."""
        for path in self._run.glob(_PATTERN):
            if path.name != f"registry-{self._number}":
                path.unlink(missing_ok=True)


def give_back() -> None:
    """Give the kernel what was freed: loading leaves holes of several times what stays."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
