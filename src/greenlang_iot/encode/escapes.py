"""Names as line protocol writes them, and what can be said of a finished line. Light to import: no kernels."""

import re

# A backslash cannot be escaped in a name, and a control character would end the line. The registry
# refuses such names; this keeps one that came another way from breaking its neighbours' lines.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\\]")
_SPECIAL_IN_KEY = re.compile(r"[,= ]")
_SPECIAL_IN_MEASUREMENT = re.compile(r"[, ]")


def escape_key(name: str) -> str:
    """A tag key, tag value or field key as line protocol writes it."""
    return _SPECIAL_IN_KEY.sub(r"\\\g<0>", _writable(name))


def escape_measurement(name: str) -> str:
    """A measurement as line protocol writes it."""
    return _SPECIAL_IN_MEASUREMENT.sub(r"\\\g<0>", _writable(name))


def _writable(name: str) -> str:
    return _UNWRITABLE.sub(lambda match: f"%{ord(match[0]):02X}", name)


def line_head(measurement: str, tags: dict[str, str]) -> bytes:
    """`measurement,key=value,… ` with the tags sorted by key; empty ones are left out."""
    written = "".join(f",{key}={escape_key(value)}" for key, value in sorted(tags.items()) if value)
    return f"{escape_measurement(measurement)}{written} ".encode()


_UNESCAPED_SPACE = re.compile(rb"(?<!\\) ")
_UNESCAPED_COMMA = re.compile(rb"(?<!\\),")


def readings_in(line: bytes) -> int:
    """How many readings a line of LineEncoder holds (its fields less the scores); 1 for other lines."""
    parts = _UNESCAPED_SPACE.split(line)
    if len(parts) != 3 or b'"' in parts[1]:
        return 1
    keys = [field.partition(b"=")[0] for field in _UNESCAPED_COMMA.split(parts[1])]
    return sum(not key.endswith(b"_score") for key in keys)
