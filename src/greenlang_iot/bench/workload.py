"""The reference workload: 128-byte PUBLISH packets, 86 bytes of JSON with one reading, many devices.

Every packet of a lap is one row of a uint8 matrix, so that the next lap is a few column assignments.
Nothing repeats, so duplicate suppression has no work to skip; and every value follows from device and
time stamp, so that a sink can check it without being told: Gaussian-like noise of 0.15 around 21, and
a spike in one of 131,072 readings.
"""

from typing import Any

import numpy as np

from greenlang_iot.bench.kernels_check import LAP_MS, write_lap
from greenlang_iot.model.batches import I64, U8, U16

PACKET = 128
METRICS = ("temperature", "conductance", "illuminance", "diffusivity")
"""All of one length; a lap carries one of them."""
METRIC = METRICS[0]
SITES = 4
FIRST_SEQ = 10_000_000  # a JSON number has no leading zero
_TOPIC = "greenlang/acme/s{site:02d}/d{device:0{digits}d}/telemetry"
_PAYLOAD = '{{"ts":{ts:013d},"metric":"{metric}","value":{value},"unit":"Cel","seq":{seq:08d}}}'
_TOPIC_AT = 4
_DIGITS = 5
_PAYLOAD_BYTES = 86
_VALUE_AT = len('{"ts":0000000000000,"metric":"temperature","value":')


def registry(devices: int, metrics: int = 1) -> dict[str, Any]:
    """The registry document of the workload's devices."""
    metric = {"unit": "Cel", "range": [-50.0, 150.0], "interval": 60.0, "profile": "default"}
    return {
        "version": 1,
        "types": {"bench": {"metrics": dict.fromkeys(METRICS[:metrics], metric)}},
        "devices": [
            {
                "id": f"d{d:0{_digits_of(devices)}d}",
                "org": "acme",
                "site": f"s{d % SITES:02d}",
                "type": "bench",
            }
            for d in range(devices)
        ],
    }


def topic(device: int, fleet: int = 100_000) -> str:
    """Where a device of a fleet of so many publishes."""
    return _TOPIC.format(site=device % SITES, device=device, digits=_digits_of(fleet))


def _digits_of(fleet: int) -> int:
    """Of a device's number: five, as the counting sinks expect, unless there are more devices."""
    return max(_DIGITS, len(str(fleet - 1)))


class Workload:
    """Packets for a set of devices, in random order, one message a device and lap.

    start_ms: time stamp of the lap before the first one.
    """

    def __init__(
        self,
        devices: I64,
        seed: int,
        start_ms: int,
        *,
        fleet: int = 100_000,
        metrics: int = 1,
        qos: int = 1,
        version5: bool = True,
    ) -> None:
        self._devices: I64 = np.random.default_rng(seed).permutation(devices)
        self._metrics = metrics
        self._qos = qos
        self._fleet = fleet
        self._id_at = _TOPIC_AT + len(topic(0, fleet))
        self._properties = b"\0" * version5  # their length
        self._payload_at = self._id_at + 2 * qos + len(self._properties)
        self.packet = self._payload_at + _PAYLOAD_BYTES
        self.n = len(self._devices)
        self._rows = self._first_rows(start_ms)
        self._ts = start_ms
        self._seq = FIRST_SEQ

    def _first_rows(self, ts: int) -> U8:
        """A packet of every device: they differ in the digits of site and device."""
        packet = self._packet(0, ts)
        rows: U8 = np.tile(np.frombuffer(packet, np.uint8), (self.n, 1))
        site_at = packet.index(b"/s00/d") + 2
        for at, width, number in (
            (site_at, 2, self._devices % SITES),
            (site_at + 4, _digits_of(self._fleet), self._devices),
        ):
            for digit in range(width):
                rows[:, at + digit] = ord("0") + number // 10 ** (width - 1 - digit) % 10
        return rows

    def _packet(self, device: int, ts: int) -> bytes:
        name = topic(device, self._fleet).encode()
        payload = _PAYLOAD.format(ts=ts, metric=METRIC, value="00.000", seq=FIRST_SEQ).encode()
        body = (
            len(name).to_bytes(2, "big") + name + b"\0\0" * self._qos + self._properties + payload
        )
        # the length takes two bytes when it is over 127
        size = len(body)
        length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
        return bytes([0x30 | self._qos << 1]) + length + body

    def lap(self, ids: U16) -> U8:
        """The packets of the next lap as uint8[n, packet], under these packet ids."""
        self._ts += LAP_MS
        self._seq += 1
        metric = METRICS[(self._seq - FIRST_SEQ - 1) % self._metrics]
        text = _PAYLOAD.format(ts=self._ts, metric=metric, value="00.000", seq=self._seq)
        write_lap(
            self._rows, self._payload_at, np.frombuffer(text.encode(), np.uint8), _VALUE_AT,
            self._devices, self._ts, self._id_at if self._qos else 0, ids,
        )  # fmt: skip
        return self._rows

    def payloads(self) -> list[bytes]:
        """The payloads of the present lap, each an object of its own."""
        return [row[self._payload_at :].tobytes() for row in self._rows]
