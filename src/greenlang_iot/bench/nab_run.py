"""The production detector over the NAB corpus: scores, and the report of the three profiles."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from greenlang_iot.bench import nab
from greenlang_iot.bench.nab import Profile, Score, Series
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices import registry
from greenlang_iot.model.batches import F64
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.numbers import batch_of_numbers
from greenlang_iot.settings.model import DetectSettings

BATCH = 1_000
"""Rows given at a time; the scores do not depend on it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the corpus says of a detector."""

    profiles: dict[str, Score]
    shipped: dict[str, Score]
    """At the threshold of the default settings."""
    halves: tuple[float, float]
    """Standard score of either half of the files, at the best threshold of the other half."""
    categories: dict[str, dict[str, Score]]
    """By category and profile, at the corpus' thresholds."""
    seconds: float
    rows: int


def run(corpus: Sequence[Series], settings: DetectSettings | None = None) -> Report:
    """Score every file and weigh the scores; `settings` are the defaults unless given."""
    settings = settings or DetectSettings()
    started = time.perf_counter()
    scores = detect(corpus, settings)
    return report(corpus, scores, settings.threshold, time.perf_counter() - started)


def detect(corpus: Sequence[Series], settings: DetectSettings) -> list[F64]:
    """Scores (−log10) by file, in row order: what is suspect at t knows nothing of what comes later."""
    return _detect(corpus, settings)[0]


def _detect(corpus: Sequence[Series], settings: DetectSettings) -> tuple[list[F64], int]:
    """(scores by file, observations of the second stage)."""
    detector = Detector(_directory(len(corpus)), settings)
    detector.load_second_stage()
    scores = [_feed(detector, index, file) for index, file in enumerate(corpus)]
    return scores, detector.observations


@dataclass(frozen=True, slots=True)
class SecondStage:
    """What the second stage does: its share of rows, its cost, and the standard score at the shipped
    threshold with it and without it."""

    observations: int
    rows: int
    microseconds: float
    """Of an observation: the time that a run with it takes longer, shared among them."""
    standard: float
    standard_without: float


def second_stage(corpus: Sequence[Series], settings: DetectSettings | None = None) -> SecondStage:
    """Both runs, one after the other; call it when kernels are compiled."""
    settings = settings or DetectSettings()
    off = settings.second_stage.model_copy(update={"enabled": False})
    found: list[tuple[float, float, int]] = []
    for choice in (settings, settings.model_copy(update={"second_stage": off})):
        started = time.perf_counter()
        scores, observations = _detect(corpus, choice)
        seconds = time.perf_counter() - started
        rows = nab.gather(corpus, scores)
        score = nab.at_threshold(rows, nab.PROFILES["standard"], settings.threshold).score
        found.append((score, seconds, observations))
    (score, seconds, observations), (without, faster, _) = found
    each = 1e6 * (seconds - faster) / max(observations, 1)
    total = sum(len(file.value) for file in corpus)
    return SecondStage(observations, total, each, score, without)


def _feed(detector: Detector, index: int, file: Series) -> F64:
    parts = [np.zeros(0)]
    for start in range(0, len(file.value), BATCH):
        ts_ns, value = file.ts_ns[start : start + BATCH], file.value[start : start + BATCH]
        n = len(value)
        batch = batch_of_numbers(
            np.full(n, index, np.int32),
            ts_ns.copy(),
            value.copy(),
            seq=np.arange(start, start + n, dtype=np.int64),  # some share a time stamp
            received_ns=int(ts_ns[-1]),
        )
        parts.append(detector.score(batch).score.astype(np.float64))
    return np.concatenate(parts)


def _directory(files: int) -> Directory:
    """A registry of one device a file that knows nothing of its values: no range, no interval."""
    document = {
        "version": 1,
        "types": {"file": {"metrics": {"value": {"unit": "1", "profile": "default"}}}},
        "devices": [
            {"id": f"f{i:03d}", "org": "nab", "site": "corpus", "type": "file"}
            for i in range(files)
        ],
    }
    return registry.parse(orjson.dumps(document))


def report(
    corpus: Sequence[Series], scores: Sequence[F64], threshold: float, seconds: float = 0.0
) -> Report:
    """Weigh columns of scores, one a file of `corpus`."""
    rows = nab.gather(corpus, scores)
    best = {name: nab.best(rows, profile) for name, profile in nab.PROFILES.items()}
    shipped = {
        name: nab.at_threshold(rows, profile, threshold) for name, profile in nab.PROFILES.items()
    }
    categories: dict[str, dict[str, Score]] = {}
    for category in dict.fromkeys(file.category for file in corpus):
        mine = [i for i, file in enumerate(corpus) if file.category == category]
        part = nab.gather([corpus[i] for i in mine], [scores[i] for i in mine])
        categories[category] = {
            name: nab.at_threshold(part, profile, best[name].threshold)
            for name, profile in nab.PROFILES.items()
        }
    halves = halved(corpus, scores, nab.PROFILES["standard"])
    total = sum(len(column) for column in scores)
    return Report(best, shipped, halves, categories, seconds, total)


def halved(
    corpus: Sequence[Series], scores: Sequence[F64], profile: Profile
) -> tuple[float, float]:
    """Score of either half of the files at the best threshold of the other one."""
    parts = []
    for number in (0, 1):
        mine = [i for i, file in enumerate(corpus) if nab.half(file.name) == number]
        parts.append(nab.gather([corpus[i] for i in mine], [scores[i] for i in mine]))
    learnt = [nab.best(part, profile).threshold for part in parts]
    return (
        nab.at_threshold(parts[0], profile, learnt[1]).score,
        nab.at_threshold(parts[1], profile, learnt[0]).score,
    )
