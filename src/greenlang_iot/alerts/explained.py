"""Why an alert was opened, in sentences: the detector, its baseline, its numbers. Pure."""

import math
from dataclasses import dataclass
from typing import Any, Final

from greenlang_iot.alerts.words import duration, expectation, number
from greenlang_iot.alerts.words import unit as unit_of
from greenlang_iot.model.directory import Directory

HOW: Final = {
    "spike": "The spike detector compares each reading with the level that the series' last readings "
    "had, in units of their spread; readings outside do not move either.",
    "shift": "The shift detector adds up how far readings stand on one side of the level, so that many "
    "small deviations count like one large one.",
    "context": "The context detector compares what the series did lately with what it usually does at "
    "this hour of the day, or with its slow average, whichever was closer; it also knows how much the series jumps from one reading to the next.",
    "swing": "The swing detector knows how long the series usually stays above and below its slow average, and "
    "how far it goes there: it stayed too long, turned too soon, or went farther than usual.",
    "stuck": "The stuck detector counts equal values in a row, against the longest run that is usual for "
    "this series.",
    "rate": "The rate detector knows from the registry how fast the metric can physically change.",
    "range": "The range detector knows the operating range, and the valid range, from the registry.",
    "silence": "The silence detector knows from the registry how often the series should send.",
    "river": "The second stage judged a reading that is not unusual enough alone: it no longer follows the "
    "device's other metrics as it used to, or river's models found them together unlike what they learnt.",
    "outage": "The gateway itself opened it: something that it needs was away.",
    "quality": "The quality figures of a window missed their target.",
    "incident": "Many alerts of one kind at a site within a short time were put together.",
}
BY_RULE: Final = "A rule of your own opened it: no detector decided."
CERTAIN: Final = 1e-11
"""Tail shares up to this are those of a violated limit, or have left what float64 tells of a score."""


@dataclass(frozen=True, slots=True)
class Before:
    """The readings of the series in the hour before."""

    n: int
    median: float
    least: float
    most: float


def explain(
    opening: dict[str, Any],
    newest: dict[str, Any],
    directory: Directory | None = None,
    before: Before | None = None,
) -> list[str]:
    """Sentences for a person. opening, newest: transitions (`Transition.as_dict`)."""
    series = None if directory is None else _series(directory, opening["device"], opening["metric"])
    unit = "" if directory is None or series is None else unit_of(directory, series)
    sentences = [f"{opening['summary'] or opening['rule']}."]
    sentences.append(HOW.get(opening["detector"], BY_RULE))
    sentences += _baseline(opening, unit)
    if directory is not None and series is not None:
        sentences += _limits(directory, series, opening["detector"], unit)
    sentences += _share(opening)
    if before is not None:
        sentences.append(
            f"In the hour before it the lake has {before.n:,} readings: median {number(before.median)}{unit}, "
            f"from {number(before.least)} to {number(before.most)}."
        )
    sentences.append(_standing(opening, newest))
    return sentences


def _baseline(opening: dict[str, Any], unit: str) -> list[str]:
    value, expected, band = (opening[key] for key in ("value", "expected", "band"))
    if value is None or expected is None:
        return []
    told = expectation(expected, math.nan if band is None else band)
    text = f"It read {number(value)}{unit} where {told}{unit} was expected"
    if band is not None and band > 0:
        text += f": {abs(value - expected) / band:.3g} times the half width of the band"
    return [text + "."]


def _limits(directory: Directory, series: int, detector: str, unit: str) -> list[str]:
    step, every = float(directory.step[series]), int(directory.interval_ns[series])
    if detector == "range":
        valid = _span(float(directory.low[series]), float(directory.high[series]), unit)
        usual = _span(float(directory.warn_low[series]), float(directory.warn_high[series]), unit)
        told = [f"{valid} is valid"] if valid else []
        told += [f"{usual} is the operating range"] if usual else []
        return [f"By the registry {' and '.join(told)}."] if told else []
    if detector == "rate" and math.isfinite(step):
        return [f"The registry allows a change of {number(step)}{unit} a second."]
    if detector == "silence" and every > 0:
        return [f"The registry expects a reading every {duration(every)}."]
    return []


def _span(low: float, high: float, unit: str) -> str:
    """`0 to 50 °C`, `at most 50 °C`; nothing where both ends are open."""
    if math.isinf(low):
        return "" if math.isinf(high) else f"at most {number(high)}{unit}"
    if math.isinf(high):
        return f"at least {number(low)}{unit}"
    return f"{number(low)} to {number(high)}{unit}"


def _share(opening: dict[str, Any]) -> list[str]:
    if opening["detector"] not in ("spike", "shift", "context", "swing", "stuck", "river"):
        return []
    share = 1.0 - float(opening["score"])
    if share <= CERTAIN:
        return ["Of normal readings of this series fewer than one in 100 billion are as extreme."]
    return [f"Of normal readings of this series about one in {1.0 / share:,.0f} is as extreme."]


def _standing(opening: dict[str, Any], newest: dict[str, Any]) -> str:
    if newest["state"] == "resolved":
        lasted = duration(max(newest["at"] - opening["opened"], 0))
        return f"It is resolved; it lasted {lasted}."
    flags = f" ({', '.join(newest['flags'])})" if newest.get("flags") else ""
    return f"It is {newest['state']}{flags}, severity {newest['severity']}."


def _series(directory: Directory, device: str, metric: str) -> int | None:
    for entry in range(directory.n_devices if device and metric else 0):
        if directory.device[entry] == device:
            first, end = (int(directory.series_start[entry + i]) for i in (0, 1))
            for series in range(first, end):
                if directory.metric[int(directory.series_metric[series])] == metric:
                    return series
    return None
