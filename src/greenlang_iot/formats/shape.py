"""The shape of our own JSON (schema payload-v1), whatever it was written in: document → readings.

A reading's path is the path of its value: `value`, `values.temperature`, `[2].value`,
`[2].values.temperature`; an element of an array that is no object is `[2]`.
"""

from typing import Any

from greenlang_iot.formats.base import PATH_NAME, Reading
from greenlang_iot.formats.timestamps import parse_ts
from greenlang_iot.model.reasons import Reason

_ABSENT: Any = object()


def shaped(document: Any) -> list[Reading]:
    """The readings of a document. ValueError: it is neither an object nor an array."""
    readings: list[Reading] = []
    if type(document) is dict:
        _item(document, "", readings)
    elif type(document) is list:
        for i, item in enumerate(document):
            if type(item) is dict:
                _item(item, f"[{i}].", readings)
            else:
                readings.append(Reading(f"[{i}]", "", Reason.BAD_SHAPE, None))
    else:
        raise ValueError("neither an object nor an array")
    return readings


def time_of(ts: Any) -> int | Reason:
    """A time stamp as `parse_ts` takes it → ns, or TS_INVALID."""
    ns = parse_ts(ts)
    return Reason.TS_INVALID if ns is None else ns


def is_seq(seq: Any) -> bool:
    """Whether it may be a sequence number."""
    return type(seq) is int and 0 <= seq < 2**63


def _item(item: dict[str, Any], place: str, readings: list[Reading]) -> None:
    """An object with one reading, or with many metrics."""
    values = item.get("values", _ABSENT)
    seq, unit = item.get("seq", -1), item.get("unit")
    good = ("seq" not in item or is_seq(seq)) and ("unit" not in item or type(unit) is str)
    ts = time_of(item["ts"]) if "ts" in item else None
    if values is _ABSENT:
        metric = item.get("metric")
        if good and type(metric) is str and "value" in item:
            readings.append(Reading(f"{place}value", metric, item["value"], ts, unit, seq))
        else:
            readings.append(Reading(f"{place}value", "", Reason.BAD_SHAPE, None))
        return
    if type(values) is not dict or "metric" in item or "value" in item:
        readings.append(Reading(f"{place}values", "", Reason.BAD_SHAPE, None))
        return
    for metric, value in values.items():
        path = f"{place}values.{str(metric)[:PATH_NAME]}"
        if good and type(metric) is str:
            readings.append(Reading(path, metric, value, ts, unit, seq))
        else:
            readings.append(Reading(path, "", Reason.BAD_SHAPE, None))
