"""What the settings model expects at a place, in words: for conversions and for suggestions."""

import difflib
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from greenlang_iot.settings.model import Section, Settings

Place = tuple[str | int, ...]
"""Keys and indices from the top of the settings: ("mqtt", "brokers", 0, "port")."""


class Slot(NamedTuple):
    """A place in the model: its type without Optional, and its field (None for a list's item)."""

    kind: Any
    optional: bool
    field: FieldInfo | None

    @property
    def section(self) -> type[Section] | None:
        return self.kind if isinstance(self.kind, type) and issubclass(self.kind, Section) else None

    @property
    def is_text(self) -> bool:
        """True where a YAML scalar is taken as it is written (`protocol: 5` is the text 5)."""
        if get_origin(self.kind) is Literal:
            return all(isinstance(choice, str) for choice in get_args(self.kind))
        return self.kind in (str, Path, SecretStr)


def show(place: Place) -> str:
    """`mqtt.brokers[0].port`"""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place)
    return text.removeprefix(".")


def slot_at(place: Place) -> Slot | None:
    """The model's slot at `place`, or None where the model has no such key."""
    slot = Slot(Settings, False, None)
    for step in place:
        inner = _step(slot, step)
        if inner is None:
            return None
        slot = inner
    return slot


def _step(slot: Slot, step: str | int) -> Slot | None:
    if slot.section is not None and isinstance(step, str):
        field = slot.section.model_fields.get(step)
        return None if field is None else Slot(*_unwrap(field.annotation), field)
    if get_origin(slot.kind) is list and isinstance(step, int):
        return Slot(*_unwrap(get_args(slot.kind)[0]), None)
    return None


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """(type, optional) of `X | None`; Annotated is taken off."""
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return _unwrap(inner[0])[0], len(inner) < len(get_args(annotation))
    return annotation, False


def describe(slot: Slot) -> str:
    """What belongs there, as the end of `expected …`."""
    kind = slot.kind
    if slot.section is not None:
        return f"a section with keys among {', '.join(slot.section.model_fields)}"
    if get_origin(kind) is list:
        return "a list"
    if get_origin(kind) is Literal:
        return " or ".join(str(choice) for choice in get_args(kind))
    words = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "a text")
    if kind is Path:
        words = "a path"
    if (unit := unit_of(slot.field)) is not None:
        words += f" of {unit}"
    return words + _bounds(slot.field)


def unit_of(field: FieldInfo | None) -> str | None:
    """`seconds` or `bytes`, where the setting has a unit."""
    extra = field.json_schema_extra if field is not None else None
    return str(extra["unit"]) if isinstance(extra, dict) and "unit" in extra else None


def _bounds(field: FieldInfo | None) -> str:
    low: tuple[float, bool] | None = None  # (bound, the bound itself is excluded)
    high: tuple[float, bool] | None = None
    pattern = ""
    for meta in field.metadata if field is not None else ():
        if isinstance(meta, annotated_types.Ge):
            low = max(low or (-float("inf"), False), (_number(meta.ge), False))
        elif isinstance(meta, annotated_types.Gt):
            low = max(low or (-float("inf"), False), (_number(meta.gt), True))
        elif isinstance(meta, annotated_types.Le):
            high = (_number(meta.le), False)
        elif isinstance(meta, annotated_types.Lt):
            high = (_number(meta.lt), True)
        pattern = getattr(meta, "pattern", None) or pattern
    if pattern:
        return f" of the form {pattern}"
    if low is not None and high is not None and not low[1] and not high[1]:
        return f" from {low[0]:.12g} to {high[0]:.12g}"
    text = ""
    if low is not None:
        text += f" {'above' if low[1] else 'of at least'} {low[0]:.12g}"
    if high is not None:
        text += f" {'below' if high[1] else 'of at most'} {high[0]:.12g}"
    return text


def _number(bound: Any) -> float:
    return float(bound)


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean "x"?`, or the known words where nothing is close."""
    known = list(known)
    close = difflib.get_close_matches(word, known, 1)
    return f'did you mean "{close[0]}"?' if close else f"known here: {', '.join(known)}"


def unknown(place: Place) -> str | None:
    """What is wrong with a place that the model does not have; None where it has it."""
    for depth in range(1, len(place) + 1):
        if slot_at(place[:depth]) is not None:
            continue
        parent, step = slot_at(place[: depth - 1]), place[depth - 1]
        assert parent is not None
        if parent.section is not None and isinstance(step, str):
            return f"unknown key {step}; {suggest(step, parent.section.model_fields)}"
        if get_origin(parent.kind) is list:
            return f"{show(place[: depth - 1])} is a list: its items are numbered from 0"
        what = "is not a list" if parent.section is not None else "has no parts of its own"
        return f"{show(place[: depth - 1]) or 'the top'} {what}"
    return None
