"""Real readings: the hourly flow of a water network that river ships (`WaterFlow`), as one device.

The series is from 2022; it is re-timed so that it ends at the start of the run, a reading a minute
instead of an hour (a day of its rhythm passes in 24 minutes), and published evenly over the run.
"""

import csv
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from greenlang_iot.devices.catalog import TYPES
from greenlang_iot.model.errors import GatewayError
from greenlang_iot.simulate.manifest import Message
from greenlang_iot.simulate.payloads import Writer

DEVICE = "waterflow-1"
SPACING = 60.0
"""Seconds of event time between two readings."""
_TYPE = "flow-meter"


def waterflow() -> list[float]:
    """The values in L/s, in order. GatewayError where river is not installed or changed its file.

    The file is read without importing river, which takes seconds.
    """
    spec = importlib.util.find_spec("river")
    if spec is None or not spec.submodule_search_locations:
        raise GatewayError("the WaterFlow series comes with river, which is not installed")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "water-flow.csv"
    try:
        with path.open(newline="") as file:
            rows = csv.reader(file)
            next(rows)
            return [float(row[1]) for row in rows]
    except (OSError, StopIteration, IndexError, ValueError) as error:
        raise GatewayError(f"{path} does not hold the WaterFlow series: {error}") from error


def add_device(document: dict[str, Any]) -> None:
    """Put the device into a registry document, at the place of the document's first device."""
    first = document["devices"][0]
    document["types"].setdefault(_TYPE, TYPES[_TYPE])
    document["devices"].append(
        {"id": DEVICE, "org": first["org"], "site": first["site"], "type": _TYPE}
        | {"metrics": {"flow": {"interval": SPACING}}}
    )


def messages(
    document: dict[str, Any], topic: str, start_ns: int, delay: float, seconds: float
) -> Iterator[Message]:
    """The whole series, published evenly between `delay` and `seconds` after the start."""
    (entry,) = (d for d in document["devices"] if d["id"] == DEVICE)
    address = topic.format(org=entry["org"], site=entry["site"], device=DEVICE)
    writer = Writer(DEVICE, ("flow",), ("L/s",), "single", "iso", True, False)
    values = waterflow()
    spacing_ms = round(SPACING * 1000)
    for k, value in enumerate(values):
        ts_ns = (start_ns // 1_000_000 - (len(values) - k) * spacing_ms) * 1_000_000
        text, reading = writer.single(0, ts_ns, value, k)
        when = delay + (seconds - delay) * k / len(values)
        yield Message(when, address, text.encode(), [reading])
