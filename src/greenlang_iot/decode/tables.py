"""The Directory in the form that the scanner reads: what it asks of a series, once per kind of series."""

from dataclasses import dataclass

import numpy as np

from greenlang_iot.decode.kernels import METRIC_TEXT, UNIT_TEXT
from greenlang_iot.decode.kernels_layouts import HIGH, LINE, LOW
from greenlang_iot.model.batches import F64, I32, I64, U8, U64
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.model.kinds import kinds

_SPARE = 8  # readable bytes behind the last text (wide loads)
_DISABLED = np.uint64(2**63)  # as the length of a metric's name: no text is that long


@dataclass(slots=True, frozen=True)
class Tables:
    """What `kernels.scan` needs of a Directory; copies, so that every array is writable.

    Series that have everything in common that is asked here are of one kind, and kinds are few, so that
    their lines stay in the nearest cache. A text is three words: its first 8 bytes (zeros behind the end
    of a shorter one), its length, and where it begins in `blob`. The line of kind k are the words
    `LINE * k` and on: the text of the metric at METRIC_TEXT, that of the unit at UNIT_TEXT, the valid
    range (float64) at LOW and HIGH.
    """

    series_start: I64
    kind: I32  # of each series
    lines: U64
    bounds: F64  # the same memory as `lines`
    blob: U8

    @staticmethod
    def of(directory: Directory) -> "Tables":
        metric, unit = directory.metric, directory.unit
        d = directory
        first, kind = kinds(d.series_metric, d.series_unit, d.low, d.high, d.series_enabled)
        lines = np.empty((len(first), LINE), np.uint64)
        bounds = lines.view(np.float64)
        lines[:, METRIC_TEXT : METRIC_TEXT + 3] = _words(metric, 0)[directory.series_metric[first]]
        lines[:, UNIT_TEXT : UNIT_TEXT + 3] = _words(unit, len(metric.blob))[
            directory.series_unit[first]
        ]
        lines[directory.series_enabled[first] == 0, METRIC_TEXT + 1] = _DISABLED
        bounds[:, LOW] = directory.low[first]
        bounds[:, HIGH] = directory.high[first]
        return Tables(
            directory.series_start.copy(),
            kind,
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
