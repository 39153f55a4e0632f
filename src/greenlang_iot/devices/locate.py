"""Lines of places in a JSON text, found only once there is something to complain about."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

Place = tuple[str | int, ...]
"""Keys and indices from the document's top to a value."""

Repeated = dict[int, tuple[dict[str, Any], list[str]]]
"""id of an object → the object, which keeps its id, and its keys that stand there more than once."""


def repeated(text: str) -> list[Place]:
    """Places of keys that stand in their object more than once; JSON keeps the last. Text: valid JSON."""
    found: Repeated = {}

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            counts = Counter(key for key, _ in pairs)
            keys = [key for key, count in counts.items() if count > 1]
            found[id(entries)] = entries, keys
        return entries

    document = json.loads(text, object_pairs_hook=made)
    return list(_repeated(document, (), found)) if found else []


def _repeated(value: Any, place: Place, found: Repeated) -> Iterator[Place]:
    if isinstance(value, dict):
        _, keys = found.get(id(value), (value, []))
        yield from ((*place, key) for key in keys)
        for key, inner in value.items():
            yield from _repeated(inner, (*place, key), found)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _repeated(inner, (*place, index), found)


_SPACE = " \t\r\n"
_decode = json.JSONDecoder().raw_decode


def show(path: Place) -> str:
    """A place as people write it: ("devices", 3, "id") → devices[3].id."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return text.removeprefix(".")


class Lines:
    """Line numbers in one valid JSON text. Each container is walked once and remembered."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._children: dict[int, dict[str | int, int]] = {}

    def line(self, path: Place) -> int:
        """Line (from 1) of the value at `path`, or of the deepest part of it that exists."""
        start = self._skip(0)
        for step in path:
            inner = self._walk(start).get(step)
            if inner is None:
                break
            start = inner
        return self._text.count("\n", 0, start) + 1

    def _skip(self, at: int) -> int:
        while self._text[at] in _SPACE:
            at += 1
        return at

    def _walk(self, start: int) -> dict[str | int, int]:
        if start not in self._children:
            self._children[start] = dict(self._entries(start))
        return self._children[start]

    def _entries(self, start: int) -> Iterator[tuple[str | int, int]]:
        """(key or index, offset of the value) of the object or array at `start`."""
        text = self._text
        if text[start] not in "{[":
            return
        is_object = text[start] == "{"
        at = self._skip(start + 1)
        index = 0
        while text[at] not in "}]":
            key: str | int = index
            if is_object:
                key, at = _decode(text, at)
                at = self._skip(self._skip(at) + 1)  # past the colon
            yield key, at
            _, at = _decode(text, at)
            at = self._skip(at)
            if text[at] == ",":
                at = self._skip(at + 1)
            index += 1
