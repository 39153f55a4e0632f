"""Rows of text that an encoder copies for every reading (see `texts.SeriesTexts`)."""

import numpy as np

from greenlang_iot.model.batches import I32, I64, U8, U32
from greenlang_iot.model.jit import kernel

STEP = 16
"""Rows begin at multiples of it, and have as many bytes before their text: four uint32."""


@kernel
def device_rows(
    first: I64, key_blob: U8, key_off: I64, name_blob: U8, name_off: I64,
    before: I32, before_blob: U8, before_off: I64, after: I32, after_blob: U8, after_off: I64,
    with_key: bool, number: I32, blob: U8, heads: U32,
) -> None:  # fmt: skip
    """Write the row of each device to `blob` at STEP × first[d]: [length varint, key,] before, name, after.

    Its head, at the same place of `heads` (the same memory): size of the key with its varint, size of
    the rest, number[d].
    """
    for d in range(len(before)):
        start = STEP * first[d] + STEP
        at = start
        if with_key:
            size = key_off[d + 1] - key_off[d]
            zigzag = 2 * size
            while zigzag > 127:
                blob[at] = (zigzag & 127) | 128
                zigzag >>= 7
                at += 1
            blob[at] = zigzag
            at += 1
            for i in range(key_off[d], key_off[d + 1]):
                blob[at] = key_blob[i]
                at += 1
        rest = at
        b, a = before[d], after[d]
        for i in range(before_off[b], before_off[b + 1]):
            blob[at] = before_blob[i]
            at += 1
        for i in range(name_off[d], name_off[d + 1]):
            blob[at] = name_blob[i]
            at += 1
        for i in range(after_off[a], after_off[a + 1]):
            blob[at] = after_blob[i]
            at += 1
        head = 4 * first[d]
        heads[head] = np.uint32(rest - start)
        heads[head + 1] = np.uint32(at - rest)
        heads[head + 2] = np.uint32(number[d])
