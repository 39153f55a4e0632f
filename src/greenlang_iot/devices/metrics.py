"""One metric of the registry: its fields, their defaults and what may be wrong with them."""

import difflib
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from greenlang_iot.devices.locate import Place
from greenlang_iot.devices.names import kind, unit_text_problem
from greenlang_iot.devices.units import UNITS, intended
from greenlang_iot.model.directory import PROFILES

Problems = list[tuple[Place, str]]
"""(place in the document, what is wrong there)"""

MAX_INTERVAL = 366 * 86_400.0
"""Longest expected interval, in seconds."""

FIELDS = (
    "unit",
    "range",
    "warn",
    "max_step",
    "interval",
    "profile",
    "enabled",
    "reference",
    "tolerance",
    "description",
)


class Metric(NamedTuple):
    """A metric in the terms of `Directory`'s series columns."""

    unit: str = "1"
    low: float = -math.inf
    high: float = math.inf
    warn_low: float = -math.inf
    warn_high: float = math.inf
    step: float = math.inf
    interval_ns: int = 0
    profile: int = 0
    enabled: bool = True
    reference: str = ""  # id of the device whose metric of this name is the reference
    tolerance: float = 0.0


def suggest(word: object, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, or the list of what is known where nothing is close."""
    known = sorted(known)
    close = difflib.get_close_matches(str(word), known, 1)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known: {', '.join(known[:12])}" if known else ""


def read_metric(spec: object, place: Place, problems: Problems) -> Metric:
    """The metric that `spec` describes; every mistake in it goes to `problems`."""
    if not isinstance(spec, dict):
        problems.append((place, f"a metric is an object with a unit, not {kind(spec)}"))
        return Metric()
    for key in spec.keys() - set(FIELDS):
        problems.append(((*place, key), f"unknown key{suggest(key, FIELDS)}"))
    low, high = _range(spec, "range", place, problems)
    warn_low, warn_high = _range(spec, "warn", place, problems)
    for end in (warn_low, warn_high):
        if math.isfinite(end) and not low <= end <= high:  # it could never be reached
            problem = f"{end:g} lies outside the valid range {low:g} to {high:g}"
            problems.append(((*place, "warn"), problem))
    profile = spec.get("profile", "default")
    if profile not in PROFILES:
        problem = f"there is no detector profile {profile!r}{suggest(profile, PROFILES)}"
        problems.append(((*place, "profile"), problem))
        profile = "default"
    enabled = spec.get("enabled", True)
    if not isinstance(enabled, bool):
        problems.append(((*place, "enabled"), "must be true or false"))
    return Metric(
        unit=_unit(spec, place, problems),
        low=low,
        high=high,
        warn_low=warn_low,
        warn_high=warn_high,
        step=_positive(spec, "max_step", place, problems, default=math.inf, zero=False),
        interval_ns=round(
            _positive(spec, "interval", place, problems, default=0.0, zero=True, top=MAX_INTERVAL)
            * 1e9
        ),
        profile=PROFILES.index(profile),
        enabled=bool(enabled),
        reference=_reference(spec, place, problems),
        tolerance=_positive(spec, "tolerance", place, problems, default=0.0, zero=False),
    )


def _reference(spec: dict[str, Any], place: Place, problems: Problems) -> str:
    """Id of the reference device; which devices there are is not known here."""
    for key, other in (("reference", "tolerance"), ("tolerance", "reference")):
        if spec.get(key) is not None and spec.get(other) is None:
            problems.append(((*place, key), f"needs {other} beside it"))
    reference = spec.get("reference")
    if reference is None:
        return ""
    if not isinstance(reference, str):
        problems.append(((*place, "reference"), f"must be a device's id, not {kind(reference)}"))
        return ""
    return reference


def _unit(spec: dict[str, Any], place: Place, problems: Problems) -> str:
    if "unit" not in spec:
        problems.append((place, 'unit is missing (for a plain number: "unit": "1")'))
        return "1"
    unit = spec["unit"]
    if (problem := unit_text_problem(unit)) is not None:
        problems.append(((*place, "unit"), problem))
        return "1"
    text = str(unit)
    if text not in UNITS and (meant := intended(text)) is not None:
        problems.append(((*place, "unit"), f'unknown unit {text!r}; did you mean "{meant}"?'))
    return text


def _number(value: object) -> float | None:
    """A finite JSON number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _range(spec: dict[str, Any], key: str, place: Place, problems: Problems) -> tuple[float, float]:
    if key not in spec:
        return -math.inf, math.inf
    value = spec[key]
    ends = value if isinstance(value, list) and len(value) == 2 else [0, "not a range"]
    low = -math.inf if ends[0] is None else _number(ends[0])
    high = math.inf if ends[1] is None else _number(ends[1])
    if low is None or high is None:
        message = "must be [lowest, highest]: two numbers, null for an open end"
        problems.append(((*place, key), message))
    elif low >= high:
        problems.append(((*place, key), f"{low:g} is not below {high:g}"))
    else:
        return low, high
    return -math.inf, math.inf


def _positive(
    spec: dict[str, Any],
    key: str,
    place: Place,
    problems: Problems,
    *,
    default: float,
    zero: bool,
    top: float = math.inf,
) -> float:
    if spec.get(key) is None:
        return default
    number = _number(spec[key])
    if number is None or number < 0 or (number == 0 and not zero) or number > top:
        bound = "0 or more" if zero else "more than 0"
        bound += f" and at most {top:g}" if math.isfinite(top) else ""
        problems.append(((*place, key), f"must be a number, {bound}, not {spec[key]!r}"))
        return default
    return number
