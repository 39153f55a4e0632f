"""Hash table from the bytes of a whole topic to the device, as flat arrays.

slots: uint64, length a power of two; upper 32 bits of the hash | device + 1; 0 = empty.
blob, off: topic bytes of device d are `blob[off[d]:off[d + 1]]`; the blob ends with 8 spare bytes.
"""

import numpy as np

from greenlang_iot.model.batches import I32, I64, U8, U64
from greenlang_iot.model.jit import fused, kernel
from greenlang_iot.model.kernels_prefetch import prefetch, prefetch_far
from greenlang_iot.model.kernels_words import load64, peek, poke, signed

BLOCK = 64
"""Topics looked up side by side."""

_LOW = np.uint64(0xFFFF_FFFF)
_HIGH = np.uint64(0xFFFF_FFFF_0000_0000)
_ALL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_MIX = np.uint64(0x9E37_79B9_7F4A_7C15)
_32 = np.uint64(32)
_64 = np.uint64(64)
_29 = np.uint64(29)
_35 = np.uint64(35)


@fused
def hash_bytes(buffer: U8, at: int, length: int, key: np.uint64) -> np.uint64:
    """Keyed hash of `buffer[at:at + length]`; reads up to 8 bytes beyond.

    Each step multiplies the halves of a word (32 × 32 bits), which never wraps around.
    """
    h = key ^ np.uint64(length)
    done = 0
    while done < length:
        word = load64(buffer, at + done)
        rest = length - done
        if rest < 8:
            word &= _ALL >> (_64 - np.uint64(8 * rest))
        x = h ^ word
        h = ((x & _LOW) * (x >> _32)) ^ ((x << _29) | (x >> _35)) ^ _MIX
        done += 8
    return ((h & _LOW) * (_MIX >> _32)) ^ ((h >> _32) * (_MIX & _LOW)) ^ h


@fused
def same_bytes(a: U8, a_at: int, b: U8, b_at: int, length: int) -> bool:
    """Whether two regions hold the same bytes; reads up to 8 bytes beyond either."""
    done = 0
    while done + 8 <= length:
        if load64(a, a_at + done) != load64(b, b_at + done):
            return False
        done += 8
    if done == length:
        return True
    differ = load64(a, a_at + done) ^ load64(b, b_at + done)
    return bool((differ << (_64 - np.uint64(8 * (length - done)))) == np.uint64(0))


@fused
def _next_candidate(h: np.uint64, slot: int, slots: U64, mask: int) -> int:
    """The slot behind `slot` (−1: from the hash's own on) whose hash agrees; −1: there is none."""
    slot = signed(h & _LOW) & mask if slot < 0 else (slot + 1) & mask
    while peek(slots, slot) != np.uint64(0):
        if (peek(slots, slot) ^ h) & _HIGH == np.uint64(0):
            return slot
        slot = (slot + 1) & mask
    return -1


@fused
def _confirm(
    slot: int, h: np.uint64, buffer: U8, at: int, length: int,
    slots: U64, mask: int, blob: U8, off: I64,
) -> int:  # fmt: skip
    """The device whose topic is `buffer[at:at + length]`, beginning with a candidate, or −1."""
    while slot >= 0:
        device = signed(peek(slots, slot) & _LOW) - 1
        start = int(peek(off, device))
        if int(peek(off, device + 1)) - start == length and same_bytes(
            buffer, at, blob, start, length
        ):
            return device
        slot = _next_candidate(h, slot, slots, mask)
    return -1


@kernel
def write_topics(
    first: int, last: int, name_blob: U8, name_off: I64, place: I32,
    before_blob: U8, before_off: I64, after_blob: U8, after_off: I64, blob: U8, off: I64,
) -> None:  # fmt: skip
    """Write the topics of devices `first:last` to `blob[off[d]:]`: before, name, after.

    name_off: of all devices. place: which text stands before a device's name and which after it.
    """
    for d in range(first, last):
        p, at = place[d], off[d]
        for i in range(before_off[p], before_off[p + 1]):
            blob[at] = before_blob[i]
            at += 1
        for i in range(name_off[d], name_off[d + 1]):
            blob[at] = name_blob[i]
            at += 1
        for i in range(after_off[p], after_off[p + 1]):
            blob[at] = after_blob[i]
            at += 1


@kernel
def insert_topics(
    first: int, last: int, enabled: U8, slots: U64, blob: U8, off: I64, key: np.uint64
) -> None:
    """Enter the enabled devices `first:last`; the caller keeps `slots` at most half full."""
    mask = len(slots) - 1
    for device in range(first, last):
        if not enabled[device]:
            continue
        h = hash_bytes(blob, off[device], off[device + 1] - off[device], key)
        slot = signed(h & _LOW) & mask
        while slots[slot] != np.uint64(0):
            slot = (slot + 1) & mask
        slots[slot] = (h & _HIGH) | np.uint64(device + 1)


@kernel
def find_topics(
    n: int,
    buffer: U8,
    topic_off: I32,
    topic_len: I32,
    slots: U64,
    blob: U8,
    off: I64,
    key: np.uint64,
    hashes: U64,
    device: I32,
) -> None:
    """Write each topic's device (−1: not in the table) to `device`. hashes: scratch of BLOCK.

    In blocks, so that the cache misses of many topics overlap: each step asks for what the next reads.
    """
    mask = len(slots) - 1
    for first in range(0, n, BLOCK):
        last = min(first + BLOCK, n)
        for i in range(first, last):
            if i + BLOCK < n:
                prefetch(buffer, int(peek(topic_off, i + BLOCK)))
            h = hash_bytes(buffer, int(peek(topic_off, i)), int(peek(topic_len, i)), key)
            poke(hashes, i - first, h)
            prefetch_far(slots, signed(h & _LOW) & mask)
        for i in range(first, last):
            d = _next_candidate(peek(hashes, i - first), -1, slots, mask)
            poke(device, i, d)
            if d >= 0:
                prefetch_far(off, signed(peek(slots, d) & _LOW) - 1)
        for i in range(first, last):
            d = int(peek(device, i))
            if d >= 0:
                start = int(peek(off, signed(peek(slots, d) & _LOW) - 1))
                prefetch_far(blob, start)
                prefetch_far(blob, start + int(peek(topic_len, i)))
        for i in range(first, last):
            found = _confirm(
                int(peek(device, i)), peek(hashes, i - first), buffer, int(peek(topic_off, i)),
                int(peek(topic_len, i)), slots, mask, blob, off,
            )  # fmt: skip
            poke(device, i, found)
