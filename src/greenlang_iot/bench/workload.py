"""The reference workload: 128-byte PUBLISH packets, 86 bytes of JSON with one reading, many devices.

Every packet of a lap is one row of a uint8 matrix, so that the next lap is a few column assignments.
Nothing repeats, so duplicate suppression has no work to skip; and every value follows from device and
time stamp, so that a sink can check it without being told: Gaussian-like noise of 0.15 around 21, and
a spike in one of 131,072 readings.
"""

from typing import Any

import numpy as np

from greenlang_iot.bench.kernels_check import LAP_MS, SPIKE_MASK
from greenlang_iot.model.batches import I64, U8, U16

PACKET = 128
METRICS = ("temperature", "conductance", "illuminance", "diffusivity")
"""All of one length; a lap carries one of them."""
METRIC = METRICS[0]
SITES = 4
FIRST_SEQ = 10_000_000  # a JSON number has no leading zero
_TOPIC = "greenlang/acme/s{site:02d}/d{device:0{digits}d}/telemetry"
_PAYLOAD = '{{"ts":{ts:013d},"metric":"temperature","value":{value},"unit":"Cel","seq":{seq:08d}}}'
_TOPIC_AT = 4
_DIGITS = 5
_PAYLOAD_BYTES = 86
# where things are in a payload
_TS_AT = len('{"ts":')
_METRIC_AT = _TS_AT + len('0000000000000,"metric":"')
_VALUE_AT = _METRIC_AT + len('temperature","value":')
_SEQ_AT = _PAYLOAD_BYTES - len("00000000}")
_VALUES: U8 = np.frombuffer(
    b"".join(b"%02d.%03d" % divmod(v, 1000) for v in range(100_000)), np.uint8
).reshape(-1, 6)
_32 = np.uint64(0xFFFF_FFFF)


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


def thousandths(devices: I64, ts_ms: int) -> I64:
    """The values of these devices at a time stamp, × 1000 (`kernels_check.expected` in numpy)."""
    h = (devices.astype(np.uint64) * np.uint64(0x9E37_79B1)) ^ np.uint64(
        (ts_ms & 0x3FFF_FFFF) * 0x85EB_CA77
    )
    h &= _32
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(0x2C1B_3C6D)) & _32
    h ^= h >> np.uint64(12)
    noise = sum((h >> np.uint64(shift)) & np.uint64(255) for shift in (0, 8, 16, 24))
    spike = np.where(h & np.uint64(SPIKE_MASK) == 0, 5000, 0)
    result: I64 = np.asarray(noise).astype(np.int64) + 20_490 + spike
    return result


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
        self._metrics = [np.frombuffer(name.encode(), np.uint8) for name in METRICS[:metrics]]
        self._qos = qos
        self._fleet = fleet
        self._id_at = _TOPIC_AT + len(topic(0, fleet))
        self._properties = b"\0" * version5  # their length
        self._payload_at = self._id_at + 2 * qos + len(self._properties)
        self.packet = self._payload_at + _PAYLOAD_BYTES
        rows = [self._packet(int(device), start_ms) for device in self._devices]
        self.n = len(rows)
        self._rows: U8 = np.frombuffer(bytearray(b"".join(rows)), np.uint8)
        self._rows = self._rows.reshape(self.n, self.packet)
        self._ts = start_ms
        self._seq = FIRST_SEQ

    def _packet(self, device: int, ts: int) -> bytes:
        name = topic(device, self._fleet).encode()
        payload = _PAYLOAD.format(ts=ts, value="00.000", seq=FIRST_SEQ).encode()
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
        rows, at = self._rows, self._payload_at
        metric = self._metrics[(self._seq - FIRST_SEQ - 1) % len(self._metrics)]
        _digits(rows, at + _TS_AT, 13, self._ts)
        _digits(rows, at + _SEQ_AT, 8, self._seq)
        rows[:, at + _METRIC_AT : at + _METRIC_AT + len(metric)] = metric
        rows[:, at + _VALUE_AT : at + _VALUE_AT + 6] = _VALUES[thousandths(self._devices, self._ts)]
        if self._qos:
            rows[:, self._id_at] = ids >> 8
            rows[:, self._id_at + 1] = ids & 0xFF
        return rows

    def payloads(self) -> list[bytes]:
        """The payloads of the present lap, each an object of its own."""
        return [row[self._payload_at :].tobytes() for row in self._rows]


def _digits(rows: U8, at: int, width: int, value: int) -> None:
    """Write a number's decimal digits into the same columns of all rows."""
    rows[:, at : at + width] = np.frombuffer(b"%0*d" % (width, value), np.uint8)
