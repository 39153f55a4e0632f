"""An example format: `metric;value;epoch milliseconds`, one reading a line."""

from collections.abc import Sequence

from greenlang_iot.formats.base import Payload, Reading


class Semicolons:
    def __init__(self, separator: str = ";") -> None:
        self.separator = separator

    def read(self, payload: Payload) -> Sequence[Reading]:
        readings = []
        for i, line in enumerate(payload.data.decode().splitlines()):
            metric, value, ms = line.split(self.separator)
            readings.append(Reading(f"[{i}]", metric, float(value), int(ms) * 1_000_000))
        return readings
