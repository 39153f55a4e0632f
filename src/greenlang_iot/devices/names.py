"""Which names a registry may use: safe in an MQTT topic, in line protocol, in JSON and in a path."""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from greenlang_iot.model.batches import U8

MAX_NAME = 128
"""Longest org, site, type, device or metric name, in characters."""

NAME_RULE = (
    "a name begins with a letter or a digit and goes on with letters, digits and . _ - : "
    f"({MAX_NAME} characters at most)"
)

# Letters and digits of any script (`\w` without a leading `_`, which is kept for the gateway's own
# topics such as greenlang/_gateway). This refuses what has a meaning somewhere on a name's way:
# + # / and a leading $ (topics), space , = " \ and line breaks (line protocol), control characters.
_NAME = re.compile(rf"[^\W_][\w.:\-]{{0,{MAX_NAME - 1}}}")
_FIRST, _INNER = (
    np.array([bool(re.fullmatch(pattern, chr(c), re.ASCII)) for c in range(128)])
    for pattern in (r"[^\W_]", r"[\w.:\-]")
)
"""By ASCII code: may a name begin with it, may it stand in a name."""
_UNIT = re.compile(r"[^\s,=\"\\]{1,32}")

RESERVED_METRICS = frozenset({"time", "org", "site", "device", "type"})
"""`time` is InfluxDB's own column; the others are tags of the same line."""


def name_problem(name: object) -> str | None:
    """What is wrong with a name, as the end of a sentence that begins with its place; or None."""
    if not isinstance(name, str):
        return f"a name is a text in quotes, not {kind(name)}"
    if not _NAME.fullmatch(name):
        if not name:
            return "the name is empty"
        return f"{name!r} is not a usable name: {NAME_RULE}"
    if not name.isascii() and not unicodedata.is_normalized("NFC", name):
        return f"{name!r} must be in Unicode's composed form (NFC), or equal names would differ"
    return None


def are_plain(names: Sequence[str]) -> bool:
    """Whether all names are sound and of ASCII; False says that each wants a look of its own.

    Many names at once, as bytes: 30 ns a name.
    """
    if not all(names):
        return False
    joined = "\n".join(names)
    if not joined.isascii():
        return False
    lengths = np.fromiter(map(len, names), np.int64, len(names))
    if len(names) and int(lengths.max()) > MAX_NAME:
        return False
    letters: U8 = np.frombuffer(joined.encode(), np.uint8)
    first = np.zeros(len(names), np.int64)
    np.cumsum(lengths[:-1] + 1, out=first[1:])
    # a name with a line break in it has one too many
    within = int(np.count_nonzero(_INNER[letters])) == int(lengths.sum())
    return within and bool(_FIRST[letters[first]].all())


def metric_problem(name: str) -> str | None:
    """Like `name_problem`, with the field names that line protocol needs for itself."""
    if (problem := name_problem(name)) is not None:
        return problem
    if name in RESERVED_METRICS:
        return f"{name!r} is reserved in the stored line; choose another metric name"
    if name.endswith("_score"):
        return f"{name!r} ends in _score, which is kept for the scores of other metrics"
    return None


def unit_text_problem(unit: object) -> str | None:
    """What is wrong with a unit as a text (whether it is known is another question)."""
    if not isinstance(unit, str):
        return f"a unit is a text in quotes, not {kind(unit)}"
    if not _UNIT.fullmatch(unit) or not unit.isprintable():
        return (
            f"{unit!r} is not a usable unit: 1 to 32 printable characters "
            "without spaces, commas, equals signs, quotes and backslashes"
        )
    return None


def kind(value: object) -> str:
    """The JSON word for a value's type."""
    if value is None:
        return "null"
    words = {bool: "true/false", int: "a number", float: "a number", str: "a text"}
    return words.get(type(value), "a list" if isinstance(value, list) else "an object")
