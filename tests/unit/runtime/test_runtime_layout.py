import dataclasses

from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory

from greenlang_iot.runtime.layout import SPLIT_DEVICES, owned, plan
from greenlang_iot.settings.model import BrokerSettings, MqttSettings

MANY = 0.001
"""Seconds between the readings of a series, so that a few devices are more than a site of SPLIT_FROM."""


def settings(connections: int = 2, **fields: object) -> MqttSettings:
    return MqttSettings(brokers=[BrokerSettings(connections_per_shard=connections)], **fields)  # type: ignore[arg-type]


def matches(pattern: str, topic: str) -> bool:
    levels, names = pattern.split("/"), topic.split("/")
    return len(levels) == len(names) and all(
        a in ("+", b) for a, b in zip(levels, names, strict=True)
    )


@given(
    devices=st.integers(1, 40),
    sites=st.integers(1, 7),
    shards=st.integers(1, 5),
    connections=st.integers(1, 3),
    interval=st.sampled_from([60.0, MANY]),
)
def test_every_device_has_exactly_one_subscription(
    devices: int, sites: int, shards: int, connections: int, interval: float
) -> None:
    registry = directory(devices, sites=sites, interval_s=interval)
    plans = plan(registry, settings(connections), shards, "gw")
    assert [p.index for p in plans] == list(range(shards))
    filters = [f for p in plans for c in p.connections for f in c.filters]
    for device in range(devices):
        topic = f"greenlang/acme/site-{device % sites}/{registry.device[device]}/telemetry"
        assert sum(matches(f, topic) for f in filters) == 1
        listening = [p for p in plans if owned(p, registry, settings(), shards)[device]]
        assert len(listening) == 1
        assert any(matches(f, topic) for c in listening[0].connections for f in c.filters)
    ids = [c.client_id for p in plans for c in p.connections]
    assert len(set(ids)) == len(ids)


def test_a_split_site_keeps_devices_with_their_reference() -> None:
    registry = directory(9, sites=1, interval_s=MANY)
    for device, of in ((1, 0), (2, 0), (5, 4)):  # 2 series each
        registry.reference[2 * device] = 2 * of
    plans = plan(registry, settings(), 3, "gw")
    shard_of = [
        next(p.index for p in plans if owned(p, registry, settings(), 3)[device])
        for device in range(9)
    ]
    assert len(set(shard_of)) == 3
    assert shard_of[0] == shard_of[1] == shard_of[2]
    assert shard_of[4] == shard_of[5]


def test_the_same_layout_gives_the_same_ids_and_a_changed_one_does_not() -> None:
    first = plan(directory(20, sites=4), settings(), 2, "gw")
    again = plan(directory(20, sites=4), settings(), 2, "gw")
    assert first == again
    ids = {c.client_id for p in first for c in p.connections}
    changed = plan(directory(20, sites=4), settings(), 3, "gw")
    kept = {c.client_id: c.filters for p in changed for c in p.connections}
    for p in first:
        for c in p.connections:
            assert kept.get(c.client_id, c.filters) == c.filters
    assert ids != set(kept)


def test_sites_are_dealt_out_by_weight() -> None:
    registry = directory(8, sites=4)
    registry = dataclasses.replace(registry, site_of=registry.site_of.copy())
    plans = plan(registry, settings(1), 2, "gw")
    assert [sum(len(c.filters) for c in p.connections) for p in plans] == [2, 2]


def test_a_site_too_big_for_a_shard_is_split_by_devices() -> None:
    plans = plan(directory(6, sites=1, interval_s=MANY), settings(1), 2, "gw")
    assert [[len(c.filters) for c in p.connections] for p in plans] == [[3], [3]]
    assert plans[0].connections[0].filters[0] == "greenlang/acme/site-0/d000/telemetry"
    seldom = plan(directory(SPLIT_DEVICES, sites=1), settings(1), 2, "gw")
    assert [[len(c.filters) for c in p.connections] for p in seldom] == [[50], [50]]


def test_a_site_that_one_shard_carries_with_ease_is_whole_and_hears_devices_that_are_new_to_it() -> (
    None
):
    first, second = plan(directory(6, sites=1, interval_s=1.0), settings(1), 2, "gw")
    assert [c.filters for c in first.connections] == [("greenlang/acme/site-0/+/telemetry",)]
    assert second.connections == ()


def test_shared_layout_is_one_share_filter_everywhere() -> None:
    plans = plan(directory(6), settings(2, layout="shared"), 2, "gw")
    filters = {f for p in plans for c in p.connections for f in c.filters}
    assert filters == {"$share/greenlang-iot/greenlang/+/+/+/telemetry"}
    assert len({c.client_id for p in plans for c in p.connections}) == 4
    # nobody hears all of a device, so nobody may call it silent
    assert not any(owned(p, directory(6), settings(), 2).any() for p in plans)
    assert owned(plans[0], directory(6), settings(), 1).all()
