"""Stalls of the machine: what the witness makes of its looks, and what is left out because of them."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from greenlang_iot.bench.loader import Load, Loader
from greenlang_iot.bench.stalls import ON_ITS_WAY, SETTLES, felt, stalls, watch, without


def looks(slow: set[int], n: int = 20) -> tuple[list[float], list[int]]:
    """One every 2 ms, of 10 µs each, those of `slow` of 100."""
    return [0.002 * i for i in range(n)], [100_000 if i in slow else 10_000 for i in range(n)]


@pytest.mark.parametrize(
    ("slow", "found"),
    [
        (set(), []),
        ({5}, []),  # an interrupt
        ({5, 6}, [(0.008, 0.014)]),
        ({0, 1, 2}, [(0.0, 0.006)]),
        ({4, 5, 18, 19}, [(0.006, 0.012), (0.034, 0.038)]),
    ],
)
def test_two_slow_looks_in_a_row_are_a_stall(
    slow: set[int], found: list[tuple[float, float]]
) -> None:
    assert stalls(*looks(slow)) == [pytest.approx(one) for one in found]


def test_a_machine_that_is_always_slow_does_not_stall() -> None:
    assert stalls([0.002 * i for i in range(9)], [90_000] * 9) == []


def test_a_stall_is_felt_until_its_backlog_is_worked_off() -> None:
    (at_80,) = felt([(1.0, 1.02)], 0.8)
    assert at_80 == pytest.approx((1.0 - ON_ITS_WAY, 1.02 + 4 * 0.02 + SETTLES))
    (overloaded,) = felt([(1.0, 1.02)], 1.2)
    assert overloaded[1] == pytest.approx(1.02 + 99 * 0.02 + SETTLES)


def test_what_was_due_in_an_interval_is_left_out() -> None:
    moments = np.array([0.9, 1.0, 1.5, 2.0, 2.1, 3.5])
    left = without([(1.0, 2.0), (3.0, 4.0)], moments)
    assert left.tolist() == [True, False, False, False, True, False]


def test_the_loader_tells_latencies_with_and_without(tmp_path: Path) -> None:
    loader = Loader(Load(str(tmp_path), 1, 0, record=128))
    loader.latencies = [(1.0, 0.004), (1.1, 0.006), (2.0, 0.500)]
    loader.beside = [(1.9, 2.1)]
    counts = loader.stats()
    assert counts["latency_ms"]["max"] == pytest.approx(500.0)
    assert counts["latency_beside_ms"]["max"] == pytest.approx(6.0)
    loader.beside = [(0.0, 3.0)]
    assert loader.stats()["latency_beside_ms"] == {}


def test_looks_leave_the_process_where_it_was() -> None:
    before = os.sched_getaffinity(0)
    begun = time.monotonic()
    watch(0.05, {min(before)})
    assert time.monotonic() - begun >= 0.05
    assert os.sched_getaffinity(0) == before
