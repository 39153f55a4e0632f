"""SenML (RFC 8428), as JSON and as CBOR: a pack of records with base values → readings.

The metric is the part of the resolved name (base name + name) behind its last `:` or `/`; the device is
the topic's. A record's sum becomes a reading of its own, of the metric `<metric>_sum`.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict

from greenlang_iot.formats.base import Payload, Reading
from greenlang_iot.formats.maps import cbor_document
from greenlang_iot.model.reasons import Reason

VERSION = 10
"""The version of RFC 8428; higher ones have bits of features beside it (RFC 9100)."""
_SECONDARY_UNITS = 1 << 4
"""The one feature that there is: units such as kWh."""
RELATIVE_BELOW = 2**28
"""Seconds; a smaller time is relative to now (RFC 8428, 4.5.3)."""

_LABELS = {
    -6: "bs", -5: "bv", -4: "bu", -3: "bt", -2: "bn", -1: "bver",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip
"""CBOR's labels (RFC 8428, table 4)."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]*")
_VALUES = ("v", "vs", "vb", "vd")


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    metric: Literal["last", "name"] = "last"


class SenmlJson:
    """Option `metric`: `last` (the part behind the last `:` or `/`) or `name`, the whole resolved name."""

    def __init__(self, **options: Any) -> None:
        self._whole_name = _Options.model_validate(options).metric == "name"

    def read(self, payload: Payload) -> Sequence[Reading]:
        return self._resolve(orjson.loads(payload.data), payload.receive_ns)

    def _resolve(self, pack: Any, now_ns: int | None) -> list[Reading]:
        if type(pack) is not list or not all(type(record) is dict for record in pack):
            raise ValueError("a SenML pack is an array of maps")
        base = _Base()
        readings: list[Reading] = []
        for i, record in enumerate(pack):
            base.update(record)
            self._record(f"[{i}]", record, base, now_ns, readings)
        return readings

    def _record(
        self,
        place: str,
        record: dict[str, Any],
        base: "_Base",
        now_ns: int | None,
        readings: list[Reading],
    ) -> None:
        given = [name for name in _VALUES if name in record]
        has_sum = "s" in record or base.sum is not None
        if not given and "s" not in record:
            if not record.keys() & {"n", "t", "u", "ut"}:
                return  # base values only
            if not has_sum:
                given = ["v"] if base.value is not None else []
                if not given:
                    readings.append(Reading(f"{place}.v", "", Reason.BAD_SHAPE, None))
                    return
        name, unit = record.get("n", ""), record.get("u", base.unit)
        if (
            len(given) > 1
            or type(name) is not str
            or (unit is not None and type(unit) is not str)
            or not _NAME.fullmatch(base.name + name)
        ):
            readings.append(Reading(f"{place}.v", "", Reason.BAD_SHAPE, None))
            return
        metric = base.name + name
        if not self._whole_name:
            metric = re.split("[:/]", metric)[-1]
        ts = base.time(record.get("t", 0), now_ns)
        if given:
            value = _value(given[0], record.get(given[0], 0), base.value or 0)
            readings.append(Reading(f"{place}.{given[0]}", metric, value, ts, unit))
        if has_sum:
            total = _plus(base.sum or 0, record.get("s", 0))
            readings.append(Reading(f"{place}.s", f"{metric}_sum", total, ts))


class SenmlCbor(SenmlJson):
    """The same with integers as labels; decimal fractions (tag 4) are numbers, too."""

    def read(self, payload: Payload) -> Sequence[Reading]:
        pack = cbor_document(payload.data)
        if type(pack) is not list or not all(type(record) is dict for record in pack):
            raise ValueError("a SenML pack is an array of maps")
        named = [
            {
                _LABELS.get(key, key) if type(key) is int else key: value
                for key, value in record.items()
            }
            for record in pack
        ]
        return self._resolve(named, payload.receive_ns)


class _Base:
    """The base values that hold for a record: its own and those of the records before it."""

    def __init__(self) -> None:
        self.name = ""
        self.unit: str | None = None
        self.value: int | float | None = None
        self.sum: int | float | None = None
        self._time: int | float = 0

    def update(self, record: dict[str, Any]) -> None:
        """ValueError where a base value is wrong, because then every later record would be."""
        for label in record:
            # A label that ends in _ has to be understood, or the pack must not be used (4.4).
            if type(label) is not str or label.endswith("_"):
                raise ValueError(f"label {label!r} is not known")
        version = record.get("bver", VERSION)
        if not _is_number(version) or (version > VERSION and version != VERSION | _SECONDARY_UNITS):
            raise ValueError(f"version {version!r} needs what is not known here")
        self.name = _text(record.get("bn", self.name))
        self.unit = _text(record["bu"]) if "bu" in record else self.unit
        self.value = _number(record["bv"]) if "bv" in record else self.value
        self.sum = _number(record["bs"]) if "bs" in record else self.sum
        self._time = _number(record.get("bt", self._time))

    def time(self, t: Any, now_ns: int | None) -> int | Reason | None:
        """ns since 1970 of base time + `t`; None where that is relative and now does not count."""
        if not _is_number(t):
            return Reason.TS_INVALID
        seconds = _plus(self._time, t)
        if not -(2**34) < seconds < 2**34:  # NaN, too: 2514 is past what int64 holds in ns
            return Reason.TS_INVALID
        ns = _ns(self._time) + _ns(t)
        if seconds < RELATIVE_BELOW:
            if now_ns is None:
                return None
            ns += now_ns
        return ns if -(2**63) <= ns < 2**63 else Reason.TS_INVALID


def _value(label: str, value: Any, base: int | float) -> Any:
    """A `v` with the base value added, a `vb` as 1 or 0; what is no number stays as it is."""
    if label == "vb" and type(value) is bool:
        return int(value)
    return _plus(base, value) if label == "v" and _is_number(value) else str(type(value))


def _is_number(value: Any) -> bool:
    return type(value) is int or type(value) is float


def _number(value: Any) -> int | float:
    if not _is_number(value):
        raise ValueError("a base value is not a number")
    number: int | float = value
    return number


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("a base name or unit is not a text")
    return value


def _plus(a: int | float, b: int | float) -> int | float:
    try:
        return a + b
    except OverflowError:  # an integer that no float holds
        return float("inf")


def _ns(seconds: int | float) -> int:
    """Whole seconds exactly, others to the µs, which is what a float64 holds today."""
    return seconds * 1_000_000_000 if type(seconds) is int else round(seconds * 1e6) * 1000
