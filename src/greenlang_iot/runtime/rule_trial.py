"""What rules would have said of the past: its readings through the engine that shards run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from greenlang_iot.alerts.book import INCIDENT, Book
from greenlang_iot.alerts.engine import RuleEngine
from greenlang_iot.alerts.rule_file import RuleSet
from greenlang_iot.model.batches import F64, I32, I64, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.numbers import batch_of_numbers
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.runtime.rule_history import History
from greenlang_iot.settings.model import AlertSettings

WINDOW: Final = 3_600 * 10**9
"""History is read so much at a time (ns)."""
LOOK_EVERY: Final = 60 * 10**9
"""Silence is looked for so often, in event time (ns)."""
SURE: Final = 30.0
"""−log10 of a score of 1, which has none."""


@dataclass(slots=True)
class RuleResult:
    """What one rule would have done. examples: the first openings."""

    opened: int = 0
    resolved: int = 0
    devices: set[str] = field(default_factory=set)
    examples: list[Transition] = field(default_factory=list)


@dataclass(slots=True)
class Trial:
    """readings: that some rule looked at; unknown: readings of series that the registry has not."""

    readings: int = 0
    unknown: int = 0
    rules: dict[str, RuleResult] = field(default_factory=dict)
    incidents: int = 0


def try_rules(
    history: History,
    rules: RuleSet,
    directory: Directory,
    settings: AlertSettings,
    from_ns: int,
    to_ns: int,
    *,
    examples: int = 3,
    advance: Callable[[int], None] = lambda done: None,
) -> Trial:
    """Run `rules` over what `history` has between the two event times. advance: told the ns that are done.

    What was open or pending before, and the values before, are not known: the trial begins anew.
    Raises what reading the history raises.
    """
    trial = Trial(rules={rule.name: RuleResult() for rule in rules.rules})
    engine, book = RuleEngine(rules, directory, settings), Book(settings, rules)
    newest = np.zeros(directory.n_series, np.int64)

    def note(transitions: list[Transition]) -> None:
        for entry in book.take([t.as_dict() for t in transitions], 0):
            trial.incidents += _begins_incident(entry)
        for transition in transitions:
            _count(trial.rules[transition.rule], transition, examples)

    for start in range(from_ns, to_ns, WINDOW):
        series, ts, value, score, unknown = history.read(start, min(start + WINDOW, to_ns))
        trial.readings += len(series)
        trial.unknown += unknown
        for tick in range(start, min(start + WINDOW, to_ns), LOOK_EVERY):
            first, last = np.searchsorted(ts, [tick, tick + LOOK_EVERY])
            rows = slice(int(first), int(last))
            batch, scores = _batch(series[rows], ts[rows], value[rows], score[rows])
            note(engine.evaluate(batch, scores))
            np.maximum.at(newest, series[rows], ts[rows])
            if engine.asks_for_quiet:
                heard = np.where(newest > 0, newest, tick + LOOK_EVERY)
                note(engine.evaluate_quiet(tick + LOOK_EVERY - heard, newest))
        advance(min(start + WINDOW, to_ns) - from_ns)
    return trial


def _batch(series: I32, ts: I64, value: F64, score: F64) -> tuple[ReadingBatch, ScoreBatch]:
    """Columns of the lake as a shard has them; what no rule looks at is empty."""
    n = len(series)
    with np.errstate(divide="ignore"):
        tail = np.minimum(-np.log10(1.0 - np.nan_to_num(score)), SURE).astype(np.float32)
    zeros = np.zeros(n, np.uint8)
    nothing = np.full(n, np.nan, np.float32)
    return batch_of_numbers(series, ts, value), ScoreBatch(n, tail, zeros, zeros, nothing, nothing)


def _count(result: RuleResult, transition: Transition, examples: int) -> None:
    if transition.state == "open":
        result.opened += 1
        result.devices.add(transition.device)
        if len(result.examples) < examples:
            result.examples.append(transition)
    elif transition.state == "resolved":
        result.resolved += 1


def _begins_incident(entry: dict[str, Any]) -> bool:
    document = entry.get("t", {})
    return bool(document.get("detector") == INCIDENT and document["number"] == 1)
