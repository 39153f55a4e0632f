"""The verdict on alerts can say no: each way in which one is lost or left open is a sentence."""

from typing import Any

from tests.faults.alerts import ALARM, ALARMS, Arrived, alarms, judge_alerts, refused_in

from greenlang_iot.simulate.manifest import Message

DEVICE = ALARMS[0]
TOPIC = f"greenlang/o/s/{DEVICE}/telemetry"


def step(number: int, state: str, alert: str = "a", **more: Any) -> dict[str, Any]:
    first = {
        "alert_id": alert,
        "number": number,
        "state": state,
        "rule": "range",
        "device": DEVICE,
        "metric": "m",
    }
    return first | {"opened": 10, "at": 10 + number, "detector": "range"} | more


OVER = [step(1, "open"), step(2, "resolved")]
EVERYWHERE = {("a", "open"), ("a", "resolved")}


def problems(
    durable: list[dict[str, Any]], kafka: list[dict[str, Any]], *bad_at: int, **arrived: Any
) -> list[str]:
    state = arrived.pop("state", {"a": None})
    keys = [(TOPIC, b'{"ts":%d}' % ts) for ts in bad_at]
    sent = {key: Message(0.0, *key, [], kind=ALARM) for key in keys}
    order = arrived.pop("order", bad_at)  # in which they were forwarded
    forwarded = {key: float(order.index(ts)) for key, ts in zip(keys, bad_at, strict=True)}
    return judge_alerts(durable, sent, keys, Arrived(kafka, state, **arrived), forwarded)


def test_an_alert_that_is_everywhere_and_over_is_right() -> None:
    assert problems(OVER, OVER, 10, influx=EVERYWHERE, lake=EVERYWHERE) == []
    assert problems(OVER, [*OVER, *OVER], 10) == []  # at least once


def test_a_transition_of_an_outbox_has_to_be_everywhere() -> None:
    assert problems(OVER, OVER[1:]) == ["alert a open: in an outbox, not in kafka"]
    there = EVERYWHERE - {("a", "resolved")}
    assert problems(OVER, OVER, influx=there) == ["alert a resolved: in an outbox, not in influxdb"]
    assert problems(OVER, OVER, lake=there) == ["alert a resolved: in an outbox, not in lake"]
    assert problems(OVER, OVER, influx=there, refused={"a"}) == []
    assert problems(OVER, OVER, lake=there, refused={"a"}) != []


def test_order_and_end_are_judged() -> None:
    assert problems([], OVER[::-1]) == ["alert a: Kafka has its transitions in the order [2, 1]"]
    assert problems([], OVER, state={"a": b"{}"}) == [
        "alert a: the compacted topic does not say how it ends"
    ]
    reopened = [*OVER, step(3, "open")]
    assert problems(OVER, reopened, state={"a": b"{}"}) == [
        "alert a: resolved in an outbox, in Kafka it ends otherwise"
    ]


def test_an_incident_ends_with_its_members() -> None:
    group = step(1, "open", "i", detector="incident", members=["a"], device="")
    assert problems([], [*OVER, group], state={"a": None, "i": b"{}"}) == [
        "incident i ends open: ['resolved']"
    ]
    over = step(2, "resolved", "i", detector="incident", members=["a"], device="")
    assert problems([], [*OVER, group, over], state={"a": None, "i": None}) == []


def test_a_reading_out_of_range_belongs_to_an_alert() -> None:
    assert problems(OVER, OVER, 10, 12) == []
    (problem,) = problems(OVER, OVER, 10, 13)
    assert problem.startswith(
        f"{DEVICE} was out of range at 13, acknowledged, and there is no alert"
    )
    assert problems(OVER, OVER, 9, 10) != []
    assert problems(OVER, OVER, 9, 10, order=(10, 9)) == []  # late: a newer one came before


def test_an_alert_ends_when_its_device_is_well_again() -> None:
    is_open, state = [step(1, "open")], {"a": b"{}"}
    assert problems(is_open, is_open, 10, state=state) == []
    assert problems(is_open, is_open, 10, 20, 30, 40, state=state) == [
        f"alert a of {DEVICE} is left open: since 10, 20 is past"
    ]


def test_what_a_target_refused_is_read_from_the_log() -> None:
    log = (
        '{"event":"an alert is refused by a target and will not arrive there","transition_id":"a-1"}\n'
        '{"event":"InfluxDB refused an alert; it will not arrive there","line":"alerts alert_id=\\"b\\""}\n'
        '{"event":"something else","transition_id":"c-1"}\n'
    )
    assert refused_in(log) == {"a", "b"}


def test_each_device_is_out_of_range_once_in_a_cycle() -> None:
    messages = list(alarms(4.0))
    bad = [m for m in messages if m.kind == ALARM]
    assert len(bad) == 2 * len(ALARMS)
    assert all(m.rejects == (("value", "out_of_range"),) and not m.readings for m in bad)
    assert all(m.readings for m in messages if not m.kind)
