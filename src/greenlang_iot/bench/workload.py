"""The reference workload: 128-byte PUBLISH packets, 86 bytes of JSON with one reading, many devices.

Every packet of a lap is one row of a uint8 matrix, so that rewriting time stamps, sequence numbers and packet
ids for the next lap is a few column assignments. Nothing repeats: duplicate suppression has no work to skip.
"""

from typing import Any

import numpy as np

from greenlang_iot.model.batches import U8, U16, U64

PACKET = 128
METRIC = "temperature"
_TOPIC = "greenlang/acme/s{site:02d}/d{device:05d}/telemetry"
_PAYLOAD = (
    '{{"ts":{ts:013d},"metric":"temperature","value":{value:.3f},"unit":"Cel","seq":{seq:08d}}}'
)
_TOPIC_AT = 4
_ID_AT = _TOPIC_AT + len(_TOPIC.format(site=0, device=0))
_PAYLOAD_AT = _ID_AT + 3  # packet id, property length 0
_TS_AT = _PAYLOAD_AT + len('{"ts":')
_TS_DIGITS = 13
_SEQ_AT = PACKET - len("00000000}")
_SEQ_DIGITS = 8
_FIRST_SEQ = 10_000_000  # a JSON number has no leading zero
SITES = 4


def registry(devices: int) -> dict[str, Any]:
    """The registry document of the workload's devices."""
    metric = {
        "unit": "Cel",
        "range": [-50.0, 150.0],
        "interval": 60.0,
        "profile": "default",
    }
    return {
        "version": 1,
        "types": {"bench": {"metrics": {METRIC: metric}}},
        "devices": [
            {"id": f"d{d:05d}", "org": "acme", "site": f"s{d % SITES:02d}", "type": "bench"}
            for d in range(devices)
        ],
    }


class Workload:
    """Packets for a set of devices, in random order, one message a device and lap.

    device_numbers: int array. `lap()` returns all packets of the next lap as uint8[n, 128].
    """

    def __init__(self, device_numbers: np.ndarray, seed: int, start_ms: int) -> None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(device_numbers)
        values = 21.0 + rng.normal(0.0, 0.5, len(order))
        rows = [
            self._packet(int(device), float(value), start_ms)
            for device, value in zip(order, values, strict=True)
        ]
        self.n = len(rows)
        self._rows: U8 = np.frombuffer(bytearray(b"".join(rows)), np.uint8).reshape(self.n, PACKET)
        self._ts = start_ms
        self._lap = 0
        self._rng = rng

    @staticmethod
    def _packet(device: int, value: float, ts: int) -> bytes:
        topic = _TOPIC.format(site=device % SITES, device=device).encode()
        # seven characters of value at all times: 2 digits, point, 3 digits, and one of padding
        payload = _PAYLOAD.format(ts=ts, value=value, seq=_FIRST_SEQ).encode()
        payload = payload.replace(
            b'"unit":', b'"unit":' + b" " * (PACKET - _PAYLOAD_AT - len(payload))
        )
        packet = b"\x32" + bytes([PACKET - 2]) + len(topic).to_bytes(2, "big") + topic
        packet += b"\0\0" + b"\0" + payload
        assert len(packet) == PACKET
        return packet

    def lap(self, ids: U16) -> U8:
        """The packets of the next lap, under these packet ids."""
        self._lap += 1
        self._ts += 10
        _digits(self._rows, _TS_AT, _TS_DIGITS, np.uint64(self._ts))
        _digits(self._rows, _SEQ_AT, _SEQ_DIGITS, np.uint64(_FIRST_SEQ + self._lap))
        self._rows[:, _ID_AT] = ids >> 8
        self._rows[:, _ID_AT + 1] = ids & 0xFF
        # one decimal of each value changes from lap to lap, so that no sensor looks stuck
        point = _PAYLOAD_AT + len(b'{"ts":0000000000000,"metric":"temperature","value":21.')
        self._rows[:, point + 1] = self._rng.integers(48, 58, self.n, np.uint8)
        return self._rows

    def payloads(self) -> list[bytes]:
        """The payloads of the present lap."""
        return [row[_PAYLOAD_AT:].tobytes() for row in self._rows]


def _digits(rows: U8, at: int, width: int, value: U64 | np.uint64) -> None:
    """Write a number's decimal digits into the same columns of all rows."""
    text = np.frombuffer(str(int(value)).zfill(width).encode(), np.uint8)
    rows[:, at : at + width] = text
