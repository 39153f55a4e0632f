"""A strict parser of line protocol, written from InfluxDB's documentation and answers, not from our encoder."""

import re
from dataclasses import dataclass

MIN_TIME, MAX_TIME = -9223372036854775806, 9223372036854775806
MAX_KEY = 65_535
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_BOOLEANS = {
    w: w[0] in "tT" for w in ["t", "T", "true", "True", "TRUE", "f", "F", "false", "False", "FALSE"]
}


class ParseError(Exception):
    """Why a line is refused, in InfluxDB's words."""


@dataclass(frozen=True, slots=True)
class Point:
    measurement: str
    tags: dict[str, str]
    fields: dict[str, float | int | bool | str]
    time: int | None

    @property
    def series(self) -> str:
        return self.measurement + "".join(f",{k}={v}" for k, v in sorted(self.tags.items()))


def parse(line: str) -> Point:
    """One line (without its newline)."""
    key, rest = _until(line, " ")
    if not rest:
        raise ParseError("missing fields")
    parts = _split(key, ",")
    if not parts[0]:
        raise ParseError("missing measurement")
    tags: dict[str, str] = {}
    for part in parts[1:]:
        name, value = _until(part, "=")
        if not name:
            raise ParseError("missing tag key")
        if not value:
            raise ParseError("missing tag value")
        name = _unescape(name, ",= ")
        if name in {"time", "_measurement", "_field"}:
            raise ParseError(f'cannot use reserved tag key "{name}"')
        if name in tags:
            raise ParseError("duplicate tags")
        tags[name] = _unescape(value, ",= ")
    if (length := len(key.encode())) > MAX_KEY:
        raise ParseError(f"max key length exceeded: {length} > {MAX_KEY}")
    text, stamp = _until(rest.lstrip(" "), " ", quotes=True)
    if not text:
        raise ParseError("missing fields")
    fields = {}
    for part in _split(text, ",", quotes=True):
        name, value = _until(part, "=")
        if not name:
            raise ParseError("missing field key")
        if not value:
            raise ParseError("invalid field format" if "=" not in part else "missing field value")
        fields[_unescape(name, ",= ")] = _value(value)
    return Point(_unescape(parts[0], ", "), tags, fields, _time(stamp))


def _value(text: str) -> float | int | bool | str:
    if text[0] == '"':
        if len(text) < 2 or text[-1] != '"':
            raise ParseError("unbalanced quotes")
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if re.fullmatch(r"[+-]?\d+i|\d+u", text):
        return int(text[:-1])
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ParseError("invalid float")
        return number
    raise ParseError("invalid number" if text[0] in "+-.0123456789nN" else "invalid boolean")


def _time(text: str) -> int | None:
    if not text.strip(" "):
        return None
    if not re.fullmatch(r"-?\d+", text.strip(" ")):
        raise ParseError("bad timestamp")
    stamp = int(text)
    if not -(2**63) <= stamp < 2**63:
        raise ParseError(f'strconv.ParseInt: parsing "{stamp}": value out of range')
    if not MIN_TIME <= stamp <= MAX_TIME:
        raise ParseError(f"time outside range {MIN_TIME} - {MAX_TIME}")
    return stamp


def _until(text: str, mark: str, *, quotes: bool = False) -> tuple[str, str]:
    """The text before the first unescaped, unquoted `mark`, and what comes after it."""
    at = next(_marks(text, mark, quotes), len(text))
    return text[:at], text[at + 1 :]


def _split(text: str, mark: str, *, quotes: bool = False) -> list[str]:
    parts, start = [], 0
    for at in _marks(text, mark, quotes):
        parts.append(text[start:at])
        start = at + 1
    return [*parts, text[start:]]


def _marks(text: str, mark: str, quotes: bool):
    at, quoted = 0, False
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        if quotes and text[at] == '"':
            quoted = not quoted
        elif text[at] == mark and not quoted:
            yield at
        at += 1


def _unescape(text: str, special: str) -> str:
    return re.sub(rf"\\([{re.escape(special)}])", r"\1", text)
