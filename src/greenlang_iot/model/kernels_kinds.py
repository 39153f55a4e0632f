"""Rows that are alike get one number (see `kinds.kinds`)."""

import numpy as np

from greenlang_iot.model.batches import I32, I64, U64
from greenlang_iot.model.jit import kernel

_LOW = np.uint64(0xFFFF_FFFF)
_A, _B, _C = np.uint64(0x9E37_79B1), np.uint64(0x85EB_CA77), np.uint64(0xC2B2_AE3D)
_29 = np.uint64(29)
_32 = np.uint64(32)


@kernel
def refine(kind: I32, column: U64, mask: int, slots: I32, first: I64, finer: I32) -> int:
    """Number the pairs (kind[i], column[i]) in the order of their first appearance; how many there are.

    finer: the number of each row. first: the first row of each number. slots: zeros, mask + 1 (a power of
    two) of them, at least twice as many as there are pairs.
    """
    count = 0
    for i in range(len(column)):
        word = column[i]
        h = ((word & _LOW) * _A) ^ ((word >> _32) * _B) ^ (np.uint64(kind[i]) * _C)
        slot = np.int64((h ^ (h >> _29)) & np.uint64(mask))
        while True:
            number = slots[slot] - 1
            if number < 0:
                first[count] = i
                slots[slot] = count + 1
                number = count
                count += 1
                break
            at = first[number]
            if column[at] == word and kind[at] == kind[i]:
                break
            slot = (slot + 1) & mask
        finer[i] = number
    return count
