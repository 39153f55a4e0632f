"""The Directory in the form that the scanner reads: all that it asks of a series in one cache line."""

from dataclasses import dataclass

import numpy as np

from greenlang_iot.decode.kernels import HIGH, LINE, LOW, METRIC_TEXT, UNIT_TEXT
from greenlang_iot.model.batches import F64, I64, U8, U64
from greenlang_iot.model.directory import Directory, Texts

_SPARE = 8  # readable bytes behind the last text (wide loads)
_DISABLED = np.uint64(2**63)  # as the length of a metric's name: no text is that long


@dataclass(slots=True, frozen=True)
class Tables:
    """What `kernels.scan` needs of a Directory; copies, so that every array is writable.

    A text is three words: its first 8 bytes (zeros behind the end of a shorter one), its length, and
    where it begins in `blob`. The line of series s are the words `LINE * s` and on: the text of the
    metric at METRIC_TEXT, that of the unit at UNIT_TEXT, the valid range (float64) at LOW and HIGH.
    """

    series_start: I64
    lines: U64
    bounds: F64  # the same memory as `lines`
    blob: U8

    @staticmethod
    def of(directory: Directory) -> "Tables":
        metric, unit = directory.metric, directory.unit
        lines = np.empty((directory.n_series, LINE), np.uint64)
        bounds = lines.view(np.float64)
        lines[:, METRIC_TEXT : METRIC_TEXT + 3] = _words(metric, 0)[directory.series_metric]
        lines[:, UNIT_TEXT : UNIT_TEXT + 3] = _words(unit, len(metric.blob))[directory.series_unit]
        lines[directory.series_enabled == 0, METRIC_TEXT + 1] = _DISABLED
        bounds[:, LOW] = directory.low
        bounds[:, HIGH] = directory.high
        return Tables(
            directory.series_start.copy(),
            lines.reshape(-1),
            bounds.reshape(-1),
            np.concatenate((metric.blob, unit.blob, np.zeros(_SPARE, np.uint8))),
        )


def _words(texts: Texts, start: int) -> U64:
    """The three words of each text of a column whose blob begins at `start`; shape (n, 3)."""
    words = np.empty((len(texts), 3), np.uint64)
    words[:, 0] = [int.from_bytes(texts.raw(i)[:8], "little") for i in range(len(texts))]
    words[:, 1] = np.diff(texts.off)
    words[:, 2] = texts.off[:-1] + start
    return words
