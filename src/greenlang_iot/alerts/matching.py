"""Rules against a registry: which series each rule looks at, and with which thresholds. Pure."""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from greenlang_iot.alerts.expressions import Expression, compiled
from greenlang_iot.alerts.rule_file import Rule
from greenlang_iot.model.batches import I32, U64
from greenlang_iot.model.directory import Directory, Texts

Bools: TypeAlias = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Compiled:
    """A rule as columns.

    number: its place in the rule set. series: what it matches, or (expression) what its metrics are.
    devices, columns: of an expression, the devices that have all its metrics, and for each of these
    the series of each metric.
    """

    rule: Rule
    number: int
    series: Bools
    condition: Expression | None = None
    clear: Expression | None = None
    devices: I32 | None = None
    columns: dict[str, I32] | None = None

    def word(self) -> int:
        return self.number // 64

    def bit(self) -> np.uint64:
        return np.uint64(1 << (self.number % 64))


def match_rules(rules: Sequence[Rule], directory: Directory) -> list[Compiled]:
    """Every rule with the series that it concerns in this registry; disabled ones in none."""
    names = _Names(directory)
    return [_match(rule, number, names) for number, rule in enumerate(rules)]


def unmatched(rules: Sequence[Rule], directory: Directory) -> list[str]:
    """Names of the rules that no series of this registry is under: often a word that is misspelt."""
    found = match_rules(rules, directory)
    return [match.rule.name for match in found if not match.series.any()]


def words_of(found: Sequence[Compiled], n_series: int) -> U64:
    """Bit `number` of column `series`: does the rule concern the series. Shape (words, n_series)."""
    words = np.zeros((max(1, -(-len(found) // 64)), n_series), np.uint64)
    for item in found:
        words[item.word()][item.series] |= item.bit()
    return words


class _Names:
    """Patterns are matched once per name, not once per series."""

    def __init__(self, directory: Directory) -> None:
        self.directory = d = directory
        self.on = (d.enabled[d.series_device] != 0) & (d.series_enabled != 0)
        self._found: dict[tuple[str, str], Bools] = {}

    def matched(self, kind: str, texts: Texts, pattern: str) -> Bools:
        key = (kind, pattern)
        if key not in self._found:
            test = re.compile(fnmatch.translate(pattern)).match
            hits = [test(texts[i]) is not None for i in range(len(texts))]
            self._found[key] = np.array(hits, np.bool_)
        return self._found[key]

    def devices(self, rule: Rule) -> Bools:
        d, match = self.directory, rule.match
        found: Bools = d.enabled != 0
        for kind, texts, of, pattern in (
            ("org", d.org, d.org_of, match.org),
            ("site", d.site, d.site_of, match.site),
            ("type", d.type, d.type_of, match.type),
        ):
            if pattern != "*":
                found &= self.matched(kind, texts, pattern)[of]
        if match.device != "*":
            found &= self.matched("device", d.device, match.device)
        return found


def _match(rule: Rule, number: int, names: _Names) -> Compiled:
    d = names.directory
    devices = names.devices(rule)
    if rule.expression is not None:
        return _match_expression(rule, number, names, devices)
    series = names.on & devices[d.series_device]
    if rule.match.metric != "*":
        series &= names.matched("metric", d.metric, rule.match.metric)[d.series_metric]
    return Compiled(rule, number, series)


def _match_expression(rule: Rule, number: int, names: _Names, devices: Bools) -> Compiled:
    assert rule.expression is not None
    d = names.directory
    condition = compiled(rule.expression.holds)
    clear = compiled(rule.expression.clear) if rule.expression.clear is not None else None
    metrics = sorted({*condition.metrics, *(clear.metrics if clear is not None else ())})
    known = {d.metric[i]: i for i in range(len(d.metric))}
    of_metric: dict[str, I32] = {}
    for metric in metrics:
        of_device = np.full(d.n_devices, -1, np.int32)
        mine = np.flatnonzero(names.on & (d.series_metric == known.get(metric, -1)))
        of_device[d.series_device[mine]] = mine
        devices = devices & (of_device >= 0)
        of_metric[metric] = of_device
    which = np.flatnonzero(devices).astype(np.int32)
    columns = {metric: of_device[which] for metric, of_device in of_metric.items()}
    series = np.zeros(d.n_series, np.bool_)
    for column in columns.values():
        series[column] = True
    return Compiled(rule, number, series, condition, clear, which, columns)
