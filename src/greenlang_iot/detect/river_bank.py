"""The second stage: river's HalfSpaceTrees look at suspects and at a sample, within a budget.

An observation costs some 28 µs, a hundred times a reading's first stage, so the budget counts
observations per 1,000 readings and is carried across batches. What is due and not affordable (or
comes before river is imported) is marked SHED: its first score stands. Readings are never shed.

Features of a reading, each in [0, 1]: its z, the z of its change, and its time of day. One model
per (device type, metric), the least recently used dropped. Models learn from the sample, never
from suspects, and give no opinion in their first WINDOW observations.

A model's opinion is how far its score stands from its own usual score, in standard deviations
clipped at 3; it moves the reading's score by at most OPINION, up or down: a factor of three in the
share of normal readings. Models are not part of the checkpoint: they hold no series' memory and
are rebuilt from the sample.
"""

import importlib
import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from greenlang_iot.model.batches import F32, F64, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import (
    DETECTOR_RIVER,
    DETECTOR_SHIFT,
    DETECTOR_SPIKE,
    LEARNING,
    NOT_LEARNT,
    SECOND_STAGE,
    SHED,
    SUSPECT,
)
from greenlang_iot.settings.model import SecondStageSettings

WINDOW = 100
TREES = 10
HEIGHT = 6
OPINION = 0.5
USUAL_RATE = 0.02
DAY_NS = 86_400_000_000_000
UNIT = 1_000_000
"""What one observation costs, in millionths: the budget is kept in whole numbers, so that a batch
of n spends exactly what n batches of one would."""
SAVED = 20
"""Observations that a quiet time can save up for a burst of suspects."""


@dataclass(slots=True)
class _Model:
    trees: Any
    learnt: int = 0
    mean: float = 0.0
    variance: float = 0.0


@dataclass(slots=True)
class RiverBank:
    """Second opinions within a budget; deterministic once `load` has returned."""

    settings: SecondStageSettings
    observations: int = 0
    _credit: int = 0
    _since_sample: int = 0  # readings since the last one that was sampled
    _river: Any = None
    _models: "OrderedDict[tuple[int, int], _Model]" = field(default_factory=OrderedDict)

    def load(self) -> None:
        """Import river (some seconds; may run in a thread). Until then all that is due is SHED."""
        self._river = importlib.import_module("river.anomaly")

    @property
    def models(self) -> int:
        return len(self._models)

    def counters(self) -> dict[str, int]:
        """What the checkpoint keeps."""
        return {"credit": self._credit, "since_sample": self._since_sample}

    def restore(self, counters: dict[str, int]) -> None:
        self._credit = counters.get("credit", 0)
        self._since_sample = counters.get("since_sample", 0)

    def review(
        self,
        batch: ReadingBatch,
        scores: ScoreBatch,
        directory: Directory,
        threshold: F64,
        z: F32,
        change: F32,
    ) -> None:
        """Look at what is due and adjust score, detector and verdict in place.

        threshold: per series. z, change: per row, from the first stage.
        """
        per_reading = round(self.settings.budget_per_1000 * UNIT / 1000)
        if not self.settings.enabled or per_reading == 0:
            return
        due, sampled = self._due(batch, scores, per_reading)
        before = 0
        for row in due:
            self._credit = min(self._credit + per_reading * (row + 1 - before), SAVED * UNIT)
            before = row + 1
            if self._credit < UNIT or self._river is None:
                scores.verdict[row] |= SHED
                continue
            self._credit -= UNIT
            self._observe(batch, scores, directory, threshold, z, change, row, row in sampled)
        self._credit = min(self._credit + per_reading * (batch.n - before), SAVED * UNIT)

    def _due(
        self, batch: ReadingBatch, scores: ScoreBatch, per_reading: int
    ) -> tuple[list[int], set[int]]:
        """Rows to look at, in order: suspects, and a sample that takes half of the budget."""
        stride = max(2 * UNIT // per_reading, 1)
        first = stride - 1 - self._since_sample
        self._since_sample = (self._since_sample + batch.n) % stride
        verdict, flags = scores.verdict[: batch.n], batch.flags[: batch.n]
        ordinary = ((verdict & (SUSPECT | LEARNING)) == 0) & ((flags & NOT_LEARNT) == 0)
        sampled = {row for row in range(first, batch.n, stride) if ordinary[row]}
        suspects = np.flatnonzero(verdict & SUSPECT).tolist()
        return sorted(sampled.union(suspects)), sampled

    def _observe(
        self,
        batch: ReadingBatch,
        scores: ScoreBatch,
        directory: Directory,
        threshold: F64,
        z: F32,
        change: F32,
        row: int,
        learn: bool,
    ) -> None:
        series = int(batch.series[row])
        model = self._model(directory, series)
        features = {
            "z": _squash(float(z[row])),
            "change": _squash(float(change[row])),
            "time": int(batch.ts_ns[row]) % DAY_NS / DAY_NS,
        }
        self.observations += 1
        scores.verdict[row] |= SECOND_STAGE
        if model.learnt >= 2 * WINDOW and model.variance > 0.0:
            away = (model.trees.score_one(features) - model.mean) / math.sqrt(model.variance)
            opinion = OPINION * min(max(away / 3.0, -1.0), 1.0)
            _adjust(scores, row, opinion, float(threshold[series]))
        if learn:
            if model.learnt >= WINDOW:
                off = model.trees.score_one(features) - model.mean
                rate = max(1.0 / (model.learnt - WINDOW + 1), USUAL_RATE)
                model.mean += rate * off
                model.variance += rate * (off * off - model.variance)
            model.trees.learn_one(features)
            model.learnt += 1

    def _model(self, directory: Directory, series: int) -> _Model:
        device = int(directory.series_device[series])
        key = (int(directory.type_of[device]), int(directory.series_metric[series]))
        model = self._models.get(key)
        if model is None:
            model = _Model(
                self._river.HalfSpaceTrees(
                    n_trees=TREES, height=HEIGHT, window_size=WINDOW, seed=key[0] * 1009 + key[1]
                )
            )
            self._models[key] = model
            if len(self._models) > self.settings.models:
                self._models.popitem(last=False)
        self._models.move_to_end(key)
        return model


def _squash(z: float) -> float:
    """Any z into (0, 1), steepest where normal readings are."""
    return 0.5 + 0.5 * z / (4.0 + abs(z))


def _adjust(scores: ScoreBatch, row: int, opinion: float, threshold: float) -> None:
    """Move a score that rests on statistics; a violated limit stays certain."""
    if scores.detector[row] not in (DETECTOR_SPIKE, DETECTOR_SHIFT):
        return
    first = float(scores.score[row])
    scores.score[row] = max(first + opinion, 0.0)
    if first < threshold <= scores.score[row]:
        scores.verdict[row] |= SUSPECT
        scores.detector[row] = DETECTOR_RIVER
    elif scores.score[row] < threshold <= first:
        scores.verdict[row] &= ~SUSPECT & 0xFF
