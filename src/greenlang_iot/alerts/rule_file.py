"""Alert rules as people write them: YAML → checked rules, every mistake at once with its line. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from greenlang_iot.alerts.expressions import ExpressionError, compiled
from greenlang_iot.model.errors import InputError
from greenlang_iot.model.flags import DETECTOR_NAMES
from greenlang_iot.model.severity import Severity

RESERVED: Final = frozenset(
    {*DETECTOR_NAMES, "outage", "clock", "value", "incident", "offline", "quality"}
)
"""Rules that are the gateway's own."""
MOST_RULES: Final = 512
MOST_VALUES: Final = 100_000
"""Values in a file, with what its aliases repeat."""
_UNITS: Final = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}
_Place: TypeAlias = tuple[str | int, ...]


def seconds(value: object) -> object:
    """`90`, `45s`, `5m`, `8h`, `7d` in seconds; what is none stays as it is, to be refused."""
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip())
        if found is None or found[2] not in _UNITS:
            raise ValueError("expected a duration such as 45s, 5m, 8h or 7d")
        return float(found[1]) * _UNITS[found[2]]
    return value


Duration = Annotated[float, BeforeValidator(seconds), Field(ge=0, le=366 * 86_400.0)]
Text = Annotated[str, Field(max_length=1_000)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class Match(_Part):
    """Patterns with * ? and [seq]; what is left out matches everything."""

    org: Text = "*"
    site: Text = "*"
    type: Text = "*"
    device: Text = "*"
    metric: Text = "*"


class Threshold(_Part):
    """Above one number, below another, or outside of both; `clear` is where it is over again."""

    above: float | None = None
    below: float | None = None
    clear: float | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> "Threshold":
        if self.above is None and self.below is None:
            raise ValueError("give above, below or both")
        if self.above is not None and self.below is not None:
            if self.below > self.above:
                raise ValueError("below lies above above: nothing would be normal")
            if self.clear is not None:
                raise ValueError("clear goes with above or below alone")
        elif self.clear is not None:
            if self.above is not None and self.clear > self.above:
                raise ValueError("clear lies above the threshold")
            if self.below is not None and self.clear < self.below:
                raise ValueError("clear lies below the threshold")
        return self


class Calculated(_Part):
    """A condition over the newest values of a device's metrics; without `clear`, over when it is false."""

    holds: Text
    clear: Text | None = None

    @field_validator("holds", "clear")
    @classmethod
    def _compiles(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                compiled(text)
            except ExpressionError as error:
                raise ValueError(f"{text!r}: {error}") from None
        return text


def _calculated(value: object) -> object:
    return {"holds": value} if isinstance(value, str) else value


class Grouping(_Part):
    """From how many devices of a site on a rule's alerts are one incident, within `window` seconds; 0: never."""

    devices: int = Field(ge=0, le=1_000_000)
    window: Duration = 120.0


class Rule(_Part):
    """Exactly one of score, range, rate, stuck, silence and expression."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    match: Match = Match()
    score: Threshold | None = None
    range: Threshold | None = None
    rate: Threshold | None = None
    stuck: Annotated[Duration, Field(gt=0)] | None = None
    silence: Annotated[Duration, Field(gt=0)] | None = None
    expression: Annotated[Calculated, BeforeValidator(_calculated)] | None = None
    for_: Duration = Field(0.0, alias="for")
    cooldown: Duration = 0.0
    severity: Severity = "warning"
    summary: Text = ""
    labels: dict[Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]{0,62}$")], Text] = {}
    runbook: Text = ""
    group: Grouping | None = None

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in RESERVED:
            raise ValueError(f"{name} is a rule of the gateway's own: choose another name")
        return name

    @model_validator(mode="after")
    def _has_one_condition(self) -> "Rule":
        given = [k for k in KINDS if getattr(self, k) is not None]
        if len(given) != 1:
            what = f"has {' and '.join(given)}" if given else "has no condition"
            raise ValueError(f"{what}: give exactly one of {', '.join(KINDS)}")
        return self

    @property
    def kind(self) -> str:
        return next(k for k in KINDS if getattr(self, k) is not None)


KINDS: Final = ("score", "range", "rate", "stuck", "silence", "expression")


class _File(_Part):
    version: Literal[1]
    rules: list[Rule] = Field(max_length=MOST_RULES)


@dataclass(slots=True, frozen=True)
class RuleSet:
    """The rules of one file, by unique names."""

    rules: tuple[Rule, ...] = ()

    def named(self, name: str) -> Rule | None:
        return next((rule for rule in self.rules if rule.name == name), None)


NO_RULES: Final = RuleSet()


def parse(text: str, name: str) -> RuleSet:
    """The rules in a YAML text. name: of the file, for messages. Raises InputError."""
    lines: dict[_Place, int] = {}
    problems: list[tuple[_Place, str]] = []
    try:
        document = _plain(text, lines, problems)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _unreadable(
            name, line, f"the character {error.character:#x} is not allowed"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _unreadable(
            name, mark.line + 1 if mark else 1, error.problem or error.context
        ) from None
    except RecursionError:
        raise _unreadable(name, 1, "nested too deeply") from None
    rules: list[Rule] = []
    problems += _taken(document, lines)
    try:
        rules = _File.model_validate(document).rules
    except ValidationError as error:
        for found in error.errors(include_url=False, include_context=False):
            place = _known(tuple(found["loc"]), lines)
            problems.append((place, _words(found)))
    if problems:
        count = f"{len(problems)} mistake{'' if len(problems) == 1 else 's'}"
        told = sorted((lines.get(place, 1), place, message) for place, message in problems)
        raise InputError(
            f"{name}: {count}",
            tuple(f"{name}:{line}: {_show(place)}{message}" for line, place, message in told),
        )
    return RuleSet(tuple(rules))


def _unreadable(name: str, line: int, why: str | None) -> InputError:
    return InputError(f"{name}: 1 mistake", (f"{name}:{line}: not YAML: {why}",))


def _taken(document: Any, lines: dict[_Place, int]) -> Iterator[tuple[_Place, str]]:
    """Names that are given twice."""
    rules = document.get("rules") if isinstance(document, dict) else None
    seen: dict[str, int] = {}
    for i, rule in enumerate(rules if isinstance(rules, list) else ()):
        name = rule.get("name") if isinstance(rule, dict) else None
        if isinstance(name, str) and seen.setdefault(name, i) != i:
            line = lines["rules", seen[name]]
            yield ("rules", i, "name"), f"{name} is the name of the rule in line {line} already"


def _words(found: Any) -> str:
    kind, message = found["type"], str(found["msg"])
    if kind == "extra_forbidden":
        return "there is no such key"
    if kind == "missing":
        return "is missing"
    return message.removeprefix("Value error, ")


def _known(place: _Place, lines: dict[_Place, int]) -> _Place:
    """The innermost part of a place that stands in the file."""
    while place and place not in lines:
        place = place[:-1]
    return place


def _show(place: _Place) -> str:
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).removeprefix(".")
    return f"{text}: " if text else ""


def _plain(text: str, lines: dict[_Place, int], problems: list[tuple[_Place, str]]) -> Any:
    """Python values, with the line of each; a key given twice is a problem."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _value(loader, node, (), lines, problems)
    finally:
        loader.dispose()


def _value(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    place: _Place,
    lines: dict[_Place, int],
    problems: list[tuple[_Place, str]],
) -> Any:
    lines.setdefault(place, node.start_mark.line + 1)
    if len(place) > 8 or len(lines) > MOST_VALUES:
        raise yaml.MarkedYAMLError(problem="too deep, or too much", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        result = {}
        for key, inner in _pairs(loader, node):
            if key in result:
                problems.append(((*place, key), "given twice"))
            result[key] = _value(loader, inner, (*place, key), lines, problems)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [
            _value(loader, item, (*place, i), lines, problems) for i, item in enumerate(node.value)
        ]
    return _built(loader, node)


def _pairs(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
    loader.flatten_mapping(node)
    for key, value in node.value:
        yield str(_built(loader, key)), value


def _built(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, OverflowError, TypeError, KeyError, IndexError):  # 2024-13-45 is no date
        why = "a value that is not what it looks like; put it in quotes"
        raise yaml.MarkedYAMLError(problem=why, problem_mark=node.start_mark) from None
