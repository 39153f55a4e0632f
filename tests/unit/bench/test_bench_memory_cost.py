"""What a device and a series cost every feature, in bytes. A column more per series is found here."""

import pytest

from greenlang_iot.bench.memory_cost import FEATURES, Held, measure

MOST = {
    "registry, mapped": Held(36, 75),
    "topics": Held(90, 1),
    "decode": Held(10, 5),
    "detect": Held(1, 609),
    "alerts": Held(1, 2),
    "quality": Held(273, 1),
    "line protocol": Held(82, 9),
    "Kafka records": Held(98, 9),
    "lake": Held(6, 1),
    "watches and looks": Held(11, 1),
}


@pytest.fixture(scope="module")
def held() -> dict[str, Held]:
    return measure(20_000)


@pytest.mark.parametrize("feature", MOST)
def test_no_feature_holds_more(held: dict[str, Held], feature: str) -> None:
    assert held[feature].per_device <= MOST[feature].per_device
    assert held[feature].per_series <= MOST[feature].per_series


def test_every_feature_has_a_bound(held: dict[str, Held]) -> None:
    assert held.keys() == MOST.keys() == {"registry, mapped", *FEATURES}
