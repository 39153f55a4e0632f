"""What a detector would have expected of readings that were stored: for a picture of the past.

The shards do not keep what they expected. A fresh detector that is shown the same readings in the same
order comes to nearly the same: level and spread forget what lies more than some dozens of readings back.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from greenlang_iot.model.batches import F32
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.model.numbers import batch_of_numbers
from greenlang_iot.settings.model import DetectSettings, SecondStageSettings


def series_of(registry: Directory, entry: int, metric: str) -> int | None:
    """Index of the series, or None; entry: index of the device."""
    if entry < 0:
        return None
    first, end = int(registry.series_start[entry]), int(registry.series_start[entry + 1])
    names = (registry.metric[int(m)] for m in registry.series_metric[first:end])
    return next((first + i for i, name in enumerate(names) if name == metric), None)


def bands(
    registry: Directory,
    series: int,
    settings: DetectSettings,
    ts_ns: Sequence[int],
    value: Sequence[float],
) -> tuple[F32, F32]:
    """(expected, band) per reading, NaN while learning. ts_ns, value: oldest first."""
    from greenlang_iot.detect.ensemble import Detector  # takes a second: only when somebody looks

    alone = settings.model_copy(update={"second_stage": SecondStageSettings(enabled=False)})
    scores = Detector(only(registry, series), alone).score(
        batch_of_numbers(
            np.zeros(len(ts_ns), np.int32), np.array(ts_ns, np.int64), np.array(value, np.float64)
        )
    )
    return scores.expected, scores.band


_DEVICE = ("org_of", "site_of", "type_of", "enabled")
_SERIES = (
    "series_metric",
    "series_unit",
    "low",
    "high",
    "warn_low",
    "warn_high",
    "step",
    "interval_ns",
    "profile",
    "series_enabled",
)


def only(d: Directory, series: int) -> Directory:
    """The Directory of one series alone."""
    device = int(d.series_device[series])
    name = np.frombuffer(d.device.raw(device), np.uint8)
    return replace(
        d,
        device=Texts(name, np.array([0, len(name)], np.int64)),
        series_start=np.array([0, 1], np.int64),
        series_device=np.zeros(1, np.int32),
        **{column: getattr(d, column)[device : device + 1] for column in _DEVICE},
        **{column: getattr(d, column)[series : series + 1] for column in _SERIES},
    )
