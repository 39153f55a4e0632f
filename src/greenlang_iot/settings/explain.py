"""What the settings are in the end, and what may stand in the file: for people and for editors."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr

from greenlang_iot.settings.document import Document
from greenlang_iot.settings.expect import Place, show
from greenlang_iot.settings.load import Loaded
from greenlang_iot.settings.model import NotifierSettings, Settings

MASK = "********"
_LOGIN = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_PATH = re.compile(r"(//[^/?#]*/).+")
DEFAULT = "default"


class Effective(NamedTuple):
    """One setting: its name (`mqtt.brokers[0].port`), its value, where the value was set.

    value: plain JSON types; a secret is `MASK`. source: `file:line`, `environment variable NAME`,
    `override NAME` or `DEFAULT`.
    """

    name: str
    value: Any
    source: str


def effective(loaded: Loaded) -> Iterator[Effective]:
    """Every setting, in the order of the model."""
    yield from _walk(loaded.settings, (), loaded.document)


def _walk(value: object, place: Place, document: Document) -> Iterator[Effective]:
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if name == "url" and isinstance(value, NotifierSettings) and value.kind == "webhook":
                inner = _PATH.sub(rf"\1{MASK}", inner)  # for many services it is the password
            yield from _walk(inner, (*place, name), document)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _walk(item, (*place, i), document)
    else:
        yield Effective(show(place), _plain(value), _source(place, document))


def _plain(value: object) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if value is None or isinstance(value, bool | int | float):
        return value
    return _LOGIN.sub(MASK, str(value))


def _source(place: Place, document: Document) -> str:
    """Only what is really in the document was set; a secret read from a file names that file."""
    inner: Any = document.data
    for step in place:
        try:
            inner = inner[step]
        except (KeyError, IndexError, TypeError):
            return DEFAULT
    file_place: Place = (*place[:-1], f"{place[-1]}_file")
    if place not in document.sources and file_place in document.sources:
        return f"{document.source(file_place).text} ({place[-1]}_file)"
    return document.source(place).text


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the settings file, with units, bounds and defaults."""
    schema = Settings.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "greenlang-iot settings",
    }
