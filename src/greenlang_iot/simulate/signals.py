"""Plausible signals: one value per series and step, the same for the same seed."""

from typing import NamedTuple

import numpy as np

from greenlang_iot.model.batches import F64
from greenlang_iot.model.directory import PROFILES, Directory

DAY = 1_440
"""Steps of one period of the daily season (a day of minutes, whatever a step's length is)."""

FINEST = 2e-4
"""Least noise, as a share of the valid range."""


class Shape(NamedTuple):
    """level ± half the spread between devices, amplitude of the season, noise (standard deviation)."""

    level: float
    spread: float
    season: float
    noise: float


SHAPES: dict[str, Shape] = {
    "power": Shape(120, 60, 12, 1.5),
    "voltage": Shape(231, 2, 1, 0.4),
    "current": Shape(180, 80, 15, 2),
    "flow": Shape(60, 20, 8, 0.5),
    "pressure": Shape(4, 1, 0.05, 0.02),
    "temperature": Shape(21, 1.5, 1, 0.05),
    "humidity": Shape(48, 8, 3, 0.2),
    "wind_speed": Shape(6, 2, 1, 0.4),
    "co2": Shape(650, 120, 60, 5),
    "supply_temperature": Shape(75, 5, 3, 0.2),
    "return_temperature": Shape(55, 5, 2, 0.2),
    "velocity": Shape(2.5, 0.8, 0.2, 0.1),
}
"""By metric; a shape that does not fit into a series' limits is replaced by one from the limits."""

COUNTER, BINARY = PROFILES.index("counter"), PROFILES.index("binary")


class Signals:
    """The values of all series of a directory, step by step."""

    def __init__(self, directory: Directory, interval: float, rng: np.random.Generator) -> None:
        """interval: seconds of event time between two steps."""
        d = self._directory = directory
        n = d.n_series
        self._rng = rng
        self._step = 0
        names = [d.metric[i] for i in range(len(d.metric))]
        shapes = np.array(
            [
                _shape(
                    _coarse(SHAPES.get(names[m]), high - low),
                    max(low, warn_low),
                    min(high, warn_high),
                )
                for m, low, high, warn_low, warn_high in zip(
                    d.series_metric, d.low, d.high, d.warn_low, d.warn_high, strict=True
                )
            ]
        ).reshape(n, 4)
        self.level = shapes[:, 0] + shapes[:, 1] * rng.uniform(-0.5, 0.5, n)
        # A physical step limit must be far outside the noise at this interval.
        self.noise: F64 = np.minimum(shapes[:, 3], d.step * interval / 15)
        # The season of a day is slow against the noise of a minute.
        self._season = np.minimum(shapes[:, 2], 10 * self.noise)
        self._phase = rng.uniform(0, 2 * np.pi, n)
        self._walk = np.zeros(n)
        self._counter = d.profile == COUNTER
        self._binary = d.profile == BINARY
        self.steady = ~(self._counter | self._binary)
        """Series in which a spike, a drift or a stuck value means something."""
        self._total = np.where(self._counter, rng.integers(1_000, 100_000, n), 0).astype(np.float64)
        self._rate = np.where(self._counter, rng.uniform(0.5, 2.0, n), 0.0)
        self._state = (rng.random(n) < 0.5).astype(np.float64)
        digits = np.clip(np.ceil(-np.log10(self.noise)) + 1, 0, 6)
        self.digits = np.where(self._counter, 3, np.where(self._binary, 0, digits)).astype(np.int64)

    def step(self) -> F64:
        """The next value of every series, rounded as its sensor would; within its valid range."""
        rng, d = self._rng, self._directory
        n = d.n_series
        self._walk = 0.999 * self._walk + 0.02 * self.noise * rng.standard_normal(n)
        angle = 2 * np.pi * self._step / DAY + self._phase
        value = self.level + self._season * np.sin(angle) + self._walk
        value += self.noise * rng.standard_normal(n)
        self._total += self._rate * rng.uniform(0.95, 1.05, n)
        self._state = np.where(rng.random(n) < 0.002, 1 - self._state, self._state)
        value = np.where(self._counter, self._total, np.where(self._binary, self._state, value))
        self._step += 1
        return self.round(np.clip(value, d.low, d.high))

    def round(self, value: F64) -> F64:
        """To each series' number of digits."""
        rounded = value.copy()
        for digits in np.unique(self.digits):
            rows = self.digits == digits
            rounded[rows] = np.round(value[rows], int(digits))
        return rounded


def _coarse(shape: Shape | None, width: float) -> Shape | None:
    """No sensor is finer than a small share of its valid range."""
    if shape is None or not np.isfinite(width):
        return shape
    return shape._replace(noise=max(shape.noise, FINEST * width))


def _shape(shape: Shape | None, low: float, high: float) -> Shape:
    """The metric's shape if it stays well inside the limits, else one made for them."""
    if shape is not None:
        reach = shape.spread / 2 + shape.season + 40 * shape.noise
        if low <= shape.level - reach and shape.level + reach <= high:
            return shape
    if not np.isfinite(low) and not np.isfinite(high):
        return Shape(100.0, 20.0, 5.0, 0.5)
    if not np.isfinite(high):
        high = max(2 * abs(low), low + 100)
    if not np.isfinite(low):
        low = min(-2 * abs(high), high - 100)
    width = high - low
    return Shape((low + high) / 2, width / 10, width / 20, width / 400)
