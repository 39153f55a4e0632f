"""Copying bytes between arrays inside a kernel, sixteen a step.

A loop over two arrays costs LLVM a check for overlap and a prologue each time, and memcpy a call: some
5 ns for each of a record's dozen pieces. Arrays must not overlap, and have SPILL bytes to spare behind
what is read and written.
"""

from greenlang_iot.model.batches import U8
from greenlang_iot.model.jit import fused
from greenlang_iot.model.kernels_words import copy16

SPILL = 15


@fused
def copy_bytes(source: U8, start: int, size: int, out: U8, pos: int) -> int:
    """out[pos:] = source[start:start + size]; returns the position after it."""
    copy16(source, start, out, pos)
    done = 16
    while done < size:
        copy16(source, start + done, out, pos + done)
        done += 16
    return pos + size
