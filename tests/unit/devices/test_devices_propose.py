"""A registry from what was heard: whatever a broker's strangers say, the gateway takes the proposal."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlang_iot.devices.propose import Heard
from greenlang_iot.devices.registry import mistakes
from greenlang_iot.formats.base import Reading
from greenlang_iot.formats.shape import shaped

# mostly what makes a device, a metric, a reading: else nothing comes to a proposal that could be wrong
NAMES = st.sampled_from([*["d1"] * 16, *["d-2"] * 4, "Ä", "no name", "", "x" * 200, "$x"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5))
ODD = (
    SCALARS
    | st.lists(SCALARS, max_size=2)
    | st.dictionaries(st.text(max_size=2), SCALARS, max_size=2)
)
UNITS = st.sampled_from(["Cel", "C", "kwh", "°C", "a b", "furlong", "", 5, None])
METRICS = st.sampled_from(["t", "t", "energy", "time", "a_score", "Größe", "", "x" * 200, 7, None])
TIMES = st.integers(0, 10**10) | st.integers(-(2**63), 2**64) | ODD
PAYLOADS = st.one_of(
    ODD,
    st.fixed_dictionaries(
        {"metric": METRICS, "value": st.integers() | st.floats()},
        optional={"unit": UNITS, "ts": TIMES},
    ),
    st.fixed_dictionaries(
        {"metric": METRICS | ODD, "value": ODD}, optional={"unit": ODD, "ts": ODD, "values": ODD}
    ),
    st.fixed_dictionaries(
        {
            "values": st.dictionaries(
                METRICS.map(str) | st.text(max_size=3), st.floats() | ODD, max_size=3
            )
        },
        optional={"ts": TIMES},
    ),
)


def readings(document: Any) -> list[Reading]:
    try:
        return shaped(document)
    except ValueError:
        return []


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES, NAMES, PAYLOADS, st.floats(0, 4e9)), max_size=12))
def test_a_proposal_is_a_sound_registry(messages: list[tuple[str, str, str, Any, float]]) -> None:
    heard = Heard()
    for org, site, device, document, now in messages:
        heard.message(org, site, device, readings(document), now)
    document, _ = heard.proposal()
    assert mistakes(document) == []
    assert len(document["devices"]) <= len(messages) - heard.strange


def one(*payloads: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    heard = Heard()
    for i, payload in enumerate(payloads):
        heard.message("acme", "north", "d1", readings(payload), 10.0 * i)
    document, notes = heard.proposal()
    (body,) = document["types"].values()
    return body["metrics"], notes


@pytest.mark.parametrize(("said", "meant"), [("celsius", "Cel"), ("kwh", "kWh"), ("%RH", "%RH")])
def test_a_unit_that_is_a_spelling_of_another_is_proposed_as_that_one(
    said: str, meant: str
) -> None:
    metrics, notes = one({"metric": "m", "value": 1, "unit": said})
    assert metrics == {"m": {"unit": meant}}
    told = f"d1: m says {said!r}, which the gateway knows as {meant} only: what says so is rejected"
    assert notes == ([] if said == meant else [told])


def test_a_metric_that_is_no_name_costs_only_itself() -> None:
    payloads = [{"metric": name, "value": 1} for name in (["t"], {}, "t", "a b", "Inputs/Power")]
    metrics, notes = one(*payloads, {"values": {"u": 2, "time": 3}})
    assert metrics.keys() == {"t", "u"}
    assert [note.split(":")[0] for note in notes[:3]] == ["'Inputs/Power'", "'a b'", "'time'"]


def test_times_are_those_of_the_readings() -> None:
    texts = [f"2026-03-01T12:{minute:02}:00Z" for minute in (5, 0, 10)]
    metrics, _ = one(*({"ts": ts, "metric": "m", "value": 1} for ts in texts))
    assert metrics == {"m": {"unit": "1", "interval": 300}}


def test_numbers_beyond_a_float_and_topics_that_name_no_site() -> None:
    heard = Heard()
    found = [Reading("v", "m", 10**400, None), Reading("v", "n", 2**70, None, "W")]
    heard.message("", "north", "d1", found, 0.0)
    document, notes = heard.proposal()
    assert document["devices"] == [{"id": "d1", "org": "unnamed", "site": "north", "type": "n"}]
    assert notes == ["org or site unnamed: topics do not name it; put yours in its place"]


def test_a_clock_that_is_far_off_makes_no_interval() -> None:
    metrics, _ = one({"ts": 1, "metric": "m", "value": 1}, {"ts": 9e9, "metric": "m", "value": 1})
    assert metrics == {"m": {"unit": "1"}}
