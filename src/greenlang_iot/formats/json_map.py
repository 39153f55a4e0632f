"""JSON of any shape, with the places of its parts in the settings.

A path is names with dots between them, `data.temperature`; a whole number picks an element of an array,
`points.0.v`. There are no wildcards, no filters and no quoting: a name with a dot in it cannot be reached.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from greenlang_iot.formats.base import PATH_NAME, Payload, Reading
from greenlang_iot.formats.shape import is_seq, time_of
from greenlang_iot.model.reasons import Reason

_ABSENT: Any = object()
_Path = Annotated[str, Field(pattern=r"^[^.]+(\.[^.]+)*$", max_length=256)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    each: _Path | None = None
    ts: _Path | None = None
    metric: _Path | None = None
    value: _Path | None = None
    values: _Path | dict[str, _Path] | None = None
    unit: _Path | None = None
    seq: _Path | None = None


class JsonMap:
    """Options, all of them paths.

    each: the array whose elements hold the readings; without it they are in the document itself, or in
    each of its elements if it is an array. `value`: the value of one reading, whose metric is at `metric`,
    or in the topic. `values` instead: an object of metric → value, or a mapping of metrics to the paths of
    their values, where what is absent is not there. `ts`, `metric`, `unit`, `seq` are looked for in the element,
    then in the whole document.
    """

    def __init__(self, **options: Any) -> None:
        o = _Options.model_validate(options)
        if (o.value is None) == (o.values is None):
            raise ValueError(
                "needs either value (a path) or values (a path, or metrics with paths)"
            )
        if o.values is not None and (o.metric or o.unit):
            raise ValueError("metric and unit belong to value, not to values")
        self._value = _steps(o.value) if o.value else None
        self._values = _steps(o.values) if isinstance(o.values, str) else []
        self._by_metric = (
            {metric: _steps(path) for metric, path in o.values.items()}
            if isinstance(o.values, dict)
            else None
        )
        self._value_path = o.value or (o.values if isinstance(o.values, str) else "values")
        self._each = _steps(o.each) if o.each else None
        self._each_path = o.each or ""
        self._ts, self._metric, self._unit, self._seq = (
            _steps(path) if path else None for path in (o.ts, o.metric, o.unit, o.seq)
        )

    def read(self, payload: Payload) -> Sequence[Reading]:
        document = orjson.loads(payload.data)
        if type(document) not in (dict, list):
            raise ValueError("neither an object nor an array")
        readings: list[Reading] = []
        for place, item in self._items(document):
            self._item(item, document, place, payload.metric, readings)
        return readings

    def _items(self, document: Any) -> Iterator[tuple[str, Any]]:
        items = document if self._each is None else _find(document, self._each)
        if type(items) is list:
            for i, item in enumerate(items):
                yield f"{self._each_path}[{i}].", item
        elif self._each is None:
            yield "", items
        else:
            raise ValueError(f"there is no array at {self._each_path}")

    def _item(
        self, item: Any, document: Any, place: str, topic_metric: str, readings: list[Reading]
    ) -> None:
        def part(steps: list[str] | None) -> Any:
            if steps is None:
                return _ABSENT
            found = _find(item, steps)
            return _find(document, steps) if found is _ABSENT else found

        ts, seq, unit = part(self._ts), part(self._seq), part(self._unit)
        at = None if ts is _ABSENT else time_of(ts)
        metric = topic_metric if self._metric is None else part(self._metric)
        good = seq is _ABSENT or is_seq(seq)
        if self._value is not None:
            good = good and type(metric) is str and (unit is _ABSENT or type(unit) is str)
        found = self._found(item, place, metric) if good else []
        known, number = None if unit is _ABSENT else unit, -1 if seq is _ABSENT else seq
        for path, name, value in found:
            readings.append(Reading(path, name, value, at, known, number))
        if not found:
            path = f"{place}{self._value_path}"
            readings.append(Reading(path, "", Reason.BAD_SHAPE, None))

    def _found(self, item: Any, place: str, metric: str) -> list[tuple[str, str, Any]]:
        """(path, metric, value) of every value in an element."""
        if self._by_metric is not None:
            values = [
                (f"{place}{'.'.join(steps)}", name, _find(item, steps))
                for name, steps in self._by_metric.items()
            ]
            return [found for found in values if found[2] is not _ABSENT]
        if self._value is not None:
            value = _find(item, self._value)
            return [] if value is _ABSENT else [(f"{place}{self._value_path}", metric, value)]
        values = _find(item, self._values)
        if type(values) is not dict:
            return []
        return [
            (f"{place}{self._value_path}.{name[:PATH_NAME]}", name, value)
            for name, value in values.items()
        ]


def _steps(path: str) -> list[str]:
    return path.split(".")


def _find(document: Any, steps: list[str]) -> Any:
    """What is there, or _ABSENT."""
    for step in steps:
        if type(document) is dict:
            document = document.get(step, _ABSENT)
        elif type(document) is list and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            return _ABSENT
    return document
