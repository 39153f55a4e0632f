"""The registry as a whole: a document becomes columns, and every mistake is reported at once."""

import json
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest

from greenlang_iot.devices.catalog import TYPES, make_registry
from greenlang_iot.devices.registry import load, parse
from greenlang_iot.model.directory import PROFILES
from greenlang_iot.model.errors import InputError

ROOT = Path(__file__).resolve().parents[3] / "devices"


def document(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "types": {
            "room": {
                "metrics": {
                    "temperature": {
                        "unit": "Cel",
                        "range": [-20, 60],
                        "warn": [15, None],
                        "max_step": 0.5,
                        "interval": 0.25,
                        "profile": "smooth",
                    },
                    "co2": {"unit": "ppm"},
                }
            },
            "meter": {"metrics": {"power": {"unit": "kW", "enabled": False}}},
        },
        "devices": [
            {"id": "r1", "org": "acme", "site": "a", "type": "room"},
            {"id": "m1", "org": "acme", "site": "b", "type": "meter"},
            {"id": "r2", "org": "borealis", "site": "a", "type": "room", "enabled": False}
            | {"metrics": {"co2": {"range": [0, 5000]}}},
        ],
    } | changes


def problems(doc: Any) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        parse(json.dumps(doc, indent=1).encode(), "reg.json")
    return caught.value.problems


def only(doc: Any) -> str:
    (problem,) = problems(doc)
    return problem


def test_a_key_that_is_given_twice_is_a_mistake() -> None:
    """JSON keeps the last: of a metric that was copied and forgotten, and of a whole device's overrides."""
    text = json.dumps(document(), indent=1)
    text = text.replace('"co2": {', '"co2": {"unit": "1"},\n"co2": {', 1)
    text = text.replace('"id": "r1",', '"id": "r0",\n"id": "r1",')
    with pytest.raises(InputError) as caught:
        parse(text.encode(), "reg.json")
    lines = [n for n, line in enumerate(text.splitlines(), 1) if '"co2"' in line or '"id"' in line]
    assert caught.value.problems == (
        f"reg.json:{lines[1]}: types.room.metrics.co2: given twice; the one before is not taken",
        f"reg.json:{lines[3]}: devices[0].id: given twice; the one before is not taken",
    )


def test_a_document_that_is_nested_without_end_is_one_sentence() -> None:
    deep = b'{"version":2,"description":' + b"[" * 1_015 + b"]" * 1_015 + b"}"
    with pytest.raises(InputError, match="nested too deeply"):
        parse(deep)


def test_columns() -> None:
    d = parse(orjson.dumps(document()))
    assert [d.device[i] for i in range(d.n_devices)] == ["r1", "m1", "r2"]
    assert [d.org[i] for i in d.org_of] == ["acme", "acme", "borealis"]
    assert [d.site[i] for i in d.site_of] == ["a", "b", "a"]
    assert len(d.site) == 3  # the same site name in another org is another entry
    assert [d.type[i] for i in d.type_of] == ["room", "meter", "room"]
    assert d.enabled.tolist() == [1, 1, 0]
    assert d.series_start.tolist() == [0, 2, 3, 5]
    assert d.series_device.tolist() == [0, 0, 1, 2, 2]
    names = [d.metric[i] for i in d.series_metric]
    assert names == ["temperature", "co2", "power", "temperature", "co2"]
    assert [d.unit[i] for i in d.series_unit] == ["Cel", "ppm", "kW", "Cel", "ppm"]
    inf = np.inf
    assert d.low.tolist() == [-20, -inf, -inf, -20, 0]
    assert d.high.tolist() == [60, inf, inf, 60, 5000]
    assert d.warn_low.tolist() == [15, -inf, -inf, 15, -inf]
    assert d.warn_high.tolist() == [inf] * 5
    assert d.step.tolist() == [0.5, inf, inf, 0.5, inf]
    assert d.interval_ns.tolist() == [250_000_000, 0, 0, 250_000_000, 0]
    assert [PROFILES[p] for p in d.profile] == ["smooth", "default", "default", "smooth", "default"]
    assert d.series_enabled.tolist() == [1, 1, 0, 1, 1]


def test_dtypes_are_those_of_the_contract() -> None:
    d = parse(orjson.dumps(document()))
    want = {"org_of": "int32", "series_start": "int64", "low": "float64", "profile": "uint8"}
    want |= {"series_device": "int32", "series_metric": "int32", "series_unit": "int32"}
    want |= {"interval_ns": "int64", "enabled": "uint8", "series_enabled": "uint8"}
    want |= {"unit_from": "int32", "unit_factor": "float64", "site_of": "int32", "type_of": "int32"}
    for name, dtype in want.items():
        column = getattr(d, name)
        assert (name, column.dtype.name, column.flags.c_contiguous) == (name, dtype, True)


def test_an_empty_registry_has_empty_columns() -> None:
    d = parse(b'{"version": 1, "types": {}, "devices": []}')
    assert (d.n_devices, d.n_series, d.series_start.tolist()) == (0, 0, [0])


def test_units_of_a_payload_convert_to_the_series_unit() -> None:
    d = parse(orjson.dumps(document()))
    table = {
        (d.unit[a], d.unit[b]): (f, s)
        for a, b, f, s in zip(d.unit_from, d.unit_to, d.unit_factor, d.unit_shift, strict=True)
    }
    factor, shift = table["degF", "Cel"]
    assert 212 * factor + shift == pytest.approx(100)
    assert table["W", "kW"] == (0.001, 0.0)
    assert ("Cel", "degF") not in table  # nothing is stored in degF


def test_the_example_follows_the_schema_and_loads() -> None:
    example = json.loads((ROOT / "devices-registry.json").read_text())
    schema = json.loads((ROOT / "devices-registry.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(example)
    d = load(ROOT / "devices-registry.json")
    assert (d.n_devices, len(d.org), len(d.site)) == (20, 2, 4)
    assert len(set(d.type_of.tolist())) == len(TYPES) == 8


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"devices": [{"id": "a/b", "org": "o", "site": "s", "type": "room"}]},
        {"devices": [{"id": "a", "org": "_o", "site": "s", "type": "room"}]},
        {"devices": [{"id": "a", "org": "o", "site": "s"}]},
        {"types": {"t": {"metrics": {"time": {"unit": "s"}}}}},
        {"types": {"t": {"metrics": {"a": {}}}}},
        {"types": {"t": {"metrics": {"a": {"unit": "a b"}}}}},
        {"types": {"t": {"metrics": {"a": {"unit": "V", "profile": "fast"}}}}},
        {"types": {"t": {"metrics": {"a": {"unit": "V", "max_step": 0}}}}},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(change: dict[str, Any]) -> None:
    schema = json.loads((ROOT / "devices-registry.schema.json").read_text())
    doc = document(**change)
    assert not jsonschema.Draft202012Validator(schema).is_valid(doc)
    assert problems(doc)


def test_every_mistake_is_reported_at_once_with_line_and_place() -> None:
    doc = document()
    doc["types"]["room"]["metrics"]["temperature"] |= {"range": [60, -20], "warn": [15, 20]}
    doc["types"]["room"]["metrics"]["co2"] |= {"profile": "smoth", "maxstep": 3}
    doc["types"]["meter"]["metrics"]["power"]["unit"] = "kw"
    doc["devices"][1] |= {"id": "m/1", "enabled": "yes"}
    doc["devices"][2]["type"] = "rom"
    text = json.dumps(doc, indent=1)
    found = problems(doc)
    assert len(found) == 7
    for place, words in {
        "types.room.metrics.temperature.range": "60 is not below -20",
        "types.room.metrics.co2.maxstep": 'did you mean "max_step"?',
        "types.room.metrics.co2.profile": 'did you mean "smooth"?',
        "types.meter.metrics.power.unit": 'did you mean "kW"?',
        "devices[1].id": "'m/1' is not a usable name",
        "devices[1].enabled": "must be true or false",
        "devices[2].type": 'did you mean "room"?',
    }.items():
        (problem,) = (p for p in found if f": {place}: " in p)
        assert words in problem
        line = int(problem.split(":")[1])
        key = place.rsplit(".", 1)[1]
        assert f'"{key}"' in text.splitlines()[line - 1]


def test_an_id_is_unique_over_all_orgs_and_sites() -> None:
    doc = document()
    doc["devices"][2]["id"] = "r1"
    assert "devices[2].id: 'r1' is taken by devices[0]" in only(doc)


@pytest.mark.parametrize("key", ["id", "org", "site", "type"])
def test_a_missing_field_of_a_device(key: str) -> None:
    doc = document()
    del doc["devices"][0][key]
    assert f"devices[0]: {key} is missing" in only(doc)


def test_an_override_of_an_unknown_metric() -> None:
    doc = document()
    doc["devices"][0]["metrics"] = {"temprature": {"range": [0, 1]}}
    assert 'no such metric; did you mean "temperature"?' in only(doc)


def test_an_override_that_contradicts_its_type_is_reported_at_the_device() -> None:
    doc = document()
    doc["devices"][0]["metrics"] = {"temperature": {"range": [-20, 10]}}
    assert "devices[0].metrics.temperature.warn: 15 lies outside" in only(doc)


def test_a_mistake_of_a_type_is_not_repeated_by_its_overrides() -> None:
    doc = document()
    doc["types"]["room"]["metrics"]["co2"]["max_step"] = -1
    assert "types.room.metrics.co2.max_step" in only(doc)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("range", [1], "must be [lowest, highest]"),
        ("range", ["a", 2], "must be [lowest, highest]"),
        ("range", [True, 2], "must be [lowest, highest]"),
        ("warn", [-30, 20], "-30 lies outside the valid range -20 to 60"),
        ("max_step", "fast", "more than 0"),
        ("interval", -1, "0 or more"),
        ("interval", 1e9, "at most"),
        ("enabled", 1, "must be true or false"),
        ("unit", None, "a unit is a text in quotes, not null"),
        ("unit", "", "not a usable unit"),
        ("unit", 'a"b', "not a usable unit"),
        ("unit", "celsius", 'did you mean "Cel"?'),
    ],
)
def test_mistakes_of_a_metric(field: str, value: object, words: str) -> None:
    doc = document()
    doc["types"]["room"]["metrics"]["temperature"][field] = value
    assert words in only(doc)


def test_an_unknown_unit_may_be_used_and_converts_to_nothing() -> None:
    doc = document(types={"t": {"metrics": {"a": {"unit": "widgets"}}}}, devices=[])
    d = parse(orjson.dumps(doc))
    assert [d.unit[i] for i in range(len(d.unit))] == ["widgets"]
    assert len(d.unit_from) == 0


@pytest.mark.parametrize("doc", [[], 3, {"version": 1, "types": [], "devices": {}}, {}])
def test_documents_of_another_shape(doc: object) -> None:
    assert problems(doc)


def with_reference(**override: Any) -> dict[str, Any]:
    """r3 is compared with r1 (series 0), which stands in the same site."""
    doc = document()
    doc["devices"] += [
        {"id": "r3", "org": "acme", "site": "a", "type": "room"}
        | {"metrics": {"temperature": {"reference": "r1", "tolerance": 0.5} | override}},
        {"id": "m2", "org": "acme", "site": "a", "type": "meter"},
        {"id": "k1", "org": "acme", "site": "a", "type": "room"}
        | {"metrics": {"temperature": {"unit": "K", "range": [200, 400], "warn": [288, None]}}},
        {"id": "r4", "org": "acme", "site": "a", "type": "room"}
        | {"metrics": {"temperature": {"reference": "r1", "tolerance": 2}}},
    ]
    return doc


def test_a_reference_sensor_is_a_series() -> None:
    d = parse(json.dumps(with_reference()).encode())
    at = [int(np.flatnonzero(d.series_device == d_i)[0]) for d_i in range(d.n_devices)]
    ids = [d.device[i] for i in range(d.n_devices)]
    first = dict(zip(ids, at, strict=True))
    wanted = np.full(d.n_series, -1)
    wanted[[first["r3"], first["r4"]]] = first["r1"]
    assert d.reference.tolist() == wanted.tolist()
    assert d.tolerance[[first["r3"], first["r4"]]].tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ({"reference": "r9"}, "there is no device 'r9'; known: k1"),
        ({"reference": "r3"}, "a device is not its own reference"),
        ({"reference": "r2"}, "'r2' is of another site"),
        ({"reference": "m2"}, "'m2' has no metric 'temperature'"),
        ({"reference": "k1"}, "'k1' has it in K, this device in Cel"),
        ({"reference": "r4"}, "'r4' has a reference itself"),
        ({"reference": 7}, "must be a device's id, not a number"),
        ({"tolerance": None}, "needs tolerance beside it"),
        ({"reference": None}, "needs reference beside it"),
        ({"tolerance": 0}, "must be a number, more than 0, not 0"),
    ],
)
def test_mistakes_of_a_reference(override: dict[str, Any], words: str) -> None:
    problem = only(with_reference(**override))
    assert "devices[3].metrics.temperature" in problem
    assert words in problem


def test_a_type_has_no_reference() -> None:
    doc = document()
    doc["types"]["room"]["metrics"]["co2"] |= {"reference": "r1", "tolerance": 1}
    assert "types.room.metrics.co2.reference: stands with a device" in problems(doc)[0]


def test_not_json_and_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        parse(b'{\n"version": 1,,\n}', "reg.json")
    assert caught.value.problems[0].startswith("reg.json:2: column 14: not JSON")
    with pytest.raises(InputError, match=r"there is no device registry .*devices import"):
        load(tmp_path / "none.json")


def test_generated_registries_are_valid_and_depend_on_the_seed_only() -> None:
    one, two = make_registry(500, seed=7), make_registry(500, seed=7)
    assert one == two
    assert one != make_registry(500, seed=8)
    d = parse(orjson.dumps(one))
    assert d.n_devices == 500
    assert len(d.site) == 4
    assert set(d.type_of.tolist()) == set(range(8))


def test_100_000_devices_load_in_two_seconds_of_cpu() -> None:
    doc = orjson.dumps(make_registry(100_000, types=("energy-meter", "weather")))
    best = np.inf
    for _ in range(2):
        start = time.process_time()
        d = parse(doc)
        best = min(best, time.process_time() - start)
    assert d.n_series == 400_000
    assert best < 2.0
