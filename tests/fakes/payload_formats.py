"""Payloads written by hand, byte by byte, as their specifications say: nothing of the gateway, no library.

A sample is (metric, ts in ms, value: int or float).
"""

import json
import struct
from collections.abc import Sequence
from typing import Any

Sample = tuple[str, int, int | float]


def json_array(samples: Sequence[Sample]) -> bytes:
    """Our own JSON."""
    return json.dumps([{"metric": m, "ts": ts, "value": v} for m, ts, v in samples]).encode()


def nested_json(samples: Sequence[Sample]) -> bytes:
    """A shape of somebody else's: {"data": {"points": [{"n", "t", "reading": {"v"}}]}}."""
    points = [{"n": m, "t": ts, "reading": {"v": v}} for m, ts, v in samples]
    return json.dumps({"data": {"points": points}}).encode()


# ---- CBOR (RFC 8949) -------------------------------------------------------------------------------


def cbor_head(major: int, number: int) -> bytes:
    for size, info, code in ((1, 24, ">B"), (2, 25, ">H"), (4, 26, ">I"), (8, 27, ">Q")):
        if number < 24:
            return bytes([major << 5 | number])
        if number < 1 << 8 * size:
            return bytes([major << 5 | info]) + struct.pack(code, number)
    raise ValueError(number)


def cbor(item: Any) -> bytes:
    if isinstance(item, bool) or item is None:
        return bytes([0xF6 if item is None else 0xF5 if item else 0xF4])
    if isinstance(item, int):
        return cbor_head(0, item) if item >= 0 else cbor_head(1, -1 - item)
    if isinstance(item, float):
        return b"\xfb" + struct.pack(">d", item)
    if isinstance(item, str):
        return cbor_head(3, len(item.encode())) + item.encode()
    if isinstance(item, list):
        return cbor_head(4, len(item)) + b"".join(map(cbor, item))
    pairs = (cbor(k) + cbor(v) for k, v in item.items())
    return cbor_head(5, len(item)) + b"".join(pairs)


def cbor_array(samples: Sequence[Sample]) -> bytes:
    return cbor([{"metric": m, "ts": ts, "value": v} for m, ts, v in samples])


# ---- MessagePack -------------------------------------------------------------------------------------


def msgpack(item: Any) -> bytes:
    if isinstance(item, bool) or item is None:
        return bytes([0xC0 if item is None else 0xC3 if item else 0xC2])
    if isinstance(item, int):
        return b"\xcf" + struct.pack(">Q", item) if item >= 0 else b"\xd3" + struct.pack(">q", item)
    if isinstance(item, float):
        return b"\xcb" + struct.pack(">d", item)
    if isinstance(item, str):
        return b"\xd9" + bytes([len(item.encode())]) + item.encode()
    if isinstance(item, list):
        return b"\xdc" + struct.pack(">H", len(item)) + b"".join(map(msgpack, item))
    pairs = (msgpack(k) + msgpack(v) for k, v in item.items())
    return b"\xde" + struct.pack(">H", len(item)) + b"".join(pairs)


def msgpack_array(samples: Sequence[Sample]) -> bytes:
    return msgpack([{"metric": m, "ts": ts, "value": v} for m, ts, v in samples])


# ---- SenML (RFC 8428) --------------------------------------------------------------------------------


def senml_records(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """Base name and base time in the first record, times in ms as decimal seconds."""
    records: list[dict[str, Any]] = []
    for i, (metric, ts, value) in enumerate(samples):
        base = (
            {"bn": "urn:dev:mac:0024befffe804ff1:", "bt": samples[0][1] // 1000} if i == 0 else {}
        )
        records.append({**base, "n": metric, "t": ts / 1000 - samples[0][1] // 1000, "v": value})
    return records


def senml_json(samples: Sequence[Sample]) -> bytes:
    return json.dumps(senml_records(samples)).encode()


_LABELS = {"bn": -2, "bt": -3, "n": 0, "v": 2, "t": 6}


def senml_cbor(samples: Sequence[Sample]) -> bytes:
    return cbor([{_LABELS[k]: v for k, v in r.items()} for r in senml_records(samples)])


# ---- line protocol -------------------------------------------------------------------------------------


def lines(samples: Sequence[Sample]) -> bytes:
    text = (f"m,host=a\\ b {m}={v}{'i' if isinstance(v, int) else ''} {ts}" for m, ts, v in samples)
    return "\n".join(text).encode()


# ---- Sparkplug B (protobuf wire format) --------------------------------------------------------------


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | float | bytes) -> bytes:
    """A protobuf field: varint, 64-bit or length-delimited by the value's type."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


DOUBLE, INT64 = 10, 4


def metric(
    name: str = "",
    value: int | float | str | bool | None = None,
    *,
    alias: int | None = None,
    ts: int | None = None,
    datatype: int | None = None,
    quality: int | None = None,
) -> bytes:
    """A Sparkplug metric; an int goes as Int64, a float as Double, with their type unless given."""
    out = field(1, name.encode()) if name else b""
    if alias is not None:
        out += field(2, alias)
    if ts is not None:
        out += field(3, ts)
    types = {bool: 11, int: INT64, float: DOUBLE, str: 12}
    kind = types.get(type(value), 0) if datatype is None else datatype
    if kind:
        out += field(4, kind)
    if quality is not None:  # two properties, of which one is a text
        unit = field(1, b"engUnit") + field(1, b"Quality")
        unit += field(2, field(1, 12) + field(8, b"kW")) + field(2, field(1, 3) + field(3, quality))
        out += field(9, unit)
    if value is None:
        return out + field(7, 1)
    if isinstance(value, bool):
        return out + field(14, int(value))
    if isinstance(value, int):
        return out + (field(11, value & (1 << 64) - 1) if kind in (4, 8) else field(10, value))
    return out + (field(13, value) if isinstance(value, float) else field(15, value.encode()))


def sparkplug(*metrics: bytes, seq: int | None = None, ts: int | None = None) -> bytes:
    out = field(1, ts) if ts is not None else b""
    out += b"".join(field(2, m) for m in metrics)
    return out + (field(3, seq) if seq is not None else b"")


def sparkplug_named(samples: Sequence[Sample]) -> bytes:
    return sparkplug(*(metric(m, v, ts=ts) for m, ts, v in samples), seq=0)
