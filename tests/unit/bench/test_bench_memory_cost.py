"""What a device and a series cost every feature, in bytes. A column more per series is found here."""

import pytest

from greenlang_iot.bench.memory_cost import FEATURES, Held, measure
from greenlang_iot.detect import state
from greenlang_iot.detect.kernels_siblings import SIBLING

MOST = {
    "registry, mapped": Held(36, 75),
    "topics": Held(90, 1),
    "decode": Held(10, 5),
    "detect": Held(1, 613),
    "alerts": Held(1, 2),
    "quality": Held(82, 1),
    "line protocol": Held(82, 9),
    "Kafka records": Held(98, 9),
    "lake": Held(6, 1),
    "watches and looks": Held(11, 1),
}


@pytest.fixture
def _kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "UNTOUCHED", state.UNTOUCHED)  # `measure` changes it


@pytest.mark.usefixtures("_kept")
def test_no_feature_holds_more() -> None:
    held = measure(3_000)
    assert held["detect"].per_series >= state.ROW.itemsize + SIBLING.itemsize  # they are counted
    assert held.keys() == MOST.keys() == {"registry, mapped", *FEATURES}
    more = {
        name: (got, MOST[name])
        for name, got in held.items()
        if got.per_device > MOST[name].per_device or got.per_series > MOST[name].per_series
    }
    assert more == {}
