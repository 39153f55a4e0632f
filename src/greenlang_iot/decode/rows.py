"""Columns of a batch while it is decoded."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import SLACK, U8
from greenlang_iot.model.flags import TEXT_IN_ARENA

DTYPES: dict[str, Any] = {
    "series": np.int32,
    "ts_ns": np.int64,
    "value": np.float64,
    "seq": np.int64,
    "flags": np.uint16,
    "frame": np.int32,
    "text_off": np.int32,
    "text_len": np.int16,
}
"""The columns of a ReadingBatch."""

Columns = dict[str, npt.NDArray[Any]]


@dataclass(slots=True)
class Window:
    """The time stamps that are good now (both ends inclusive), and what stands for a missing one."""

    oldest_ns: int
    newest_ns: int
    receive_ns: int | None


@dataclass(slots=True)
class Rows:
    """Rows of the general path, collected one by one; their texts go to an arena."""

    rows: list[tuple[int, int, float, int, int, int, int, int]] = field(default_factory=list)
    arena: bytearray = field(default_factory=lambda: bytearray(SLACK))

    def add(
        self, series: int, ts_ns: int, value: float, seq: int, flags: int, frame: int, text: str
    ) -> None:
        """Append one row; `text` is the JSON text of `value`."""
        at = len(self.arena)
        self.arena += text.encode()
        row = (series, ts_ns, value, seq, flags | TEXT_IN_ARENA, frame, at, len(text))
        self.rows.append(row)

    def columns(self) -> Columns:
        """The rows as columns."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(DTYPES)
        return {
            name: np.array(column, dtype)
            for (name, dtype), column in zip(DTYPES.items(), columns, strict=True)
        }

    def texts(self) -> U8:
        """The arena (writable, as every array that kernels see), with SLACK bytes behind its last text."""
        return np.frombuffer(self.arena + bytes(SLACK), np.uint8)


def merged(fast: Columns, general: Columns) -> Columns:
    """Both paths' rows in the order of the frames; each frame's rows come from one path."""
    if len(general["frame"]) == 0:
        return fast
    # Two sorted runs, which a stable sort merges in one pass.
    order = np.argsort(np.concatenate((fast["frame"], general["frame"])), kind="stable")
    return {name: np.concatenate((fast[name], general[name]))[order] for name in DTYPES}
