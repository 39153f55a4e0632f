"""What each feature of a shard holds per device and per series, in bytes, as soon as it is made.

    python -m greenlang_iot.bench.memory_cost

Features are made for three registries; devices and series are told apart by what one has more of than the
other. Counted are arrays, touched or not; what is not an array is small, but for the lake's names (Arrow).
"""

import gc
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import orjson

from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.bench.workload import registry
from greenlang_iot.decode.layouts import Layouts
from greenlang_iot.decode.tables import Tables
from greenlang_iot.decode.topics import TopicTable
from greenlang_iot.detect import state
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices.columns import Columns
from greenlang_iot.devices.registry import parse
from greenlang_iot.encode.arrow import ArrowEncoder
from greenlang_iot.encode.lines import LineEncoder
from greenlang_iot.encode.records import RecordEncoder
from greenlang_iot.formats.topics import TopicTemplate
from greenlang_iot.model.directory import Directory
from greenlang_iot.quality.counter import QualityCounter
from greenlang_iot.runtime.layout import owned, plan
from greenlang_iot.runtime.looks import Looks
from greenlang_iot.settings.model import (
    AlertSettings,
    DetectSettings,
    InfluxSettings,
    MqttSettings,
    QualitySettings,
)

DEVICES = 20_000
_MQTT = MqttSettings()
_NOBODY: Any = None
"""In the place of a detector that is counted elsewhere."""


class Held(NamedTuple):
    """Bytes."""

    per_device: float
    per_series: float


FEATURES: dict[str, Callable[[Directory], Any]] = {
    "topics": lambda d: TopicTable(d, TopicTemplate(_MQTT.topic)),
    "decode": lambda d: (Tables.of(d), Layouts(d.n_devices)),
    "detect": lambda d: Detector(d, DetectSettings()),
    "alerts": lambda d: Alerter(d, AlertSettings()),
    "quality": lambda d: QualityCounter(d, QualitySettings(), time.time_ns()),
    "line protocol": lambda d: LineEncoder(d, InfluxSettings()),
    "Kafka records": lambda d: RecordEncoder(d, 1, "none", 65_536),
    "lake": ArrowEncoder,
    "watches and looks": lambda d: (
        owned(plan(d, _MQTT, 1, "bench")[0], d, _MQTT, 1),
        Looks(_NOBODY, d, lambda: d),
    ),
}


def measure(devices: int = DEVICES) -> dict[str, Held]:
    """By feature; "registry, mapped" is the file that all processes share."""
    sizes = ((devices, 2), (2 * devices, 2), (devices, 4))
    with TemporaryDirectory() as folder:
        taken = [_taken(Path(folder), *size) for size in sizes]
    small, more_devices, more_series = (np.array(list(one.values()), np.float64) for one in taken)
    per_series = (more_series - small) / (2 * devices)
    per_device = (more_devices - small) / devices - 2 * per_series
    return {
        name: Held(float(device), float(series))
        for name, device, series in zip(taken[0], per_device, per_series, strict=True)
    }


def _taken(folder: Path, devices: int, metrics: int) -> dict[str, int]:
    path = folder / "registry"
    directory = Columns.write(parse(orjson.dumps(registry(devices, metrics))), path).open()
    found = {"registry, mapped": path.stat().st_size}
    arrays = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    state.UNTOUCHED = (
        1 << 62
    )  # rows of a detector from numpy, however many: what is mapped is not traced
    for name, make in FEATURES.items():
        make(directory)  # what is made once, whatever the size
        gc.collect()
        tracemalloc.start()
        try:
            held = make(directory)
            gc.collect()
            taken = tracemalloc.take_snapshot().filter_traces([arrays])
            found[name] = sum(trace.size for trace in taken.traces)
        finally:
            tracemalloc.stop()
        del held
    return found


def main() -> None:
    print(f"{'':18} {'a device':>9} {'a series':>9}")
    for name, held in measure().items():
        print(f"{name:18} {held.per_device:9.0f} {held.per_series:9.0f}")


if __name__ == "__main__":
    main()
