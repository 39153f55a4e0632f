"""A Directory in a file that processes map: its pages are in memory once, however many shards read them.

    u64 length of the head · head (pickle: where each column lies, and what it is) · columns, each at a multiple of ALIGN

It is written and read by one version of one program, within one run.
"""

import mmap
import pickle
import struct
from dataclasses import dataclass, field
from pathlib import Path

from greenlang_iot.model.directory import Directory

ALIGN = 64
_LENGTH = struct.Struct("<Q")


@dataclass(slots=True)
class Columns:
    """The file at `path`; what is pickled of it is its name."""

    path: Path
    _map: mmap.mmap | None = field(default=None, init=False, repr=False, compare=False)

    @staticmethod
    def write(directory: Directory, path: Path) -> "Columns":
        """Put a Directory there; the file is complete when it has its name. OSError where it cannot be written."""
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps(directory, 5, buffer_callback=buffers.append)
        raw = [buffer.raw() for buffer in buffers]
        places: list[tuple[int, int]] = []
        at = 0
        for column in raw:
            places.append((at, column.nbytes))
            at += -(-column.nbytes // ALIGN) * ALIGN
        head = pickle.dumps((body, places), 5)
        temporary = path.with_suffix(".new")
        try:
            with open(temporary, "wb") as file:
                file.write(_LENGTH.pack(len(head)))
                file.write(head)
                start = _start(len(head))
                file.truncate(start + at)
                for (place, _), column in zip(places, raw, strict=True):
                    file.seek(start + place)
                    file.write(column)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return Columns(path)

    def open(self) -> Directory:
        """The Directory; a column is read from the file where it is touched. OSError where there is no file.

        Kernels take arrays that may be written to, so these may: nobody else would see it.
        """
        with open(self.path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        (length,) = _LENGTH.unpack_from(mapped)
        view = memoryview(mapped)
        body, places = pickle.loads(view[_LENGTH.size : _LENGTH.size + length])  # noqa: S301 (our own parent's)
        start = _start(length)
        directory: Directory = pickle.loads(  # noqa: S301
            body, buffers=[view[start + at : start + at + size] for at, size in places]
        )
        self._map = mapped
        return directory

    def forget(self) -> None:
        """Pages that were read at the start are given back; whoever needs one later reads it again."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)

    def __reduce__(self) -> tuple[type["Columns"], tuple[Path]]:
        return Columns, (self.path,)


def _start(head: int) -> int:
    """Where the first column lies, behind so long a head."""
    return -(-(_LENGTH.size + head) // ALIGN) * ALIGN
