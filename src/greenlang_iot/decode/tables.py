"""The Directory in the form that the scanner reads: few columns, those read together side by side."""

from dataclasses import dataclass

import numpy as np

from greenlang_iot.model.batches import F64, I32, I64, U8, U64
from greenlang_iot.model.directory import Directory, Texts

_SPARE = 8  # readable bytes behind the last text (wide loads)


@dataclass(slots=True, frozen=True)
class TextTable:
    """Texts with their first 8 bytes as a word (zeros behind the end of a shorter one)."""

    blob: U8
    off: I64
    head: U64

    @staticmethod
    def of(texts: Texts) -> "TextTable":
        heads = [int.from_bytes(texts.raw(i)[:8], "little") for i in range(len(texts))]
        spare = np.zeros(_SPARE, np.uint8)
        return TextTable(
            np.concatenate((texts.blob, spare)), texts.off.copy(), np.array(heads, np.uint64)
        )


@dataclass(slots=True, frozen=True)
class Tables:
    """What `kernels.scan` needs of a Directory; copies, so that every array is writable."""

    series_start: I64
    meta: I32  # per series: metric (−1: disabled), unit
    bounds: F64  # per series: lowest and highest valid value
    metric: TextTable
    unit: TextTable

    @staticmethod
    def of(directory: Directory) -> "Tables":
        meta = np.empty((directory.n_series, 2), np.int32)
        meta[:, 0] = np.where(directory.series_enabled != 0, directory.series_metric, -1)
        meta[:, 1] = directory.series_unit
        return Tables(
            directory.series_start.copy(),
            meta.ravel(),
            np.stack((directory.low, directory.high), axis=1).ravel(),
            TextTable.of(directory.metric),
            TextTable.of(directory.unit),
        )
