"""JSON, CBOR and MessagePack documents with the shape of our own JSON."""

import math
import secrets
import struct
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import cbor2
import orjson
import ormsgpack

from greenlang_iot.formats.base import Payload, Reading
from greenlang_iot.formats.shape import shaped
from greenlang_iot.formats.timestamps import Instant, parse_ts

MAX_DEPTH = 16
"""Arrays and maps in one another; a payload of ours has three."""

_SELF_DESCRIBED = b"\xd9\xd9\xf7"
"""Tag 55799: that what follows is CBOR (RFC 8949, 3.4.6)."""

# What cbor2 would make objects of and a reading has no use for: big floats, shared and cyclic values,
# rationals, regular expressions, MIME messages, UUIDs, addresses, dates without a time, string references,
# sets, complex numbers. Tags it does not know come to the hook.
_REFUSED_TAGS = (5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000)


def _refuse_tag(*_: object) -> Any:
    raise ValueError("a tag that readings have no use for")


def _date_text(text: Any, _: bool) -> Instant | None:
    ns = parse_ts(text) if type(text) is str else None
    return None if ns is None else Instant(ns)


def _date_seconds(seconds: Any, _: bool) -> Instant | None:
    if type(seconds) is int:
        return Instant(seconds * 1_000_000_000)
    if type(seconds) is float and math.isfinite(seconds * 1e6):
        return Instant(
            round(seconds * 1e6) * 1000
        )  # to the µs, which is what a float64 holds today
    return None


def _decimal_fraction(parts: Any, _: bool) -> float:
    exponent, mantissa = parts
    if type(exponent) is not int or type(mantissa) is not int:
        raise ValueError("a decimal fraction has two integers")
    return float(f"{mantissa}e{exponent}")


_DECODERS: Any = {
    **dict.fromkeys(_REFUSED_TAGS, _refuse_tag),
    0: _date_text,
    1: _date_seconds,
    4: _decimal_fraction,
}


def cbor_document(data: bytes) -> Any:
    """One CBOR item: plain values, and Instants for tags 0 and 1 (None: it is no time).

    ValueError says what is wrong.
    """
    data = data.removeprefix(_SELF_DESCRIBED)
    stream = BytesIO(data)
    try:
        document = cbor2.CBORDecoder(
            stream,
            tag_hook=_refuse_tag,
            semantic_decoders=_DECODERS,
            max_depth=MAX_DEPTH,
            allow_duplicate_keys=False,
        ).decode()
    except (cbor2.CBORError, ArithmeticError) as error:
        raise ValueError(f"not CBOR: {error}") from error
    if stream.tell() != len(data):
        raise ValueError("something follows the CBOR item")
    return document


# ormsgpack does not say where the item ended, so that it is read as the first of an array of two. No payload
# can bring the second one along, because whoever writes it does not know the number.
_BEHIND = secrets.randbits(62)
_PAIR, _SECOND = b"\x92", b"\xcf" + struct.pack(">Q", _BEHIND)


def msgpack_document(data: bytes) -> Any:
    """One MessagePack item: plain values, and Instants for timestamps (None: it is no time).

    ValueError says what is wrong.
    """
    document, behind = ormsgpack.unpackb(b"".join((_PAIR, data, _SECOND)), ext_hook=_timestamp)
    if behind != _BEHIND:
        raise ValueError("something follows the MessagePack item")
    return document


def _timestamp(kind: int, data: bytes) -> Instant | None:
    """The specification's extension type −1; any other is malformed."""
    if kind != -1 or len(data) not in (4, 8, 12):
        raise ValueError("an extension type that readings have no use for")
    if len(data) == 12:
        ns, seconds = struct.unpack(">Iq", data)
    else:
        ns, seconds = (
            divmod(int.from_bytes(data), 1 << 34) if len(data) == 8 else (0, int.from_bytes(data))
        )
    return Instant(seconds * 1_000_000_000 + ns) if ns < 1_000_000_000 else None


class Json:
    """JSON as is: what `mqtt.topic` carries without an entry of its own."""

    def read(self, payload: Payload) -> Sequence[Reading]:
        return shaped(orjson.loads(payload.data))


class Cbor:
    """CBOR (RFC 8949) maps."""

    def read(self, payload: Payload) -> Sequence[Reading]:
        return shaped(cbor_document(payload.data))


class MessagePack:
    """MessagePack maps; of a key that comes twice the last value counts, as in JSON."""

    def read(self, payload: Payload) -> Sequence[Reading]:
        return shaped(msgpack_document(payload.data))
