"""All metric cells of one process in shared memory: one flat float64 array.

The parent creates one file per shard and maps it; the shard opens the same file by its path. What
was counted survives the shard's death, and the shard that takes its place goes on counting. Every
cell has exactly one writer, so nothing is locked: a reader sees each cell as it was a moment ago.

Put the files on a memory file system where there is one (`/dev/shm`, `/run`): the kernel may hold
up a write to a mapped page of a disk file while it is being written back.
"""

import hashlib
import mmap
import os
import struct
import time
from bisect import bisect_left
from math import nan
from pathlib import Path

import numpy as np

from greenlang_iot.model.batches import F64
from greenlang_iot.observe.catalog import CATALOG, METRICS, SIZE, cell

_HEADER = 64
_MAGIC = b"GLIOTCNT"
_BYTES = _HEADER + 8 * SIZE
_LAYOUT = hashlib.sha256(
    repr([(m.name, m.kind, m.labels, m.buckets) for m in CATALOG]).encode()
).digest()[:16]

_HISTOGRAMS: dict[int, tuple[tuple[float, ...], int]] = {
    first: (metric.buckets, first + len(metric.buckets) + 1)
    for metric in CATALOG
    if metric.kind == "histogram"
    for values in metric.combinations()
    for first in [
        cell(metric.name, **dict(zip((n for n, _ in metric.labels), values, strict=True)))
    ]
}
"""First cell of a histogram → the upper bounds of its buckets, and the cell of its sum."""

HEARTBEAT = cell("heartbeat_age_seconds")


class Counters:
    """The cells of one process. Counters start at 0; gauges and ages at NaN, which is not exported."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._bytes = memoryview(memory)
        self._cells = self._bytes[_HEADER:].cast("d")
        self.cells: F64 = np.frombuffer(self._bytes, np.float64, offset=_HEADER)
        """All cells, for kernels that count."""

    @classmethod
    def create(cls, path: Path) -> "Counters":
        """Make the file (0600) anew and map it; a process that still has the old one keeps that."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            # Not a sparse file: on a disk that is full later, touching a page would end the process.
            os.posix_fallocate(fd, 0, _BYTES)
            memory = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        return cls._fresh(memory)

    @classmethod
    def local(cls) -> "Counters":
        """Counters that no other process sees."""
        return cls._fresh(mmap.mmap(-1, _BYTES))

    @classmethod
    def open(cls, path: Path) -> "Counters":
        """Map the file that the parent made and go on counting in it.

        Raises OSError where it is missing, ValueError where it belongs to another version.
        """
        fd = os.open(path, os.O_RDWR)
        try:
            if os.fstat(fd).st_size != _BYTES:
                raise ValueError(f"{path} holds the counters of another version")
            memory = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)
        if memory[: _HEADER // 2] != _header():
            memory.close()
            raise ValueError(f"{path} holds the counters of another version")
        return cls(memory)

    @classmethod
    def _fresh(cls, memory: mmap.mmap) -> "Counters":
        counters = cls(memory)
        for metric in CATALOG:
            if metric.kind in ("gauge", "age") and metric.scope != "site":
                names = [name for name, _ in metric.labels]
                for values in metric.combinations():
                    counters.set(cell(metric.name, **dict(zip(names, values, strict=True))), nan)
        memory[: _HEADER // 2] = _header()
        return counters

    def add(self, cell: int, n: float = 1.0) -> None:
        """Add to a counter's cell."""
        self._cells[cell] += n

    def set(self, cell: int, value: float) -> None:
        """Set a gauge's cell (or a counter that is counted elsewhere)."""
        self._cells[cell] = value

    def get(self, cell: int) -> float:
        """The cell's value; NaN is a gauge that was never set."""
        return self._cells[cell]

    def observe(self, histogram: int, value: float, count: int = 1) -> None:
        """Count `count` observations of `value` in the histogram whose first cell is given."""
        bounds, total = _HISTOGRAMS[histogram]
        cells = self._cells
        cells[histogram + bisect_left(bounds, value)] += count
        cells[total] += value * count

    def touch(self, age: int) -> None:
        """The event of an `age` metric happened now."""
        self._cells[age] = time.monotonic_ns()

    def heartbeat(self) -> None:
        """The pipeline's own tick: the shard is alive and not stuck."""
        self._cells[HEARTBEAT] = time.monotonic_ns()

    def age(self, age: int, now_ns: int) -> float:
        """Seconds since an `age` metric's last event at `now_ns` (monotonic); inf if never."""
        stamp = self._cells[age]
        return (now_ns - stamp) / 1e9 if stamp == stamp else float("inf")

    def total(self, name: str) -> float:
        """Sum of a counter over all its labels."""
        metric = METRICS[name]
        first = cell(name, **{label: values[0] for label, values in metric.labels})
        return float(sum(self._cells[first : first + len(metric.combinations())]))

    def sum_of(self, histogram: str) -> float:
        """Sum of all observations of a histogram without labels."""
        _, total = _HISTOGRAMS[cell(histogram)]
        return float(self._cells[total])

    def snapshot(self) -> F64:
        """A copy of all cells, float64[SIZE]."""
        return np.array(self._cells, np.float64)

    def close(self) -> None:
        """Unmap; the file stays."""
        self.cells = np.empty(0)
        self._cells.release()
        self._bytes.release()
        self._memory.close()


def _header() -> bytes:
    return struct.pack("<8sQ16s", _MAGIC, SIZE, _LAYOUT)
