"""What the registry asks of a series: kept once by kind, and the same as if every series had its own."""

import dataclasses

import numpy as np
from tests.fakes.directory import directory

from greenlang_iot.detect.limits import GAP_INTERVALS, PROFILE_RULES, RESOLUTION, limits
from greenlang_iot.model.directory import PROFILES, Directory

THRESHOLD = 4.0


def mixed(seed: int = 1) -> Directory:
    """Devices with one to four metrics, which differ in all that limits are made of."""
    rng = np.random.default_rng(seed)
    d = directory(30, ("a", "b", "c", "d"), units=("Cel",) * 4)
    start = np.concatenate(([0], np.cumsum(rng.integers(1, 5, d.n_devices))))
    n = int(start[-1])
    of = np.repeat(np.arange(d.n_devices), np.diff(start))
    width = rng.choice([5.0, np.inf], n)
    return dataclasses.replace(
        d,
        series_start=start.astype(np.int64),
        series_device=of.astype(np.int32),
        series_metric=(np.arange(n) - start[of]).astype(np.int32),
        series_unit=np.zeros(n, np.int32),
        low=-width,
        high=width,
        warn_low=rng.choice([-np.inf, -1.0], n),
        warn_high=rng.choice([np.inf, 1.0], n),
        step=rng.choice([np.inf, 0.5], n),
        interval_ns=rng.choice([0, 60_000_000_000], n).astype(np.int64),
        profile=rng.integers(0, len(PROFILES), n).astype(np.uint8),
        series_enabled=np.ones(n, np.uint8),
        reference=np.full(n, -1, np.int32),
        tolerance=np.zeros(n),
    )


def test_every_series_has_what_the_registry_asks_of_it() -> None:
    d = mixed()
    for siblings in (False, True):
        found = limits(d, THRESHOLD, siblings)
        for series, row in enumerate(found.of(np.arange(d.n_series))):
            factor, detectors = PROFILE_RULES[PROFILES[d.profile[series]]]
            width = d.high[series] - d.low[series]
            counter = PROFILES[d.profile[series]] == "counter"
            device = d.series_device[series]
            first, end = d.series_start[device], d.series_start[device + 1]
            assert row["warn_low"] == d.warn_low[series]
            assert row["warn_high"] == d.warn_high[series]
            assert row["step"] == d.step[series]
            assert row["gap_ns"] == GAP_INTERVALS * d.interval_ns[series]
            assert row["threshold"] == np.float32(THRESHOLD * factor)
            assert row["detectors"] == detectors
            assert row["floor"] == (0.0 if counter or np.isinf(width) else RESOLUTION * width)
            assert row["metrics"] == (end - first if siblings else 1)
            assert row["place"] == (series - first if siblings else 0)


def test_series_that_are_alike_share_a_row() -> None:
    alike = directory(1_000, ("a", "b"))
    assert len(limits(alike, THRESHOLD).rows) == 1
    assert len(limits(alike, THRESHOLD, siblings=True).rows) == 2  # a device's first and second
    assert limits(alike, THRESHOLD).kind.dtype == np.int32
    own = dataclasses.replace(alike, warn_high=np.arange(2_000.0))
    assert len(limits(own, THRESHOLD).rows) == 2_000
    assert len(limits(directory(0), THRESHOLD, siblings=True).kind) == 0
