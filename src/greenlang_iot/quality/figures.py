"""From counts to figures: per device, per site, for the whole fleet.

    completeness  readings received / readings due by the registry's intervals (at most all of a device's),
                  by the time they were measured; the newest sixth of the window may still be on its way
                  and is left out
    timeliness    of the readings that arrived, the share whose event time was at most `quality.lag` ago
    validity      of all readings found, the share that passed validation (a message that cannot be decoded
                  counts as one reading)
    consistency   of all readings found, the share that is of the agreed unit and type, in order, and new
    accuracy      of the readings the detectors judged, the share within their expected band

A figure is NaN where there is nothing to divide by. Skew: how far a device's clock is ahead (s), by the
least lag of the window; a clock that is behind cannot be told from a network that always takes as long.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import F64
from greenlang_iot.quality.record import (
    ACCURATE,
    ARRIVED,
    INCONSISTENT,
    JUDGED,
    LEAST_LAG,
    NO_LAG,
    ON_TIME,
    RECEIVED,
    REJECTED,
)
from greenlang_iot.settings.model import QualitySettings

FIGURES = ("completeness", "timeliness", "validity", "consistency", "accuracy")


@dataclass(slots=True)
class Scopes:
    """Who is judged, in columns of equal length.

    org, site, device: "" where it does not apply: a site has no device, the fleet none of them.
    counts: int64[n, FIELDS] of `kernels`, with RECEIVED at most what was due of each device.
    """

    org: list[str]
    site: list[str]
    device: list[str]
    expected: F64
    counts: npt.NDArray[np.int64]
    skew: F64  # seconds; NaN where it is not known
    from_ns: int
    to_ns: int

    def __len__(self) -> int:
        return len(self.org)

    def figures(self) -> F64:
        """float64[n, len(FIGURES)], each in [0, 1] or NaN."""
        c = self.counts
        found = c[:, ARRIVED] + c[:, REJECTED]
        pairs = (
            (c[:, RECEIVED], self.expected),
            (c[:, ON_TIME], c[:, ARRIVED]),
            (c[:, ARRIVED], found),
            (found - np.minimum(c[:, INCONSISTENT], found), found),
            (c[:, ACCURATE], c[:, JUDGED]),
        )
        result = np.full((len(self), len(FIGURES)), np.nan)
        for column, (part, whole) in enumerate(pairs):
            np.divide(part, whole, out=result[:, column], where=whole > 0)
        capped: F64 = np.minimum(result, 1.0)
        return capped

    def below(self, settings: QualitySettings) -> npt.NDArray[np.bool_]:
        """bool[n, len(FIGURES)]: the figure rests on enough readings and misses its target."""
        c = self.counts
        found = c[:, ARRIVED] + c[:, REJECTED]
        enough = np.column_stack((self.expected, c[:, ARRIVED], found, found, c[:, JUDGED]))
        with np.errstate(invalid="ignore"):
            missed = self.figures() < np.array(targets(settings))
        result: npt.NDArray[np.bool_] = missed & (enough >= settings.min_readings)
        return result


def targets(settings: QualitySettings) -> tuple[float, ...]:
    """The targets, in the order of FIGURES."""
    return tuple(getattr(settings, figure) for figure in FIGURES)


def skews(counts: npt.NDArray[np.int64]) -> F64:
    """Seconds that each clock is ahead; NaN where nothing arrived."""
    lag = counts[:, LEAST_LAG]
    return np.where(lag == NO_LAG, np.nan, 0.0 - lag / 1000.0)


def widened(devices: Scopes) -> tuple[Scopes, Scopes]:
    """(sites, fleet) of these devices; a site's skew is that of its device that is furthest off."""
    places = list(zip(devices.org, devices.site, strict=True))
    keys = sorted(set(places))
    index = {place: number for number, place in enumerate(keys)}
    group = np.fromiter(map(index.__getitem__, places), np.int64, len(places))
    sites = _summed(devices, group, keys)
    everything = np.zeros(len(devices), np.int64)
    return sites, _summed(devices, everything, [("", "")] if len(devices) else [])


def _summed(devices: Scopes, group: npt.NDArray[np.int64], keys: list[tuple[str, str]]) -> Scopes:
    n = len(keys)
    counts = np.zeros((n, devices.counts.shape[1]), np.int64)
    for field in range(counts.shape[1]):
        np.add.at(counts[:, field], group, devices.counts[:, field])
    skew = np.full(n, np.nan)
    known = np.flatnonzero(~np.isnan(devices.skew))
    order = known[np.argsort(np.abs(devices.skew[known]), kind="stable")]
    skew[group[order]] = devices.skew[order]  # of several the last one stays: the furthest off
    return Scopes(
        [org for org, _ in keys],
        [site for _, site in keys],
        [""] * n,
        np.bincount(group, devices.expected, n).astype(np.float64),
        counts,
        skew,
        devices.from_ns,
        devices.to_ns,
    )
