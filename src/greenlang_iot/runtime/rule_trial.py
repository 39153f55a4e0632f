"""What rules would have said of the past: the lake's readings through the engine that shards run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

from greenlang_iot.alerts.book import INCIDENT, Book
from greenlang_iot.alerts.engine import RuleEngine
from greenlang_iot.alerts.rule_file import RuleSet
from greenlang_iot.model.batches import F64, I32, I64, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.settings.model import AlertSettings
from greenlang_iot.sinks.lake_query import LakeReader

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
    lake: Path,
    rules: RuleSet,
    directory: Directory,
    settings: AlertSettings,
    from_ns: int,
    to_ns: int,
    *,
    examples: int = 3,
    advance: Callable[[int], None] = lambda done: None,
) -> Trial:
    """Run `rules` over the readings between the two event times. advance: told the ns that are done.

    What was open or pending before, and the values before, are not known: the trial begins anew.
    Raises InputError where there is no lake.
    """
    trial = Trial(rules={rule.name: RuleResult() for rule in rules.rules})
    history = _History(lake, directory)
    engine, book = RuleEngine(rules, directory, settings), Book(settings, rules)
    newest = np.zeros(directory.n_series, np.int64)

    def note(transitions: list[Transition]) -> None:
        for entry in book.take([t.as_dict() for t in transitions], 0):
            trial.incidents += _begins_incident(entry)
        for transition in transitions:
            _count(trial.rules[transition.rule], transition, examples)

    for start in range(from_ns, to_ns, WINDOW):
        series, ts, value, score = history.read(start, min(start + WINDOW, to_ns), trial)
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


class _History:
    """Readings of a lake as columns, in the order of their event times."""

    def __init__(self, lake: Path, directory: Directory) -> None:
        self._lake = LakeReader(lake)
        d = directory
        self._series = {
            (d.device[int(d.series_device[s])], d.metric[int(d.series_metric[s])]): s
            for s in range(d.n_series)
        }

    def read(self, from_ns: int, to_ns: int, trial: Trial) -> tuple[I32, I64, F64, F64]:
        columns = "SELECT device, metric, ts, value, score FROM readings"
        table = self._lake.query(
            f"{columns} WHERE ts >= {from_ns:d} AND ts < {to_ns:d} ORDER BY ts"  # numbers alone
        )
        devices = _encoded(table.column(0))
        metrics = _encoded(table.column(1))
        pairs = np.stack([_codes(devices), _codes(metrics)])
        unique, which = np.unique(pairs, axis=1, return_inverse=True)
        found = np.array(
            [
                self._series.get((str(devices.dictionary[a]), str(metrics.dictionary[b])), -1)
                for a, b in unique.T.tolist()
            ],
            np.int32,
        )
        series = found[which.ravel()] if len(found) else np.zeros(0, np.int32)
        known = series >= 0
        trial.readings += int(known.sum())
        trial.unknown += int((~known).sum())
        ts, value, score = (np.asarray(table.column(i).to_numpy()) for i in (2, 3, 4))
        return series[known], ts[known], value[known], score[known]


def _encoded(column: Any) -> Any:
    """A dictionary column in one piece."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    chunks = column.unify_dictionaries().combine_chunks()
    return chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks


def _codes(column: Any) -> I64:
    codes: I64 = np.asarray(column.indices.to_numpy(zero_copy_only=False)).astype(np.int64)
    return codes


def _batch(series: I32, ts: I64, value: F64, score: F64) -> tuple[ReadingBatch, ScoreBatch]:
    """Columns of the lake as a shard has them; what no rule looks at is empty."""
    n = len(series)
    none = np.zeros(0, np.uint8)
    with np.errstate(divide="ignore"):
        tail = np.minimum(-np.log10(1.0 - np.nan_to_num(score)), SURE).astype(np.float32)
    batch = ReadingBatch(
        n=n,
        series=series,
        ts_ns=ts,
        value=value,
        seq=np.zeros(n, np.int64),
        flags=np.zeros(n, np.uint16),
        frame=np.zeros(n, np.int32),
        text_off=np.zeros(n, np.int32),
        text_len=np.zeros(n, np.int16),
        buffer=none,
        arena=none,
        connection=0,
        received_ns=0,
    )
    zeros = np.zeros(n, np.uint8)
    nothing = np.full(n, np.nan, np.float32)
    return batch, ScoreBatch(n, tail, zeros, zeros, nothing, nothing)


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
