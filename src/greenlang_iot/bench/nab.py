"""The Numenta Anomaly Benchmark: its corpus, and its score written from the published definition.

A detector gives every row a score; a row is a detection where the score reaches the threshold.

* A labelled window earns what its earliest detection is worth: the scaled sigmoid of its place in
  the window, from the weight `tp` at the left edge to almost nothing at the right one. A window
  without a detection costs `fn`.
* A detection outside costs up to `fp`: little just after a window, all of it three widths later,
  and all of it before the first window of its file.
* The first 15 % of a file, at most 750 rows, are probation: they are neither credited nor charged.
* One threshold serves the whole corpus: the best of all that make a difference, per profile.
* The sum is scaled so that no detection at all is 0 and every window at its left edge is 100.
"""

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import F64, I64

Ints = npt.NDArray[np.int64]

PROBATION_SHARE = 0.15
PROBATION_ROWS = 750
FAR = 3.0
"""Widths behind a window from which on a false positive costs all of its weight."""
NOWHERE, IGNORED = -1, -2
"""In a column of windows: a row outside any window; a row of the probation."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What the outcomes weigh."""

    tp: float
    fp: float
    fn: float


PROFILES: Mapping[str, Profile] = {
    "standard": Profile(tp=1.0, fp=0.11, fn=1.0),
    "low_fp": Profile(tp=1.0, fp=0.22, fn=1.0),
    "low_fn": Profile(tp=1.0, fp=0.11, fn=2.0),
}


@dataclass(frozen=True, slots=True)
class Series:
    """One file: event times (ns since 1970), values, and windows as (first, last) row, inclusive."""

    name: str  # "realTweets/Twitter_volume_AAPL.csv"
    ts_ns: I64
    value: F64
    windows: tuple[tuple[int, int], ...]

    @property
    def category(self) -> str:
        return self.name.split("/")[0]


@dataclass(frozen=True, slots=True)
class Score:
    """A profile's result: `score` is normalised (0 = no detection, 100 = perfect)."""

    score: float
    threshold: float
    raw: float
    found: int  # windows with a detection
    windows: int
    false_rows: int  # detections outside windows and probation


@dataclass(frozen=True, slots=True)
class Rows:
    """The scorable rows of some files, highest score first; `window` counts over all of them."""

    score: F64
    window: Ints
    worth: F64  # scaled sigmoid: credit of a row in a window, minus the cost of one outside
    windows: int


def load(root: Path) -> list[Series]:
    """Every labelled file under `root` (the corpus' folder: `data/` and `labels/`), by name.

    Raises OSError if a file is missing, ValueError if a window's edge is not a row of its file.
    """
    labels = json.loads((root / "labels" / "combined_windows.json").read_text())
    return [_read(root / "data" / name, name, labels[name]) for name in sorted(labels)]


def _read(path: Path, name: str, edges: Sequence[tuple[str, str]]) -> Series:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ts = np.array([_ns(row["timestamp"]) for row in rows], np.int64)
    value = np.array([float(row["value"]) for row in rows])
    windows = []
    for edge in edges:
        first, last = (np.flatnonzero(ts == _ns(text)) for text in edge)
        if not len(first) or not len(last):
            raise ValueError(f"{name}: no row at an edge of the window {edge}")
        windows.append((int(first[0]), int(last[0])))
    return Series(name, ts, value, tuple(windows))


def _ns(text: str) -> int:
    at = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return round(at.timestamp()) * 1_000_000_000


def half(name: str) -> int:
    """0 or 1: which half of the corpus a file belongs to, by a hash of its name."""
    return hashlib.sha256(name.encode()).digest()[0] & 1


def probation(n: int) -> int:
    """Rows at the start of a file of `n` rows that are not scored."""
    return min(int(PROBATION_SHARE * n), PROBATION_ROWS)


def sigmoid(position: F64) -> F64:
    """−1 … 1 by the place relative to a window: −1 its left edge, 0 its right one."""
    worth: F64 = 2.0 / (1.0 + np.exp(5.0 * np.minimum(position, FAR))) - 1.0
    return np.where(position >= FAR, -1.0, worth)


def place(n: int, windows: Iterable[tuple[int, int]]) -> tuple[Ints, F64]:
    """Per row of a file: the number of its window (NOWHERE, IGNORED), and what it is worth."""
    where = np.full(n, NOWHERE, np.int64)
    position = np.full(n, FAR)
    row = np.arange(n)
    inside = np.zeros(n, bool)
    for number, (first, last) in enumerate(windows):
        width = last - first + 1
        position[last + 1 :] = (row[last + 1 :] - last) / max(width - 1, 1)
        position[first : last + 1] = (row[first : last + 1] - last - 1) / width
        where[first : last + 1] = number
        inside[first : last + 1] = True
    worth = sigmoid(position)
    worth[inside] /= sigmoid(np.array([-1.0]))[0]  # the left edge is worth exactly 1
    where[: probation(n)] = IGNORED
    return where, worth


def gather(files: Sequence[Series], scores: Sequence[F64]) -> Rows:
    """The scorable rows of `files`; `scores` are columns in row order, one a file."""
    where, worth = [np.zeros(0, np.int64)], [np.zeros(0)]
    total = 0
    for file, column in zip(files, scores, strict=True):
        if len(column) != len(file.value):
            raise ValueError(f"{file.name}: {len(column)} scores for {len(file.value)} rows")
        window, value = place(len(file.value), file.windows)
        scorable = np.unique(window[window >= 0])
        window[window >= 0] = total + np.searchsorted(scorable, window[window >= 0])
        total += len(scorable)
        where.append(window)
        worth.append(value)
    score = np.concatenate([np.zeros(0), *scores])
    window = np.concatenate(where)
    kept = np.flatnonzero(window != IGNORED)
    order = kept[np.argsort(-score[kept], kind="stable")]
    return Rows(score[order], window[order], np.concatenate(worth)[order], total)


def best(rows: Rows, profile: Profile) -> Score:
    """The score at the best threshold; of equals the highest threshold."""
    sums, found, false_rows = _sweep(rows, profile)
    ends = np.flatnonzero(np.append(rows.score[1:] != rows.score[:-1], True)[: len(rows.score)])
    # before the first row nothing is detected
    at = int(np.argmax(np.concatenate([[-profile.fn * rows.windows], sums[ends]])))
    if at == 0:  # also where there is no row
        return _score(rows, profile, np.inf, -profile.fn * rows.windows, 0, 0)
    end = ends[at - 1]
    return _score(
        rows, profile, float(rows.score[end]), sums[end], int(found[end]), int(false_rows[end])
    )


def at_threshold(rows: Rows, profile: Profile, threshold: float) -> Score:
    """The score where every row at or above `threshold` is a detection."""
    n = int(np.count_nonzero(rows.score >= threshold))
    if n == 0:
        return _score(rows, profile, threshold, -profile.fn * rows.windows, 0, 0)
    sums, found, false_rows = _sweep(rows, profile)
    return _score(rows, profile, threshold, sums[n - 1], int(found[n - 1]), int(false_rows[n - 1]))


def _sweep(rows: Rows, profile: Profile) -> tuple[F64, Ints, Ints]:
    """After each row, taken from the highest score down: sum, windows found, false positives."""
    outside = rows.window == NOWHERE
    gain = np.where(outside, profile.fp * rows.worth, 0.0)
    first = np.zeros(len(gain), np.int64)
    for number in range(rows.windows):
        at = np.flatnonzero(rows.window == number)
        earned = np.maximum.accumulate(profile.tp * rows.worth[at])
        gain[at] = np.diff(earned, prepend=-profile.fn)
        first[at[0]] = 1
    return np.cumsum(gain) - profile.fn * rows.windows, np.cumsum(first), np.cumsum(outside)


def _score(
    rows: Rows, profile: Profile, threshold: float, raw: float, found: int, false_rows: int
) -> Score:
    null, perfect = -profile.fn * rows.windows, profile.tp * rows.windows
    score = 100.0 * (raw - null) / (perfect - null) if rows.windows else 0.0
    return Score(float(score), threshold, float(raw), found, rows.windows, false_rows)
