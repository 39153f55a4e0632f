"""What an encoder copies for every reading of a series: a text of its device, one of its metric.

Both lie in one blob, each in a row that begins at a multiple of STEP bytes:

    4 × uint32 (sizes, and a number of the encoder's own) · the text · room for copies sixteen bytes a step

A series has eight bytes, `place[2 * s : 2 * s + 2]`: where its device's and its metric's row begin, in steps.
"""

from collections.abc import Sequence

import numpy as np

from greenlang_iot.encode.kernels_texts import STEP, device_rows
from greenlang_iot.model.batches import I32, I64, SLACK, U8, U32
from greenlang_iot.model.directory import Directory, Texts, packed, writable


class SeriesTexts:
    """The rows of all devices and metrics.

    metrics: per kind of metric one or two texts; kind: of each series. A device's row: `before` (by
    before_of), its name (`names`), `after` (by after_of); with_key: its id as a Kafka key first.
    number: what stands in the device's head.
    Heads: a device's (size of the key's part, of the rest, number), a metric's (sizes of its texts).
    longest: no pair of rows has more text than this.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        metrics: Sequence[tuple[bytes, bytes]],
        kind: I32,
        names: Texts,
        before: Sequence[bytes],
        before_of: I32,
        after: Sequence[bytes],
        after_of: I32,
        number: I32,
        with_key: bool,
    ) -> None:
        rows = [_steps(len(one) + len(two)) for one, two in metrics]
        kind_first = np.concatenate((np.zeros(1, np.int64), np.cumsum(rows, dtype=np.int64)))
        befores, afters = packed(before), packed(after)
        key = np.diff(directory.device.off) + 4 if with_key else 0
        size = np.diff(names.off) + key
        size = size + np.diff(befores.off)[before_of] + np.diff(afters.off)[after_of]
        steps = _steps(size)
        first: I64 = kind_first[-1] + np.cumsum(steps) - steps
        end = int(kind_first[-1] + steps.sum())
        self.blob: U8 = _aligned(STEP * end + SLACK)
        self.heads: U32 = self.blob.view(np.uint32)
        for at, (one, two) in zip(kind_first.tolist(), metrics, strict=False):
            self.heads[4 * at : 4 * at + 2] = len(one), len(two)
            start = STEP * at + STEP
            self.blob[start : start + len(one) + len(two)] = np.frombuffer(one + two, np.uint8)
        device_rows(
            first, writable(directory.device.blob), directory.device.off,
            writable(names.blob), names.off,
            before_of, befores.blob, befores.off, after_of, afters.blob, afters.off,
            with_key, number, self.blob, self.heads,
        )  # fmt: skip
        self.place: U32 = np.empty(2 * directory.n_series, np.uint32)
        self.place[0::2] = first[directory.series_device]
        self.place[1::2] = kind_first[kind]
        self.longest = int(size.max(initial=0)) + max(
            (len(a) + len(b) for a, b in metrics), default=0
        )


def _steps(size: int | I64) -> I64:
    """Steps of a row with so much text."""
    return np.int64(1) + (np.asarray(size, np.int64) + STEP - 1) // STEP


def _aligned(size: int) -> U8:
    """Zeros whose first byte begins a cache line."""
    size = -(-size // STEP) * STEP
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]
