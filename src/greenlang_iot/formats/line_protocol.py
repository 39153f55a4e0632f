"""InfluxDB line protocol: measurement[,tag=value…] field=value[,field=value…] [time].

Tags are read over: what a device is says the registry. Fields that are true or false count 1 and 0.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from greenlang_iot.formats.base import PATH_NAME, Payload, Reading
from greenlang_iot.model.reasons import Reason

# Possessive (++) throughout: what was taken is not tried another way, so time is linear.
_KEY = r"(?:[^\\,= \n]|\\[^\n])++"
_VALUE = r'(?:"(?:[^"\\]|\\.)*+"|[^", \n]++)'
_LINE = re.compile(
    rf"(?P<measurement>(?:[^\\, \n]|\\[^\n])++)(?:,{_KEY}={_KEY})*+ ++"
    rf"(?P<fields>{_KEY}={_VALUE}(?:,{_KEY}={_VALUE})*+)(?: ++(?P<time>-?[0-9]{{1,19}}))? *+\r?(?=\n|\Z)",
    re.S,
)
_FIELD = re.compile(rf"({_KEY})=({_VALUE})", re.S)
_ESCAPED = re.compile(r"\\([,= ])")
_INTEGER = re.compile(r"(-?[0-9]{1,20}(?=i)|[0-9]{1,20}(?=u))[iu]")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(?:nan|inf|infinity)", re.I)
_TRUE, _FALSE = ("t", "T", "true", "True", "TRUE"), ("f", "F", "false", "False", "FALSE")
_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    metric: str = "{field}"
    precision: Literal["ns", "us", "ms", "s"] = "ns"

    @field_validator("metric")
    @classmethod
    def _names_something(cls, metric: str) -> str:
        rest = metric.replace("{field}", "").replace("{measurement}", "")
        if rest == metric or "{" in rest or "}" in rest:
            raise ValueError("needs {field} or {measurement}, and no other braces")
        return metric


class LineProtocol:
    """Options: `metric` makes the metric's name of {measurement} and {field}; `precision` of the times."""

    def __init__(self, **options: Any) -> None:
        chosen = _Options.model_validate(options)
        self._metric = chosen.metric
        self._ns = _NS[chosen.precision]

    def read(self, payload: Payload) -> Sequence[Reading]:
        text = payload.data.decode()
        readings: list[Reading] = []
        at, number = 0, 0
        while at < len(text):
            if text[at] in "\n\r ":
                at += 1
                continue
            line = _LINE.match(text, at) if text[at] != "#" else None
            if line is not None:
                self._line(f"[{number}].", line, readings)
                at = line.end()
            else:
                if text[at] != "#":
                    readings.append(Reading(f"[{number}]", "", Reason.BAD_SHAPE, None))
                end = text.find("\n", at)
                at = len(text) if end < 0 else end
            number += 1
        return readings

    def _line(self, place: str, line: re.Match[str], readings: list[Reading]) -> None:
        ts = int(line["time"]) * self._ns if line["time"] else None
        when = Reason.TS_INVALID if ts is not None and not -(2**63) <= ts < 2**63 else ts
        measurement = _unescaped(line["measurement"])
        for key, value in _FIELD.findall(line["fields"]):
            field = _unescaped(key)
            metric = self._metric.replace("{measurement}", measurement).replace("{field}", field)
            readings.append(Reading(f"{place}{field[:PATH_NAME]}", metric, _value(value), when))


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text) if "\\" in text else text


def _value(text: str) -> Any:
    """A number, or the Reason why it is none."""
    if _FLOAT.fullmatch(text):
        return float(text)
    if integer := _INTEGER.fullmatch(text):
        return int(integer[1])
    if text in _TRUE:
        return 1
    if text in _FALSE:
        return 0
    return Reason.NON_FINITE if _NOT_FINITE.fullmatch(text) else Reason.NOT_A_NUMBER
