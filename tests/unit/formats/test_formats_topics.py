"""Topics and settings of formats: templates, filters, what is refused, several formats at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.format_decoder import LIMITS, NOW_MS, TEMPLATE, FormatDecoder
from tests.fakes.payload_formats import cbor, metric, sparkplug

from greenlang_iot.formats.topics import Place, TopicTemplate
from greenlang_iot.model.errors import InputError
from greenlang_iot.runtime.layout import owned, plan
from greenlang_iot.settings.load import load
from greenlang_iot.settings.model import BrokerSettings, FormatSettings, MqttSettings

SPARKPLUG = "spBv1.0/{site}/{type}/{node}/{device}"


def matches(pattern: str, topic: str) -> bool:
    """As a broker does it."""
    levels, names = pattern.split("/"), topic.split("/")
    if levels[-1] == "#":
        return len(names) >= len(levels) - 1 and all(
            a in ("+", b) for a, b in zip(levels[:-1], names, strict=False)
        )
    return len(levels) == len(names) and all(
        a in ("+", b) for a, b in zip(levels, names, strict=True)
    )


@pytest.mark.parametrize(
    ("template", "topic", "place"),
    [
        (TEMPLATE, "greenlang/o/s/d/telemetry", Place("o", "s", "d")),
        (TEMPLATE, "greenlang/o/s/d/status", None),
        ("{device}/{metric}", "d/t", Place("", "", "d", "t")),
        ("{device}/{metric}", "d//", None),
        ("a.c/{device}", "abc/d", None),
        (SPARKPLUG, "spBv1.0/s/DDATA/n/d", Place("", "s", "d")),
        (SPARKPLUG, "spBv1.0/s/NDATA/n", Place("", "s", "n")),
        (SPARKPLUG, "spBv1.0/s/NDATA", None),
    ],
)
def test_the_names_in_a_topic(template: str, topic: str, place: Place | None) -> None:
    assert TopicTemplate(template).parse(topic.encode()) == place
    if place is not None:
        pattern = TopicTemplate(template).filter(place.org or "+", place.site or "+")
        assert matches(pattern, topic)


LEVELS = st.sampled_from(["a", "b", "{org}", "{site}", "{metric}"])


@given(
    st.lists(LEVELS, unique=True, max_size=4), st.lists(LEVELS, unique=True, max_size=4), st.data()
)
def test_overlap_is_whether_a_topic_follows_both(
    one: list[str], two: list[str], data: st.DataObject
) -> None:
    first, second = (TopicTemplate("/".join([*levels, "{device}"])) for levels in (one, two))
    names = st.sampled_from(["a", "b", "c"])
    topic = "/".join(data.draw(st.lists(names, min_size=1, max_size=5))).encode()
    if first.parse(topic) and second.parse(topic):
        assert first.overlaps(second)
    if not first.overlaps(second):
        assert not (first.parse(topic) and second.parse(topic))


# ---- settings --------------------------------------------------------------------------------------


def mistakes(tmp_path: Path, formats: Any, **mqtt: Any) -> list[str]:
    path = tmp_path / "iot-config.yaml"
    path.write_text(yaml.safe_dump({"mqtt": {"formats": formats, **mqtt}}))
    try:
        load(path)
    except InputError as error:
        return [problem.split(": ", 1)[1] for problem in error.problems]
    return []


GOOD = {"topic": "c/{org}/{site}/{device}", "format": "cbor"}


def test_good_entries(tmp_path: Path) -> None:
    entries = [
        GOOD,
        {"topic": TEMPLATE, "format": "json"},  # in the place of the default
        {"topic": "p/{device}/{metric}", "format": "plain", "missing_ts": "receive_time"},
        {"topic": SPARKPLUG, "format": "sparkplug-b", "device_id": "{node}-{device}"},
        {"topic": "s/{device}", "format": "senml-json", "metrics": {"t": "temperature", "x": None}},
    ]
    assert mistakes(tmp_path, entries) == []


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"format": "cbr"}, "mqtt.formats[0].format: 'cbr' is not the name of a format; there are json"),
        ({"topic": "c/{org}"}, "mqtt.formats[0].topic: must hold {device} once"),
        ({"topic": "c/{device}/#"}, "mqtt.formats[0].topic: level '#': no wildcards"),
        ({"topic": "c/{device}/{node}"}, "mqtt.formats[0].topic: level '{node}'"),
        ({"topic": "greenlang/{org}/{site}/{device}/{metric}"}, "mqtt.formats[0].topic: a topic may follow this and mqtt.topic"),
        ({"device_id": "{node}-{device}"}, "mqtt.formats[0].device_id: needs {device}"),
        ({"device_id": "x"}, "mqtt.formats[0].device_id: needs {device}"),
        ({"device_id": "{device"}, "mqtt.formats[0].device_id: needs {device}"),
        ({"options": {"depth": 3}}, "mqtt.formats[0].options: the options do not fit"),
        ({"format": "line-protocol", "options": {"precision": "m"}}, "mqtt.formats[0].options: option precision"),
        ({"format": "plain"}, "mqtt.formats[0].topic: must hold {metric} once"),
        ({"format": "plain", "topic": "{device}/{metric}"}, "mqtt.formats[0].missing_ts: a plain number has no time stamp"),
        ({"format": "sparkplug-b"}, "mqtt.formats[0].topic: must hold {type} once"),
        ({"format": "sparkplug-b", "topic": "spBv1.0/{type}/{site}/{node}/{device}"}, "mqtt.formats[0].topic: Sparkplug's namespace"),
        ({"missing_ts": "now"}, "mqtt.formats[0].missing_ts: 'now' does not fit"),
        ({"metrics": {"a": 3}}, "mqtt.formats[0].metrics"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_sentence_with_its_place(
    tmp_path: Path, entry: dict[str, Any], sentence: str
) -> None:
    [problem] = mistakes(tmp_path, [{**GOOD, **entry}])
    assert problem.startswith(sentence)


def test_two_entries_may_not_share_topics(tmp_path: Path) -> None:
    [problem] = mistakes(tmp_path, [GOOD, {"topic": "c/{site}/x/{device}", "format": "json"}])
    assert "may follow this and mqtt.formats[0].topic" in problem


def test_sparkplug_wants_its_messages_on_one_shard(tmp_path: Path) -> None:
    entry = {"topic": SPARKPLUG, "format": "sparkplug-b"}
    [problem] = mistakes(tmp_path, [entry], layout="shared")
    assert problem.startswith("mqtt.layout: a share splits")


# ---- subscriptions ---------------------------------------------------------------------------------


def mqtt(*templates: str, connections: int = 2, **fields: Any) -> MqttSettings:
    entries = [
        FormatSettings(topic=t, format="sparkplug-b" if "{type}" in t else "cbor")
        for t in templates
    ]
    brokers = [BrokerSettings(connections_per_shard=connections)]
    return MqttSettings(formats=entries, brokers=brokers, **fields)


TOPICS = {
    "c/{org}/{site}/{device}": "c/{org}/{site}/{device}",
    "n/{site}/{device}/{metric}": "n/{site}/{device}/x",
    "o/{device}": "o/{device}",
    SPARKPLUG: "spBv1.0/{site}/DDATA/edge/{device}",
}


@given(
    devices=st.integers(1, 30),
    sites=st.integers(1, 5),
    shards=st.integers(1, 4),
    connections=st.integers(1, 3),
    used=st.sets(st.sampled_from(sorted(TOPICS))),
)
def test_every_format_of_every_device_has_exactly_one_subscription_on_the_same_shard(
    devices: int, sites: int, shards: int, connections: int, used: set[str]
) -> None:
    registry = directory(devices, sites=sites)
    settings = mqtt(*sorted(used), connections=connections)
    plans = plan(registry, settings, shards, "gw")
    for device in range(devices):
        names = {"org": "acme", "site": f"site-{device % sites}", "device": f"d{device:03d}"}
        homes = set()
        for template in [TEMPLATE, *(TOPICS[t] for t in used)]:
            topic = template.format(**names)
            [home] = [
                (p.index, n)
                for p in plans
                for n, c in enumerate(p.connections)
                for f in c.filters
                if matches(f, topic)
            ]
            homes.add(home)
        assert len(homes) == 1
        [owner] = [p.index for p in plans if owned(p, registry, settings, shards)[device]]
        assert owner == next(iter(homes))[0]


def test_sites_that_share_a_filter_are_split_by_devices_but_not_with_sparkplug() -> None:
    registry = directory(6, sites=3, interval_s=0.001)
    plans = plan(registry, mqtt("o/{device}", connections=1), 2, "gw")
    assert [len(c.filters) for p in plans for c in p.connections] == [6, 6]
    assert "o/d000" in plans[0].connections[0].filters
    plans = plan(registry, mqtt("o/{device}", SPARKPLUG, connections=1), 2, "gw")
    [[connection], []] = [p.connections for p in plans]
    assert connection.filters == (
        *(f"greenlang/acme/site-{i}/+/telemetry" for i in range(3)),
        "o/+",
        *(f"spBv1.0/site-{i}/+/+/#" for i in range(3)),
    )


def test_a_share_has_every_template() -> None:
    plans = plan(directory(2), mqtt("o/{device}", layout="shared"), 1, "gw")
    assert plans[0].connections[0].filters == (
        "$share/greenlang-iot/greenlang/+/+/+/telemetry",
        "$share/greenlang-iot/o/+",
    )


# ---- several at once -------------------------------------------------------------------------------


def test_several_formats_in_one_batch_keep_the_order_of_the_messages() -> None:
    from tests.fakes.decode_frames import frame_batch

    from greenlang_iot.decode.decoder import Decoder
    from greenlang_iot.settings.formats import routes
    from greenlang_iot.settings.model import LimitSettings

    settings = MqttSettings(
        formats=[
            FormatSettings(topic="c/{device}", format="cbor"),
            FormatSettings(topic="p/{device}/{metric}", format="plain", missing_ts="receive_time"),
            FormatSettings(topic=SPARKPLUG, format="sparkplug-b"),
        ]
    )
    decoder = Decoder(directory(4), LimitSettings(), settings.topic, routes(settings))
    json_topic = "greenlang/acme/site-0/d000/telemetry"
    flat = b'{"ts":%d,"metric":"temperature","value":%d}'
    messages = [
        (json_topic, flat % (NOW_MS, 1)),
        ("c/d001", cbor({"ts": NOW_MS, "metric": "temperature", "value": 2})),
        (json_topic, b"[" + flat % (NOW_MS, 3) + b"]"),
        ("p/d003/temperature", b"4"),
        ("c/d001", b"junk"),
        ("spBv1.0/site-0/NDATA/d002", sparkplug(metric("temperature", 5.0), ts=NOW_MS)),
        (json_topic, flat % (NOW_MS + 1, 6)),
        (json_topic, b"{"),
        ("nowhere", b"7"),
    ]
    frames = frame_batch([(t.encode(), p, False) for t, p in messages])
    decoded = decoder.decode(frames, NOW_MS * 1_000_000)
    assert decoded.readings.value.tolist() == [1, 2, 3, 4, 5, 6]
    assert decoded.readings.frame.tolist() == [0, 1, 2, 3, 5, 6]
    assert [(r.payload, r.paths) for r in decoded.rejects] == [
        (b"junk", [("", "malformed")]),
        (b"{", [("", "malformed")]),
        (b"7", [("", "bad_topic")]),
    ]
    assert decoded.fast == 3


def test_a_format_in_the_place_of_json() -> None:
    made = FormatDecoder("cbor", TEMPLATE)
    topic = "greenlang/acme/site-0/d000/telemetry"
    payload = cbor({"ts": NOW_MS, "metric": "temperature", "value": 2})
    read = made.read(payload, b'{"ts":1,"metric":"temperature","value":2}', topic=topic)
    assert [row.value for row in read.rows] == [2]
    assert read.rejects == [[("", "malformed")]]


def test_rates_hold_for_every_format_and_are_shared_by_a_device_s_topics() -> None:
    made = FormatDecoder("cbor", limits=LIMITS.model_copy(update={"device_rate": 2.0}))
    payload = cbor({"ts": NOW_MS, "metric": "temperature", "value": 2})
    flat = b'{"ts":%d,"metric":"humidity","value":2}' % NOW_MS
    mine, wrong = "x/acme/site-0/d000", "x/acme/site-1/d000"
    json_topic = "greenlang/acme/site-0/d000/telemetry"
    read = made.read_all(
        [(wrong, payload), (mine, payload), (json_topic, flat), (mine, payload), (json_topic, flat)]
    )
    assert [row.metric for row in read.rows] == ["temperature", "humidity"]
    assert read.rejects == [[("", "wrong_place")], [("", "over_rate")], [("", "over_rate")]]
