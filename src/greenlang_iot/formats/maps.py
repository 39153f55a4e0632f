"""JSON, CBOR and MessagePack documents with the shape of our own JSON."""

from collections.abc import Sequence
from decimal import Decimal
from io import BytesIO
from typing import Any

import cbor2
import orjson
import ormsgpack

from greenlang_iot.formats.base import Payload, Reading
from greenlang_iot.formats.shape import shaped

MAX_DEPTH = 16
"""Arrays and maps in one another; a payload of ours has three."""

# What cbor2 would make objects of and a reading has no use for: big floats, shared and cyclic values,
# rationals, regular expressions, MIME messages, UUIDs, addresses, dates without a time, string references,
# sets, complex numbers. Tags it does not know come to the hook.
_REFUSED_TAGS = (5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000)


def _refuse_tag(*_: object) -> Any:
    raise ValueError("a tag that readings have no use for")


_DECODERS: Any = dict.fromkeys(_REFUSED_TAGS, _refuse_tag)


def cbor_document(data: bytes) -> Any:
    """One CBOR item: plain values, and aware datetimes for tags 0 and 1. ValueError says what is wrong."""
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


def plain_number(value: Any) -> Any:
    """A decimal fraction (CBOR tag 4) as a float; anything else as it is."""
    return float(value) if type(value) is Decimal else value


class Json:
    """JSON as is: what `mqtt.topic` carries without an entry of its own."""

    def read(self, payload: Payload) -> Sequence[Reading]:
        return shaped(orjson.loads(payload.data))


class Cbor:
    """CBOR (RFC 8949) maps."""

    def read(self, payload: Payload) -> Sequence[Reading]:
        return [
            reading._replace(value=float(reading.value))
            if type(reading.value) is Decimal
            else reading
            for reading in shaped(cbor_document(payload.data))
        ]


class MessagePack:
    """MessagePack maps; of a key that comes twice the last value counts, as in JSON."""

    def read(self, payload: Payload) -> Sequence[Reading]:
        return shaped(ormsgpack.unpackb(payload.data))
