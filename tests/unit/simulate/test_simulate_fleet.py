"""The fleet: the same for the same seed, and exactly what a decoder makes of it is promised."""

import time
from collections import Counter
from itertools import pairwise

import orjson
import pytest
from tests.fakes.frames import frames

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.devices.registry import parse
from greenlang_iot.model.flags import HAS_SEQ
from greenlang_iot.model.outcomes import DeadLetter
from greenlang_iot.model.reasons import Reason
from greenlang_iot.settings.model import LimitSettings
from greenlang_iot.simulate import replay
from greenlang_iot.simulate.faults import FaultMix
from greenlang_iot.simulate.fleet import Fleet, FleetOptions
from greenlang_iot.simulate.manifest import Manifest, Message, Reading
from greenlang_iot.simulate.payloads import BAD_PAYLOADS
from greenlang_iot.simulate.reconcile import reconcile
from greenlang_iot.simulate.scenario import registry, scenario

START = 1_700_000_000_123_456_789
SECOND = 1_000_000_000
SMALL = FleetOptions(devices=40, seed=3, seconds=16.0)


def test_the_same_seed_and_start_give_the_same_bytes() -> None:
    one, two = (list(Fleet(SMALL, START).messages()) for _ in range(2))
    assert one == two
    other = list(Fleet(FleetOptions(devices=40, seed=4, seconds=16.0), START).messages())
    assert [m.payload for m in one] != [m.payload for m in other]


def test_messages_come_in_the_order_of_their_time() -> None:
    messages = list(Fleet(SMALL, START).messages())
    assert all(a.when <= b.when for a, b in pairwise(messages))
    assert messages[0].when == 0.0
    assert messages[-1].when <= SMALL.seconds + 0.3


def test_time_stamps_are_neither_in_the_future_nor_too_old() -> None:
    """At the moment of sending, against the gateway's default limits."""
    for message in Fleet(SMALL, START).messages():
        now = START + message.when * SECOND
        for reading in message.readings:
            assert now - 3600 * SECOND < reading.ts_ns <= now + 1_000_000


def test_what_the_decoder_makes_of_it_is_what_the_manifest_promises() -> None:
    options = FleetOptions(devices=30, seed=5, seconds=12.0, faults=FaultMix.usual(600))
    run = scenario(options, START, waterflow=True)
    directory = parse(orjson.dumps(registry(options, waterflow=True)))
    decoder = Decoder(directory, LimitSettings(), options.topic)
    manifest = Manifest(run.header, run.expected)
    rows: list[Reading] = []
    letters: list[DeadLetter] = []
    messages = list(run.messages)
    for at in range(0, len(messages), 500):
        batch = messages[at : at + 500]
        for message in batch:
            manifest.add(message, confirmed=True)
        now_ns = START + int(batch[-1].when * SECOND)
        decoded = decoder.decode(frames([(m.topic, m.payload) for m in batch]), now_ns)
        r = decoded.readings
        for i in range(r.n):
            series = int(r.series[i])
            rows.append(
                Reading(
                    directory.device[int(directory.series_device[series])],
                    directory.metric[int(directory.series_metric[series])],
                    int(r.ts_ns[i]),
                    float(r.value[i]),
                    int(r.seq[i]) if r.flags[i] & HAS_SEQ else None,
                )
            )
        letters += [
            DeadLetter("message", now_ns, "", x.topic.decode(), x.payload, tuple(x.paths))
            for x in decoded.rejects
        ]
        promised = Counter((m.topic, m.payload, m.rejects) for m in batch if m.rejects)
        assert Counter((x.topic.decode(), x.payload, tuple(x.paths)) for x in decoded.rejects) == (
            promised
        )
    result = reconcile(manifest, rows, letters, None)
    assert result.ok, result.examples
    assert result.repeated == sum(len(m.readings) for m in messages if m.kind == "duplicate")
    kinds = {m.kind for m in messages}
    assert kinds >= set(BAD_PAYLOADS) | {"duplicate", "late"}


def test_every_reason_that_a_device_can_cause_is_injected() -> None:
    options = FleetOptions(devices=40, seed=1, seconds=16.0, faults=FaultMix(bad=1))
    reasons = {r for m in Fleet(options, START).messages() for _, r in m.rejects}
    # what one JSON number cannot be, what takes a large message, what the registry and the limits decide,
    # what is not of JSON
    not_injected = {
        Reason.NON_FINITE,
        Reason.TOO_LARGE,
        Reason.TOO_MANY_READINGS,
        Reason.BAD_TOPIC,
        Reason.DEVICE_DISABLED,
        Reason.OVER_RATE,
        Reason.UNKNOWN_ALIAS,
        Reason.BAD_QUALITY,
        Reason.SINK_REFUSED,
    }
    assert reasons == set(Reason) - not_injected


def test_anomalies_are_where_they_are_announced() -> None:
    mix = FaultMix(spikes=2, drifts=2, stuck=2, silent=2)
    fleet = Fleet(FleetOptions(devices=30, seed=2, seconds=30.0, faults=mix), START)
    by_series: dict[tuple[str, str], list[Reading]] = {}
    for message in fleet.messages():
        for reading in message.readings:
            by_series.setdefault((reading.device, reading.metric), []).append(reading)
    assert Counter(e.kind for e in fleet.expected) == {
        "spike": 2,
        "drift": 2,
        "stuck": 2,
        "silence": 2,
    }
    for device, metric, kind, from_ns, to_ns in fleet.expected:
        if kind == "silence":
            last = max(r.ts_ns for (d, _), rs in by_series.items() if d == device for r in rs)
            assert last == from_ns
            continue
        before = [r.value for r in by_series[device, metric] if r.ts_ns < from_ns]
        inside = [r.value for r in by_series[device, metric] if from_ns <= r.ts_ns <= to_ns]
        width = max(before[-40:]) - min(before[-40:])
        middle = (max(before[-40:]) + min(before[-40:])) / 2
        if kind == "spike":
            assert abs(inside[0] - middle) > width
        elif kind == "drift":
            assert abs(inside[-1] - middle) > 2 * width
        else:
            assert len(inside) >= 30
            assert len(set(inside)) == 1


def test_a_device_leaves_its_range_once() -> None:
    """A second time no alert opens before `alerts.cooldown` is over."""
    for seed in range(5):
        options = FleetOptions(devices=6, seed=seed, seconds=16.0, faults=FaultMix(bad=5))
        found = [e.device for e in Fleet(options, START).expected if e.kind == "range"]
        assert 1 <= len(found) == len(set(found))


def test_without_faults_everything_is_ordinary() -> None:
    fleet = Fleet(FleetOptions(devices=20, seed=2, seconds=8.0, faults=FaultMix()), START)
    assert fleet.expected == []
    assert {(m.kind, m.rejects) for m in fleet.messages()} == {("", ())}


def test_collisions_are_two_values_of_one_identity() -> None:
    fleet = Fleet(FleetOptions(devices=20, seconds=8.0, faults=FaultMix(collisions=4)), START)
    values: dict[tuple[object, ...], set[float]] = {}
    for message in fleet.messages():
        for d, m, ts, value, seq in message.readings:
            values.setdefault((d, m, ts, seq), set()).add(value)
    assert sum(len(v) > 1 for v in values.values()) >= 3


def test_devices_are_known_to_the_registry_that_belongs_to_the_fleet() -> None:
    fleet = Fleet(SMALL, START)
    d = fleet.directory
    known = {d.device[i] for i in range(d.n_devices)}
    assert {r.device for m in fleet.messages() for r in m.readings} == known
    assert set((d.interval_ns / SECOND).tolist()) == {SMALL.expected_interval}


def test_the_water_flow_series_is_retimed_to_end_at_the_start() -> None:
    values = replay.waterflow()
    assert len(values) == 1268
    assert values[:2] == [100.59, 100.89]
    document = registry(SMALL, waterflow=True)
    messages: list[Message] = list(replay.messages(document, SMALL.topic, START, 2.0, 10.0))
    readings = [r for m in messages for r in m.readings]
    assert [r.value for r in readings] == values
    assert {b.ts_ns - a.ts_ns for a, b in pairwise(readings)} == {60 * SECOND}
    assert START - 61 * SECOND < readings[-1].ts_ns <= START
    assert (messages[0].when, len({m.topic for m in messages})) == (2.0, 1)
    assert 9.9 < messages[-1].when < 10.0


def test_messages_are_made_fast_enough_for_a_load_test() -> None:
    """5,000 a second and more from one process: at most 200 µs of CPU each, with room."""
    fleet = Fleet(FleetOptions(devices=500, seconds=6.0), START)
    start = time.process_time()
    count = sum(1 for _ in fleet.messages())
    assert (time.process_time() - start) / count < 200e-6


@pytest.mark.parametrize("devices", [2, 3, 8])
def test_the_smallest_fleets(devices: int) -> None:
    fleet = Fleet(FleetOptions(devices=devices, seconds=12.0), START)
    assert len({r.device for m in fleet.messages() for r in m.readings}) == devices
