"""The second stage: river's detectors look at suspects and at a sample, within a budget.

An observation costs a hundred times a reading's first stage and more, so the budget counts
observations per 1,000 readings and is carried across batches. What is due and not affordable (or
comes before river is imported) is marked SHED: its first score stands. Readings are never shed.

What they look at is the device, not the reading alone: the newest z of every metric that its type
has, the z of this reading's change, and its time of day, each in [0, 1]. Detectors of river that take
one number get the reading's z. One set of models per device type, the least recently used dropped.
Models learn from the sample, never from suspects, and give no opinion in their first observations.

A model's opinion is how far its score stands from its own usual score, in standard deviations
clipped at 3; their mean moves the reading's score by at most OPINION, up or down: a factor of three
in the share of normal readings.

Half-space trees are walked by kernels of ours (`forest.py`), all else by river itself.

The checkpoint never holds river's objects (nothing is unpickled): it holds the newest observations
that each model learnt, and a restored model learns them again. For HalfSpaceTrees that is all that
it knows; what others knew from longer ago is lost.
"""

import importlib
import math
import zlib
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from greenlang_iot.detect.forest import Forest
from greenlang_iot.detect.kernels_bank import observe
from greenlang_iot.detect.limits import Limits
from greenlang_iot.model.batches import F32, F64, I32, U8, ReadingBatch, ScoreBatch
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
OTHER_COLUMNS = ("change of it", "time of day")
"""Columns that follow the metrics of a device type."""
PLACES = 256
"""Sets of metrics that a model knows the places of; beyond it finds them anew."""
UNIT = 1_000_000
"""What one observation costs, in millionths: the budget is kept in whole numbers, so that a batch
of n spends exactly what n batches of one would."""
SAVED = 20
"""Observations that a quiet time can save up for a burst of suspects."""


REMEMBERED = 2 * WINDOW
"""Observations of a model that the checkpoint keeps: the window before this one, and this one."""
LEARNT_FIRST = 2 * WINDOW
"""Observations before a model has an opinion."""


class _OfFeatures:
    """A detector of several features, by their names."""

    def __init__(self, river: Any, columns: list[str]) -> None:
        self._river = river
        self._columns = columns

    def observe(self, x: F64, z: F64, learn: U8, learnt: int) -> list[float]:
        """The score of each observation, in order; each is learnt after its score where `learn` says so.

        x: float64[n, columns]. z: of the readings, with their signs. learnt: observations before these;
        up to WINDOW of them the score is 0.
        """
        scores = []
        for row, one, learns in zip(x, z.tolist(), learn.tolist(), strict=True):
            scores.append(self._score(row, one) if learnt >= WINDOW else 0.0)
            if learns:
                self._learn(row, one)
                learnt += 1
        return scores

    def learn(self, x: F64, z: F64) -> None:
        """Learn observations, in order."""
        for row, one in zip(x, z.tolist(), strict=True):
            self._learn(row, one)

    def _score(self, x: F64, z: float) -> float:
        return float(self._river.score_one(self._named(x)))

    def _learn(self, x: F64, z: float) -> None:
        self._river.learn_one(self._named(x))

    def _named(self, x: F64) -> dict[str, float]:
        return dict(zip(self._columns, x.tolist(), strict=True))


class _Trees(_OfFeatures):
    """Half-space trees, walked by kernels."""

    def __init__(self, river: Any, columns: list[str]) -> None:
        self._forest = Forest(river, columns)  # river's own trees are not kept

    def observe(self, x: F64, z: F64, learn: U8, learnt: int) -> list[float]:
        scores: list[float] = self._forest.observe(x, learn).tolist()
        return scores

    def learn(self, x: F64, z: F64) -> None:
        self._forest.observe(x, np.ones(len(x), np.uint8))


class _Single(_OfFeatures):
    """A detector of one number."""

    def _score(self, x: F64, z: float) -> float:
        return float(self._river.score_one(None, z))

    def _learn(self, x: F64, z: float) -> None:
        self._river.learn_one(None, z)


class _Drift(_OfFeatures):
    """A detector of change in what came: strange is the moment in which it finds one."""

    def _score(self, x: F64, z: float) -> float:
        return float(self._river.drift_detected)

    def _learn(self, x: F64, z: float) -> None:
        self._river.update(z)


def _make(name: str, seed: int, columns: list[str]) -> _OfFeatures:
    """A new model of the detector that the settings name so."""
    if name == "HalfSpaceTrees":
        river = importlib.import_module("river.anomaly")
        trees = river.HalfSpaceTrees(n_trees=TREES, height=HEIGHT, window_size=WINDOW, seed=seed)
        return _Trees(trees, columns)
    if name in ("GaussianScorer", "StandardAbsoluteDeviation"):
        return _Single(getattr(importlib.import_module("river.anomaly"), name)(), columns)
    if name in ("OneClassSVM", "LODA"):
        more = {"seed": seed} if name == "LODA" else {}
        return _OfFeatures(getattr(importlib.import_module("river.anomaly"), name)(**more), columns)
    drift = getattr(importlib.import_module("river.drift"), name)
    return _Drift(drift(seed=seed) if name == "KSWIN" else drift(), columns)


@dataclass(slots=True)
class _Usual:
    """What a model's score usually is."""

    mean: float = 0.0
    variance: float = 0.0

    def stranger(self, off: float) -> float:
        """In [−1, 1]: a distance from the mean in standard deviations, three of them being all."""
        if self.variance <= 0.0:
            return 0.0
        return min(max(off / math.sqrt(self.variance) / 3.0, -1.0), 1.0)

    def learn(self, off: float, rate: float) -> None:
        self.mean += rate * off
        self.variance += rate * (off * off - self.variance)


@dataclass(slots=True)
class _Model:
    """The detectors of one device type, and what they learnt lately: rows of features and z."""

    detectors: list[_OfFeatures]
    usual: list[_Usual]
    columns: list[str]
    learnt: int = 0
    lately: deque[list[float]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    places: dict[bytes, list[int]] = field(default_factory=dict)
    """By the metrics of a device: which of them is each column, −1: none. Of one Directory."""

    def opinions(self, x: F64, z: F64, learn: U8) -> list[float]:
        """Of observations in order, each in [−1, 1]: how much stranger than usual, by the mean of the detectors.

        As for `_OfFeatures.observe`.
        """
        scores = [detector.observe(x, z, learn, self.learnt) for detector in self.detectors]
        rows = x.tolist()
        opinions = []
        for i, learns in enumerate(learn.tolist()):
            total = 0.0
            if self.learnt >= WINDOW:
                rate = max(1.0 / (self.learnt - WINDOW + 1), USUAL_RATE)
                for score, usual in zip(scores, self.usual, strict=True):
                    off = score[i] - usual.mean
                    if math.isfinite(off):
                        total += usual.stranger(off)
                        if learns:
                            usual.learn(off, rate)
            silent = self.learnt < LEARNT_FIRST
            opinions.append(0.0 if silent else total / len(self.detectors))
            if learns:
                self.learnt += 1
                self.lately.append([*rows[i], float(z[i])])
        return opinions

    def places_of(self, directory: Directory, metrics: I32) -> list[int]:
        """Where each metric's column finds its series among those of a device with these metrics."""
        key = metrics.tobytes()
        places = self.places.get(key)
        if places is None:
            here = {directory.metric[m]: i for i, m in enumerate(metrics.tolist())}
            columns = self.columns[: -len(OTHER_COLUMNS)]
            places = [here.get(name, -1) for name in columns]
            if len(self.places) >= PLACES:
                self.places.clear()
            self.places[key] = places
        return places


@dataclass(slots=True)
class RiverBank:
    """Second opinions within a budget; deterministic once `load` has returned."""

    settings: SecondStageSettings
    observations: int = 0
    newest: F32 = field(default_factory=lambda: np.zeros(0, np.float32))
    """By series: z of the newest reading."""
    _credit: int = 0
    _since_sample: int = 0  # readings since the last one that was sampled
    _ready: bool = False
    _directory: Directory | None = None  # that the models' places are of
    _models: "OrderedDict[str, _Model]" = field(default_factory=OrderedDict)  # by device type
    _saved: list[dict[str, Any]] = field(
        default_factory=list
    )  # of a checkpoint, until river is there

    def load(self) -> None:
        """Import river (some seconds; may run in a thread). Until then all that is due is SHED."""
        models: OrderedDict[str, _Model] = OrderedDict()
        for name in self.settings.detectors:
            _make(name, 0, list(OTHER_COLUMNS))
        for saved in self._saved:
            models[saved["type"]] = self._relearnt(saved)
        self._models = models
        self._ready = True

    @property
    def models(self) -> int:
        return len(self._models)

    def saved(self) -> dict[str, Any]:
        """What the checkpoint keeps, as plain JSON types."""
        models = [
            {
                "type": kind,
                "columns": model.columns,
                "detectors": list(self.settings.detectors),
                "learnt": model.learnt,
                "usual": [[usual.mean, usual.variance] for usual in model.usual],
                "lately": list(model.lately),
            }
            for kind, model in self._models.items()
        ]
        return {
            "credit": self._credit,
            "since_sample": self._since_sample,
            "models": models if self._ready else self._saved,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Take over what `saved` gave; models learn again when river is there."""
        self._credit = int(saved.get("credit", 0))
        self._since_sample = int(saved.get("since_sample", 0))
        models = saved.get("models", [])
        self._saved = models[-self.settings.models :]
        if self._ready:
            self.load()

    def _relearnt(self, saved: dict[str, Any]) -> _Model:
        """A model that learnt again what it learnt last."""
        kind, columns = saved["type"], saved["columns"]
        model = self._new(kind, columns)
        same = saved["detectors"] == list(self.settings.detectors)
        rows = np.array(saved["lately"], np.float64).reshape(-1, len(columns) + 1)
        learnt = int(saved["learnt"]) if same else len(rows)
        # windows begin where they began: the rows before the last whole window say nothing more
        again = rows[-(WINDOW + learnt % WINDOW) :] if learnt > WINDOW else rows
        for detector in model.detectors:
            detector.learn(again[:, :-1].copy(), again[:, -1])
        model.lately.extend(rows.tolist())
        model.learnt = learnt
        if same:
            model.usual = [_Usual(float(mean), float(var)) for mean, var in saved["usual"]]
        return model

    def review(
        self,
        batch: ReadingBatch,
        scores: ScoreBatch,
        directory: Directory,
        limits: Limits,
        z: F32,
        change: F32,
    ) -> None:
        """Look at what is due and adjust score, detector and verdict in place.

        z, change: per row, from the first stage.
        """
        per_reading = round(self.settings.budget_per_1000 * UNIT / 1000)
        if not self.settings.enabled or per_reading == 0:
            return
        due, sampled = self._due(batch, scores, per_reading)
        if len(self.newest) != directory.n_series:
            self.newest = np.zeros(directory.n_series, np.float32)
        if directory is not self._directory:
            self._directory = directory
            for model in self._models.values():
                model.places.clear()
        looked = self._affordable(due, batch.n, per_reading, scores)
        models, features = self._features(batch, directory, z, change, looked)
        self.observations += len(looked)
        for model in {id(model): model for model in models}.values():
            mine = [i for i, other in enumerate(models) if other is model]
            x = np.array([features[i] for i in mine])
            rows = [looked[i] for i in mine]
            learn = np.array([row in sampled for row in rows], np.uint8)
            opinions = model.opinions(x, np.array([float(z[row]) for row in rows]), learn)
            for row, opinion in zip(rows, opinions, strict=True):
                threshold = limits.rows["threshold"][limits.kind[batch.series[row]]]
                _adjust(scores, row, OPINION * opinion, float(threshold))

    # One reading in a thousand comes here, long after the last one: code and data have left the caches, and each
    # function of numpy that is called costs some 10 µs. So what follows is plain loops over a few rows.

    def _affordable(
        self, due: list[int], n: int, per_reading: int, scores: ScoreBatch
    ) -> list[int]:
        """Of the due rows of a batch of n those that the budget has room for; marks them, and the others."""
        looked: list[int] = []
        before = 0
        for row in due:
            self._credit = min(self._credit + per_reading * (row + 1 - before), SAVED * UNIT)
            before = row + 1
            if self._credit < UNIT or not self._ready:
                scores.verdict[row] |= SHED
            else:
                self._credit -= UNIT
                scores.verdict[row] |= SECOND_STAGE
                looked.append(row)
        self._credit = min(self._credit + per_reading * (n - before), SAVED * UNIT)
        return looked

    def _features(
        self, batch: ReadingBatch, directory: Directory, z: F32, change: F32, looked: list[int]
    ) -> tuple[list[_Model], list[F64]]:
        """The model of each row to look at, and its features; notes the newest z of all series."""
        models: list[_Model] = []
        first: list[int] = []
        places: list[int] = []
        places_at = [0]
        for row in looked:
            device = int(directory.series_device[batch.series[row]])
            begin, end = (
                int(directory.series_start[device]),
                int(directory.series_start[device + 1]),
            )
            metrics = directory.series_metric[begin:end]
            model = self._model(directory, directory.type[int(directory.type_of[device])], metrics)
            models.append(model)
            first.append(begin)
            places += model.places_of(directory, metrics)
            places_at.append(len(places))
        features: F64 = np.empty(len(places) + len(OTHER_COLUMNS) * len(looked))
        observe(
            batch.n,
            batch.series,
            batch.ts_ns,
            batch.flags,
            z,
            change,
            self.newest,
            np.array(looked, np.int64),
            np.array(first, np.int64),
            np.array(places, np.int32),
            np.array(places_at, np.int64),
            features,
        )
        ends = [at + len(OTHER_COLUMNS) * i for i, at in enumerate(places_at)]
        return models, [features[a:b] for a, b in pairwise(ends)]

    def _due(
        self, batch: ReadingBatch, scores: ScoreBatch, per_reading: int
    ) -> tuple[list[int], set[int]]:
        """Rows to look at, in order: suspects, and a sample that takes half of the budget."""
        stride = max(2 * UNIT // per_reading, 1)
        first = stride - 1 - self._since_sample
        self._since_sample = (self._since_sample + batch.n) % stride
        verdict = scores.verdict[: batch.n]
        sampled = {
            row
            for row in range(first, batch.n, stride)
            if not (verdict[row] & (SUSPECT | LEARNING) or batch.flags[row] & NOT_LEARNT)
        }
        if not np.bitwise_or.reduce(verdict, initial=0) & SUSPECT:
            return sorted(sampled), sampled
        suspects = np.flatnonzero(verdict & SUSPECT).tolist()
        return sorted(sampled.union(suspects)), sampled

    def _model(self, directory: Directory, kind: str, its: I32) -> _Model:
        model = self._models.get(kind)
        if model is None:
            metrics = sorted(directory.metric[m] for m in its.tolist())
            model = self._models[kind] = self._new(kind, [*metrics, *OTHER_COLUMNS])
            if len(self._models) > self.settings.models:
                self._models.popitem(last=False)
        self._models.move_to_end(kind)
        return model

    def _new(self, kind: str, columns: list[str]) -> _Model:
        seed = zlib.crc32(kind.encode())
        detectors = [_make(name, seed, columns) for name in self.settings.detectors]
        return _Model(detectors, [_Usual() for _ in detectors], columns)


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
