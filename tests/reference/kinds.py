"""Kinds of rows, told apart by a dict."""

import struct
from collections.abc import Sequence
from typing import Any


def kinds(rows: Sequence[tuple[Any, ...]]) -> tuple[list[int], list[int]]:
    """(the first row of each kind, the kind of each row)."""
    index: dict[tuple[bytes | int, ...], int] = {}
    first: list[int] = []
    of: list[int] = []
    for i, row in enumerate(rows):
        key = tuple(struct.pack("d", item) if isinstance(item, float) else item for item in row)
        if key not in index:
            index[key] = len(index)
            first.append(i)
        of.append(index[key])
    return first, of
