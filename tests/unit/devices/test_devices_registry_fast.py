"""Sound registries are read column by column: the columns, and every mistake, are those of the slow way."""

from dataclasses import fields
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenlang_iot.devices import fleet as module
from greenlang_iot.devices.catalog import make_registry
from greenlang_iot.devices.names import are_plain, name_problem
from greenlang_iot.devices.registry import parse
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import InputError

TYPES = {
    "room": {"metrics": {"t": {"unit": "Cel", "range": [-20, 60]}, "co2": {"unit": "ppm"}}},
    "meter": {"metrics": {"power": {"unit": "kW"}}},
}
DEVICES = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from(
                ["a", "b", "c", "d", "é", "e.1", "f-2", "-g", "h i", "", "x" * 129]
            ),
            "org": st.sampled_from(["o", "p", "_o"]),
            "site": st.sampled_from(["s", "t", 3]),
            "type": st.sampled_from(["room", "meter", "rom", None]),
        },
        optional={
            "enabled": st.sampled_from([True, False, None]),
            "description": st.just("text"),
            "metrics": st.sampled_from(
                [{}, {"t": {"range": [0, 9]}}, {"t": {"range": [9, 0]}}, {"x": {}}, [], None]
            ),
            "comment": st.just(1),
        },
    )
    | st.sampled_from([{}, [], "text", 7, None]),
    max_size=6,
)
SOUND = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.sampled_from([f"d{i}" for i in range(20)]),
            "org": st.sampled_from(["o", "p"]),
            "site": st.sampled_from(["s", "t", "ü"]),
            "type": st.sampled_from(["room", "meter"]),
        },
        optional={"enabled": st.booleans(), "description": st.just("text")},
    ),
    max_size=12,
    unique_by=lambda device: str(device["id"]),
)


def outcome(devices: list[Any]) -> Any:
    """The columns as lists, or every problem."""
    document = orjson.dumps({"version": 1, "types": TYPES, "devices": devices})
    try:
        return described(parse(document, "reg.json"))
    except InputError as error:
        return str(error), error.problems


def described(d: Directory) -> list[Any]:
    values = [getattr(d, item.name) for item in fields(d)]
    return [
        value.tolist() if isinstance(value, np.ndarray) else [value[i] for i in range(len(value))]
        for value in values
    ]


def slowly(devices: list[Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_take_devices", lambda *_: False)
        return outcome(devices)


@given(DEVICES)
def test_mistakes_are_those_of_the_slow_way(devices: list[Any]) -> None:
    assert outcome(devices) == slowly(devices)


@given(SOUND)
def test_columns_are_those_of_the_slow_way(devices: list[Any]) -> None:
    assert outcome(devices) == slowly(devices)


def test_a_sound_registry_does_not_take_the_slow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "_read_devices")
    document = make_registry(500)
    document["devices"][3] |= {"enabled": False, "metrics": {}}
    d = parse(orjson.dumps(document))
    assert (d.n_devices, int(d.enabled.sum())) == (500, 499)


@given(st.lists(st.text(alphabet="aZ09._-: é/\n\0", max_size=4) | st.just("n" * 128), max_size=5))
def test_names_are_plain_together_when_each_is_sound_and_ascii(names: list[str]) -> None:
    each = all(name_problem(name) is None and name.isascii() for name in names)
    assert are_plain(names) is each
