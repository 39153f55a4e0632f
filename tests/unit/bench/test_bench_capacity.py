"""What the ladder of latencies does on a machine that stands still."""

import pytest

from greenlang_iot.bench.latency import TRIES, _capacity
from greenlang_iot.model.errors import GatewayError


def test_a_capacity_of_nothing_is_measured_again_for_longer() -> None:
    asked: list[float] = []

    def measured(seconds: float) -> float:
        asked.append(seconds)
        return 100.0 if seconds > 1 else 0.0

    assert _capacity(measured, 0.5) == 100.0
    assert asked == [0.5, 1.0, 2.0]


def test_a_machine_that_never_goes_on_is_said_so() -> None:
    with pytest.raises(GatewayError, match=r"within 4 s"):
        _capacity(lambda seconds: 0.0, 4 / 2 ** (TRIES - 1))
