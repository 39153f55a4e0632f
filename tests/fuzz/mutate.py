"""Batches of mutated inputs, made with numpy: a million in about a second."""

import ctypes
import mmap
from collections.abc import Sequence

import numpy as np

from greenlang_iot.model.batches import I32, U8

_PROT_NONE = 0


class Mutator:
    """Inputs from a corpus, each with up to four flaws: bytes changed, inserted, deleted, cut, spliced.

    corpus: what the inputs are made of. width: longest input in bytes. alphabet: bytes that are
    likely to matter to the reader under test; half of the changed bytes are taken from it.
    """

    def __init__(self, corpus: Sequence[bytes], width: int, alphabet: bytes, seed: int) -> None:
        self.width = width
        self._rng = np.random.default_rng(seed)
        self._alphabet = np.frombuffer(alphabet, np.uint8)
        self._corpus = np.zeros((len(corpus), width), np.uint8)
        self._lengths = np.array([min(len(item), width) for item in corpus], np.int64)
        for row, item in zip(self._corpus, corpus, strict=True):
            row[: min(len(item), width)] = np.frombuffer(item[:width], np.uint8)

    def batch(self, n: int) -> tuple[U8, I32]:
        """(rows of shape (n, width), their lengths); what is behind a length is whatever it was."""
        rng = self._rng
        pick = rng.integers(len(self._corpus), size=n)
        rows, lengths = self._corpus[pick], self._lengths[pick]
        for share in (0.6, 0.25, 0.1, 0.05):
            flawed = np.flatnonzero(rng.random(n) < share)
            rng.shuffle(flawed)
            for kind, some in enumerate(np.array_split(flawed, 6)):
                self._flaw(kind, rows, lengths, some)
        return rows, lengths.astype(np.int32)

    def _flaw(self, kind: int, rows: U8, lengths: "np.ndarray", some: "np.ndarray") -> None:
        rng, width = self._rng, self.width
        at = (rng.random(len(some)) * (lengths[some] + (kind == 2))).astype(np.int64)
        at = np.minimum(at, width - 1)
        if kind == 0:
            rows[some, at] ^= (1 << rng.integers(8, size=len(some))).astype(np.uint8)
        elif kind == 1:
            rows[some, at] = self._bytes(len(some))
        elif kind == 2:
            self._move(rows, some, at, -1)
            rows[some, at] = self._bytes(len(some))
            lengths[some] = np.minimum(lengths[some] + 1, width)
        elif kind == 3:
            self._move(rows, some, at, 1)
            lengths[some] = np.maximum(lengths[some] - 1, 0)
        elif kind == 4:
            lengths[some] = at
        else:  # the head of one input and the tail of another
            other = rng.integers(len(self._corpus), size=len(some))
            tail = np.arange(width) >= at[:, None]
            rows[some] = np.where(tail, self._corpus[other], rows[some])
            lengths[some] = np.where(self._lengths[other] > at, self._lengths[other], at)

    def _move(self, rows: U8, some: "np.ndarray", at: "np.ndarray", by: int) -> None:
        """Move what is behind `at` by one byte to the left (by=1) or to the right (by=−1)."""
        columns = np.arange(self.width)
        source = np.where(columns >= at[:, None], columns + by, columns)
        rows[some] = np.take_along_axis(rows[some], np.clip(source, 0, self.width - 1), 1)

    def _bytes(self, n: int) -> U8:
        rng = self._rng
        chosen = self._alphabet[rng.integers(len(self._alphabet), size=n)]
        anything = rng.integers(256, size=n).astype(np.uint8)
        return np.where(rng.random(n) < 0.5, chosen, anything)


def guarded(size: int) -> U8:
    """`size` writable bytes whose end is the end of a page that nothing readable follows.

    A read behind them ends the process (SIGSEGV), in compiled code too, where a kernel's wide loads
    are not checked.
    """
    page = mmap.PAGESIZE
    pages = -(-size // page)
    memory = mmap.mmap(-1, (pages + 1) * page)
    whole = np.frombuffer(memory, np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    guard = ctypes.c_void_p(whole.ctypes.data + pages * page)
    if libc.mprotect(guard, ctypes.c_size_t(page), _PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect")
    return whole[pages * page - size : pages * page]
