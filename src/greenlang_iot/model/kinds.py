"""Rows of a table that have everything in common that is asked of them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import I32, I64, U64
from greenlang_iot.model.kernels_kinds import refine


def kinds(*columns: npt.NDArray[Any]) -> tuple[I64, I32]:
    """(the first row of each kind, the kind of each row) of rows that are alike in all `columns`.

    The columns are of one length, of integers or float64 (compared by their bits). Kinds are numbered
    in the order of their first row.
    """
    n = len(columns[0])
    size = 16
    while size < 2 * n:
        size *= 2
    kind: I32 = np.zeros(n, np.int32)
    first: I64 = np.zeros(min(n, 1), np.int64)
    for column in columns:
        words: U64 = (column if column.itemsize == 8 else column.astype(np.int64)).view(np.uint64)
        rows, finer = np.empty(n, np.int64), np.empty(n, np.int32)
        count = refine(kind, words, size - 1, np.zeros(size, np.int32), rows, finer)
        first, kind = rows[:count].copy(), finer
    return first, kind
