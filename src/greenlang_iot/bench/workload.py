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
METRIC = "temperature"
SITES = 4
FIRST_SEQ = 10_000_000  # a JSON number has no leading zero
_TOPIC = "greenlang/acme/s{site:02d}/d{device:05d}/telemetry"
_PAYLOAD = '{{"ts":{ts:013d},"metric":"temperature","value":{value},"unit":"Cel","seq":{seq:08d}}}'
_TOPIC_AT = 4
_ID_AT = _TOPIC_AT + len(_TOPIC.format(site=0, device=0))
_PAYLOAD_AT = _ID_AT + 3  # packet id, property length 0
_TS_AT = _PAYLOAD_AT + len('{"ts":')
_VALUE_AT = _TS_AT + len('0000000000000,"metric":"temperature","value":')
_SEQ_AT = PACKET - len("00000000}")
_VALUES: U8 = np.frombuffer(
    b"".join(b"%02d.%03d" % divmod(v, 1000) for v in range(100_000)), np.uint8
).reshape(-1, 6)
_32 = np.uint64(0xFFFF_FFFF)


def registry(devices: int) -> dict[str, Any]:
    """The registry document of the workload's devices."""
    metric = {"unit": "Cel", "range": [-50.0, 150.0], "interval": 60.0, "profile": "default"}
    return {
        "version": 1,
        "types": {"bench": {"metrics": {METRIC: metric}}},
        "devices": [
            {"id": f"d{d:05d}", "org": "acme", "site": f"s{d % SITES:02d}", "type": "bench"}
            for d in range(devices)
        ],
    }


def topic(device: int) -> str:
    """Where a device publishes."""
    return _TOPIC.format(site=device % SITES, device=device)


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

    def __init__(self, devices: I64, seed: int, start_ms: int) -> None:
        self._devices: I64 = np.random.default_rng(seed).permutation(devices)
        rows = [self._packet(int(device), start_ms) for device in self._devices]
        self.n = len(rows)
        self._rows: U8 = np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(self.n, PACKET)
        self._ts = start_ms
        self._seq = FIRST_SEQ

    @staticmethod
    def _packet(device: int, ts: int) -> bytes:
        name = topic(device).encode()
        payload = _PAYLOAD.format(ts=ts, value="00.000", seq=FIRST_SEQ).encode()
        packet = b"\x32" + bytes([PACKET - 2]) + len(name).to_bytes(2, "big") + name
        packet += b"\0\0" + b"\0" + payload
        assert len(packet) == PACKET, "five digits of a device number are all there is room for"
        return packet

    def lap(self, ids: U16) -> U8:
        """The packets of the next lap as uint8[n, 128], under these packet ids."""
        self._ts += LAP_MS
        self._seq += 1
        rows = self._rows
        _digits(rows, _TS_AT, 13, self._ts)
        _digits(rows, _SEQ_AT, 8, self._seq)
        rows[:, _VALUE_AT : _VALUE_AT + 6] = _VALUES[thousandths(self._devices, self._ts)]
        rows[:, _ID_AT] = ids >> 8
        rows[:, _ID_AT + 1] = ids & 0xFF
        return rows

    def payloads(self) -> list[bytes]:
        """The payloads of the present lap, each an object of its own."""
        return [row[_PAYLOAD_AT:].tobytes() for row in self._rows]


def _digits(rows: U8, at: int, width: int, value: int) -> None:
    """Write a number's decimal digits into the same columns of all rows."""
    rows[:, at : at + width] = np.frombuffer(b"%0*d" % (width, value), np.uint8)
