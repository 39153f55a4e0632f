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
import zlib
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from greenlang_iot.detect.forest import Forest
from greenlang_iot.detect.kernels_bank import UNIT, adjust, choose, observe, weigh
from greenlang_iot.detect.limits import Limits
from greenlang_iot.model.batches import F32, F64, I32, I64, U8, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
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
class _Model:
    """The detectors of one device type, and what they learnt lately: rows of features and z."""

    detectors: list[_OfFeatures]
    columns: list[str]
    mean: F64
    """By detector: of its scores, as they usually are."""
    variance: F64
    learnt: int = 0
    lately: deque[list[float]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    places: dict[bytes, list[int]] = field(default_factory=dict)
    """By the metrics of a device: which of them is each column, −1: none. Of one Directory."""

    def opinions(self, x: F64, z: F64, learn: U8) -> F64:
        """Of observations in order, each in [−1, 1]: how much stranger than usual, by the mean of the detectors.

        As for `_OfFeatures.observe`.
        """
        scores = [detector.observe(x, z, learn, self.learnt) for detector in self.detectors]
        opinion: F64 = np.empty(len(x))
        self.learnt = weigh(
            np.array(scores),
            learn,
            self.learnt,
            LEARNT_FIRST,
            WINDOW,
            USUAL_RATE,
            self.mean,
            self.variance,
            opinion,
        )
        for row, one, learns in zip(x.tolist(), z.tolist(), learn.tolist(), strict=True):
            if learns:
                self.lately.append([*row, one])
        return opinion

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
    _directory: Directory | None = None  # that places and kinds are of
    _kinds: dict[int, str] = field(default_factory=dict)  # device types by their index
    _rows: I64 = field(default_factory=lambda: np.empty(0, np.int64))  # room for `choose`
    _learn: U8 = field(default_factory=lambda: np.empty(0, np.uint8))
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
                "usual": np.column_stack((model.mean, model.variance)).tolist(),
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
            usual = np.array(saved["usual"], np.float64).reshape(-1, 2)
            model.mean, model.variance = usual[:, 0].copy(), usual[:, 1].copy()
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
        if len(self._rows) < batch.n:
            self._rows, self._learn = (
                np.empty(2 * batch.n, np.int64),
                np.empty(2 * batch.n, np.uint8),
            )
        if len(self.newest) != directory.n_series:
            self.newest = np.zeros(directory.n_series, np.float32)
        stride = max(2 * UNIT // per_reading, 1)
        chosen, self._credit = choose(
            batch.n,
            batch.series,
            batch.flags,
            scores.verdict,
            z,
            self.newest,
            max(stride - 1 - self._since_sample, 0),
            stride,
            per_reading,
            self._credit,
            SAVED * UNIT,
            self._ready,
            self._rows,
            self._learn,
        )
        self._since_sample = (self._since_sample + batch.n) % stride
        if chosen:
            rows, learn = self._rows[:chosen], self._learn[:chosen]
            opinion = self._opinions(batch, directory, z, change, rows, learn)
            adjust(
                rows,
                OPINION * opinion,
                batch.series,
                limits.kind,
                limits.rows,
                scores.score,
                scores.detector,
                scores.verdict,
            )
            self.observations += chosen

    # One reading in a thousand comes here, long after the last one: code and data have left the caches, and each
    # function of numpy that is called costs 2 to 10 µs. So what follows calls few of them, and loops over a few rows.

    def _opinions(
        self, batch: ReadingBatch, directory: Directory, z: F32, change: F32, rows: I64, learn: U8
    ) -> F64:
        """Of each row, by the model of its device type; notes the newest z of all series."""
        if directory is not self._directory:
            self._directory = directory
            self._kinds.clear()
            for model in self._models.values():
                model.places.clear()
        members: dict[int, list[int]] = {}
        models: dict[int, _Model] = {}
        places: list[int] = []
        places_at = [0]
        devices = directory.series_device[batch.series[rows]]
        first: list[int] = directory.series_start[devices].tolist()
        ends = directory.series_start[devices + 1].tolist()
        kinds = directory.type_of[devices].tolist()
        for i, (begin, end, kind) in enumerate(zip(first, ends, kinds, strict=True)):
            metrics = directory.series_metric[begin:end]
            model = self._model(directory, kind, metrics)
            models[id(model)] = model
            members.setdefault(id(model), []).append(i)
            places += model.places_of(directory, metrics)
            places_at.append(len(places))
        out_at = np.empty(len(first), np.int64)
        end = 0
        for key, model in models.items():
            for i in members[key]:
                out_at[i] = end
                end += len(model.columns)
        features: F64 = np.empty(end)
        observe(
            batch.n,
            batch.series,
            batch.ts_ns,
            batch.flags,
            z,
            change,
            self.newest,
            rows,
            np.array(first, np.int64),
            np.array(places, np.int32),
            np.array(places_at, np.int64),
            out_at,
            features,
        )
        opinion: F64 = np.empty(len(first))
        z_of: F64 = z[rows].astype(np.float64)
        end = 0
        for key, model in models.items():
            mine, begin, width = members[key], end, len(model.columns)
            end += width * len(mine)
            x = features[begin:end].reshape(-1, width)
            opinion[mine] = model.opinions(x, z_of[mine], learn[mine])
        return opinion

    def _model(self, directory: Directory, of: int, its: I32) -> _Model:
        """Of a device type, by its index; made anew for a device with these metrics where there is none."""
        kind = self._kinds.get(of)
        if kind is None:
            kind = self._kinds[of] = directory.type[of]
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
        return _Model(detectors, columns, np.zeros(len(detectors)), np.zeros(len(detectors)))
