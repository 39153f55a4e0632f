"""What a batch adds to the cells of the catalogue, in one call: cheap for small batches, too."""

from typing import Any

from greenlang_iot.model.batches import F64, I64, U8, U16
from greenlang_iot.model.jit import fused, kernel
from greenlang_iot.model.kernels_words import peek

BITS = 16
"""Bits of a column of flags: a cell each in a layout, −1 where it is not counted."""
COUNTS = 6
STAGES = 4


@fused
def _observe(cells: F64, first: int, bounds: F64, value: float, count: int) -> None:
    bucket = 0
    while bucket < len(bounds) and bounds[bucket] < value:
        bucket += 1
    cells[first + bucket] += count
    cells[first + len(bounds) + 1] += value * count


@fused
def _bits(cells: F64, layout: I64, begin: int, column: Any) -> None:
    seen = 0
    for i in range(len(column)):
        seen |= peek(column, i)
    for bit in range(BITS if seen != 0 else 0):
        cell = layout[begin + bit]
        if cell >= 0 and (seen >> bit) & 1 != 0:
            count = 0
            for i in range(len(column)):
                count += (int(peek(column, i)) >> bit) & 1
            cells[cell] += count


@kernel
def count_batch(
    cells: F64,
    layout: I64,
    stage_bounds: F64,
    batch_bounds: F64,
    messages: int,
    nbytes: int,
    decoded: int,
    fast: int,
    readings: int,
    decode: float,
    score: float,
    alert: float,
    encode: float,
    frame_flags: U8,
    flags: U16,
    verdict: U8,
) -> None:
    """Count a batch.

    layout: the cells of messages, bytes, decoded and fast messages, readings, and seconds in all (COUNTS); the first
    cells of the histograms of STAGES stages, by the seconds each took, per message, and of batches by their messages;
    then BITS cells for each of the columns `frame_flags`, `flags` and `verdict`. stage_bounds, batch_bounds: upper
    bounds of the buckets.
    """
    cells[layout[0]] += messages
    cells[layout[1]] += nbytes
    cells[layout[2]] += decoded
    cells[layout[3]] += fast
    cells[layout[4]] += readings
    cells[layout[5]] += decode + score + alert + encode
    at = COUNTS
    for seconds in (decode, score, alert, encode):
        _observe(cells, layout[at], stage_bounds, seconds, messages)
        at += 1
    _observe(cells, layout[at], batch_bounds, float(messages), 1)
    at += 1
    _bits(cells, layout, at, frame_flags)
    _bits(cells, layout, at + BITS, flags)
    _bits(cells, layout, at + 2 * BITS, verdict)
