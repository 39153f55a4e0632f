"""Alert transitions as line protocol, read back by the stand-in's strict parser."""

import math
from dataclasses import replace

from tests.fakes.alerts import SPIKE
from tests.fakes.lineprotocol import parse

from greenlang_iot.encode.alert_lines import alert_line
from greenlang_iot.model.outcomes import Transition

OPENED = replace(
    SPIKE,
    alert_id="9f3a",
    number=2,
    site="north hall, 2",
    device="d=1",
    opened_ns=1_795_000_000_000_000_000,
    at_ns=1_795_000_000_000_000_005,
    value=99.5,
    expected=21.0,
    band=math.nan,
    score=0.9999,
    summary='99.5 Cel, "far" from\n21.0 \\ 3',
    flags=("silenced", "flapping"),
)


def test_a_transition_is_one_line() -> None:
    point = parse(alert_line(OPENED).decode())
    assert point.measurement == "alerts"
    assert point.tags == {
        "device": "d=1",
        "metric": "temperature",
        "org": "acme",
        "rule": "spike",
        "severity": "warning",
        "site": "north hall, 2",
        "state": "open",
    }
    assert point.fields == {
        "alert_id": "9f3a",
        "at": 1_795_000_000_000_000_005,
        "detector": "spike",
        "expected": 21.0,
        "flags": "silenced,flapping",
        "number": 2,
        "opened": 1_795_000_000_000_000_000,
        "score": 0.9999,
        "summary": '99.5 Cel, "far" from 21.0 \\ 3',
        "value": 99.5,
    }
    assert point.time is not None
    assert 0 <= point.time - 1_795_000_000_000_000_005 < 1_000_000


def test_transitions_of_one_time_are_kept_apart_and_each_is_always_the_same_point() -> None:
    """InfluxDB keeps one point for each time and tags: of two alerts that one reading ended it had one."""
    lines = [alert_line(replace(OPENED, alert_id=f"{n}")).decode() for n in range(20)]
    lines += [alert_line(replace(OPENED, number=n)).decode() for n in range(20)]
    assert len({parse(line).time for line in lines}) == len(set(lines)) == 40
    assert alert_line(OPENED) == alert_line(OPENED)


def test_what_does_not_apply_is_left_out() -> None:
    gateway = Transition(
        "1", 1, "open", "outage", "critical", "", "", "", "", 1, 2, None, None, None, 0.0, "none"
    )
    point = parse(alert_line(gateway).decode())
    assert point.tags == {"rule": "outage", "severity": "critical", "state": "open"}
    assert set(point.fields) == {"alert_id", "at", "detector", "number", "opened", "score"}
