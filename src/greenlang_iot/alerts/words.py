"""What an alert says to a person: one sentence."""

import math
import re

from greenlang_iot.alerts.rule_file import Rule
from greenlang_iot.devices.units import sign
from greenlang_iot.model.directory import Directory


def number(x: float) -> str:
    """A value as a person writes it."""
    return f"{x:.6g}"


def expectation(expected: float, band: float) -> str:
    """`61.0 ± 2.2`: both with the decimals that two digits of the band need."""
    if not (math.isfinite(expected) and math.isfinite(band)) or band <= 0 or abs(expected) >= 1e12:
        return number(expected)
    decimals = 1 - math.floor(math.log10(band))
    if decimals > 9:
        return number(expected)
    decimals = max(decimals, 0)
    return f"{expected:.{decimals}f} ± {band:.{decimals}f}"


def duration(ns: int) -> str:
    """`90 s`, `5 min`, `3 h`, `2 d`."""
    seconds = ns / 1e9
    for size, unit in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.3g} s"


def named(directory: Directory, series: int) -> tuple[str, str, str]:
    """(metric, device, " unit") of a series; the unit is "" where it has none."""
    return (
        directory.metric[int(directory.series_metric[series])],
        directory.device[int(directory.series_device[series])],
        unit(directory, series),
    )


def unit(directory: Directory, series: int) -> str:
    """What stands behind a value of the series, with a space before it; "" for a plain number."""
    found = sign(directory.unit[int(directory.series_unit[series])])
    return f" {found}" if found else ""


def reading(
    directory: Directory, series: int, rule: str, value: float, expected: float, band: float
) -> str:
    """A suspect reading."""
    metric, device, unit = named(directory, series)
    seen = f"{metric} of {device} read {number(value)}{unit}"
    if rule == "range":
        low, high = float(directory.warn_low[series]), float(directory.warn_high[series])
        if not low <= value <= high:
            return f"{seen}; its operating range is {number(low)} to {number(high)}"
        return seen
    if rule == "stuck":
        return f"{metric} of {device} has not changed from {number(value)}{unit} for far longer than usual"
    if rule == "rate":
        step = number(float(directory.step[series]))
        seen = f"{metric} of {device} jumped to {number(value)}{unit}, faster than {step}{unit} a second"
    if rule == "shift":
        seen = f"{metric} of {device} stays away from its level, now {number(value)}{unit}"
    if rule == "context":
        return f"{metric} of {device} strays from its usual day, now {number(value)}{unit}"
    if rule == "swing":
        return f"{metric} of {device} swings unlike it usually does, now {number(value)}{unit}"
    if rule == "river" and abs(value - expected) <= band:
        of = int(directory.series_device[series])
        alone = directory.series_start[of + 1] - directory.series_start[of] == 1
        what = (
            "changes as it rarely does at this hour"
            if alone
            else "no longer fits the device's other metrics"
        )
        return f"{metric} of {device} {what}, now {number(value)}{unit}"
    if math.isnan(expected):
        return seen
    return f"{seen}; expected {expectation(expected, band)}"


def rejected(directory: Directory, series: int, value: float) -> str:
    """A reading outside its valid range, which the sinks never see."""
    metric, device, unit = named(directory, series)
    low, high = number(float(directory.low[series])), number(float(directory.high[series]))
    return f"{metric} of {device} read {number(value)}{unit}; valid is {low} to {high}"


def silent(directory: Directory, series: int, quiet_ns: int, never: bool) -> str:
    """A series whose next reading is overdue."""
    metric, device, _ = named(directory, series)
    every = duration(int(directory.interval_ns[series]))
    if never:
        return f"{device} has not sent any {metric} since the start; expected every {every}"
    return f"{device} has sent no {metric} for {duration(quiet_ns)}; expected every {every}"


def resolved(directory: Directory, series: int, rule: str, value: float | None) -> str:
    """The end of an alert."""
    metric, device, unit = named(directory, series)
    if rule == "silence":
        return f"{device} sends {metric} again"
    if value is None:
        return f"{metric} of {device} is back to normal"
    return f"{metric} of {device} is back to normal: {number(value)}{unit}"


def unwatched(metric: str, device: str) -> str:
    """The end of an alert whose series left the registry or was disabled."""
    return f"{metric} of {device} is no longer watched"


def earlier(metric: str, device: str) -> str:
    return f"{metric} of {device} was heard late, when a newer alert of it was open already"


def aside(metric: str, device: str) -> str:
    """The end of an alert that was told beside the shard that looks after the device."""
    return f"{f'{metric} of ' if metric else ''}{device} was heard late, after the layout of shards changed"


def incident(site: str, kind: str, devices: int) -> str:
    """Many alerts of one kind at a site."""
    return f"{devices} alerts of the kind {kind} at site {site} within a short time"


def incident_over(site: str) -> str:
    """The last member of an incident is resolved."""
    return f"all alerts of the incident at site {site} are resolved"


def rule_holds(rule: Rule, site: str, device: str, metric: str, measured: float, unit: str) -> str:
    """A person's own rule, in its own words where it has some."""
    if rule.summary:
        given = {"site": site, "device": device, "metric": metric, "value": number(measured)}
        return re.sub(r"\{(site|device|metric|value)\}", lambda m: given[m[1]], rule.summary)
    if rule.expression is not None:
        return f"{device}: {rule.expression.holds}"
    if rule.silence is not None:
        return f"{device} has sent no {metric} for {duration(int(rule.silence * 1e9))}"
    if rule.stuck is not None:
        since = duration(int(rule.stuck * 1e9))
        return f"{metric} of {device} has been {number(measured)}{unit} for {since}"
    limit = rule.range or rule.rate or rule.score
    assert limit is not None
    bounds = [f"above {number(limit.above)}"] if limit.above is not None else []
    bounds += [f"below {number(limit.below)}"] if limit.below is not None else []
    subject, unit = {
        "range": (f"{metric} of {device} read", unit),
        "rate": (f"{metric} of {device} changes by", f"{unit} a second"),
        "score": (f"{metric} of {device} has the score", ""),
    }[rule.kind]
    return f"{subject} {number(measured)}{unit}; {rule.name} says {' or '.join(bounds)}"


def rule_over(rule: str, device: str, metric: str) -> str:
    """The end of an alert of a person's own rule."""
    return f"{f'{metric} of ' if metric else ''}{device}: {rule} is over"


def rule_gone(rule: str, device: str, metric: str) -> str:
    """The end of an alert whose rule went, or does not match any more."""
    return f"{f'{metric} of ' if metric else ''}{device} is no longer watched by {rule}"
