"""A newer registry in a live Directory: known series keep their index, everything else is as it says."""

from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlang_iot.devices import reload
from greenlang_iot.devices.registry import parse
from greenlang_iot.devices.reload import VACANT, reloaded
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import InputError

Series = dict[tuple[str, str], tuple[Any, ...]]
UNITS = {"a": ("W", "kW"), "b": ("Cel", "K"), "c": ("1", "V")}


def registry(
    devices: dict[str, tuple[str, str, str]], types: dict[str, dict[str, str]]
) -> Directory:
    document = {
        "version": 1,
        "types": {
            name: {"metrics": {m: {"unit": u, "interval": len(u)} for m, u in metrics.items()}}
            for name, metrics in types.items()
        },
        "devices": [
            {"id": i, "org": o, "site": s, "type": t, "enabled": i != "d0" or s != "s0"}
            for i, (o, s, t) in devices.items()
        ],
    }
    return parse(orjson.dumps(document))


def contents(d: Directory) -> Series:
    """What holds per enabled series, by name; also that the columns fit together."""
    assert d.series_start[-1] == d.n_series
    found: Series = {}
    for device, (first, end) in enumerate(pairwise(d.series_start.tolist())):
        for s in range(first, end):
            assert d.series_device[s] == device
            if d.enabled[device] and d.series_enabled[s]:
                key = d.device[device], d.metric[int(d.series_metric[s])]
                assert key not in found
                found[key] = (
                    d.org[int(d.org_of[device])],
                    d.site[int(d.site_of[device])],
                    d.type[int(d.type_of[device])],
                    d.unit[int(d.series_unit[s])],
                    int(d.interval_ns[s]),
                )
    return found


def index(d: Directory) -> dict[tuple[str, str], int]:
    return {
        (d.device[int(d.series_device[s])], d.metric[int(d.series_metric[s])]): s
        for s in range(d.n_series)
    }


def conversions(d: Directory) -> dict[tuple[str, str], tuple[float, float]]:
    return {
        (d.unit[int(a)], d.unit[int(b)]): (float(f), float(x))
        for a, b, f, x in zip(d.unit_from, d.unit_to, d.unit_factor, d.unit_shift, strict=True)
    }


@st.composite
def registries(draw: st.DrawFn) -> Directory:
    types = {
        name: {
            m: draw(st.sampled_from(UNITS[m]))
            for m in draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))
        }
        for name in ("t0", "t1")
    }
    place = st.tuples(
        st.sampled_from(["o0", "o1"]), st.sampled_from(["s0", "s1"]), st.sampled_from(list(types))
    )
    ids = st.sampled_from([f"d{i}" for i in range(6)])
    return registry(draw(st.dictionaries(ids, place)), types)


@given(st.lists(registries(), min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_any_row_of_reloads_ends_like_a_fresh_start(steps: list[Directory]) -> None:
    live = steps[0]
    for wanted in steps[1:]:
        before = index(live)
        result = reloaded(live, wanted)
        assert contents(result.directory) == contents(wanted)
        for pair, conversion in conversions(wanted).items():
            assert conversions(result.directory)[pair] == conversion
        after = index(result.directory)
        kept = [key for key in before if key in after and not key[0].startswith(VACANT)]
        if not result.moved:
            assert all(before[key] == after[key] for key in kept)
        live = result.directory


def test_a_device_that_gains_a_metric_moves_and_the_others_stay() -> None:
    live = registry(
        {"d1": ("o", "s", "t"), "d2": ("o", "s", "u")}, {"t": {"a": "W"}, "u": {"b": "K"}}
    )
    wanted = registry(
        {"d2": ("o", "s", "u"), "d1": ("o", "s", "t")}, {"u": {"b": "K"}, "t": {"a": "W", "c": "V"}}
    )
    result = reloaded(live, wanted)
    assert (result.added, result.removed, result.moved) == (0, 0, 1)
    assert index(result.directory)["d2", "b"] == index(live)["d2", "b"]
    assert result.directory.device[0].startswith(VACANT)
    assert not result.directory.enabled[0]
    assert contents(result.directory) == contents(wanted)


def test_a_reference_follows_its_device() -> None:
    """r moves to another entry because it gains a metric; p, compared with it, stays where it is."""

    def with_reference(r_type: str) -> Directory:
        metrics = {"a": {"unit": "W"}}
        types = {"t": {"metrics": metrics}, "u": {"metrics": metrics | {"b": {"unit": "K"}}}}
        place = {"org": "o", "site": "s"}
        compared = {"a": {"reference": "r", "tolerance": 2}}
        devices = [
            {"id": "r", **place, "type": r_type},
            {"id": "p", **place, "type": "t", "metrics": compared},
        ]
        return parse(orjson.dumps({"version": 1, "types": types, "devices": devices}))

    live = with_reference("t")
    assert live.reference.tolist() == [-1, 0]
    newer = reloaded(live, with_reference("u")).directory
    at = index(newer)
    assert newer.reference[at["p", "a"]] == at["r", "a"] != 0
    assert newer.tolerance[at["p", "a"]] == 2
    assert newer.reference[[at["r", "a"], at["r", "b"]]].tolist() == [-1, -1]


def test_a_vacant_entry_is_used_again() -> None:
    types = {"t": {"a": "W", "b": "K"}}
    live = registry({"d1": ("o", "s", "t"), "d2": ("o", "s", "t")}, types)
    gone = reloaded(live, registry({"d2": ("o", "s", "t")}, types))
    assert (gone.added, gone.removed) == (0, 1)
    back = reloaded(gone.directory, registry({"d2": ("o", "s", "t"), "d3": ("o", "s", "t")}, types))
    assert back.directory.n_series == live.n_series
    assert index(back.directory)["d3", "a"] == index(live)["d1", "a"]


def test_guests_stay_until_they_are_registered() -> None:
    types = {"t": {"a": "W"}, "unknown": {"c": "1", "b": "1"}}
    live = registry(
        {"d1": ("o", "s", "t"), "g1": ("o", "s", "unknown"), "g2": ("o", "s", "unknown")}, types
    )
    wanted = registry({"d1": ("o", "s", "t"), "g2": ("o", "s", "t")}, {"t": {"a": "W"}})
    result = reloaded(live, wanted, "unknown").directory
    expected = contents(wanted) | {k: v for k, v in contents(live).items() if k[0] == "g1"}
    assert contents(result) == expected
    guests = [
        i for i in range(result.n_devices) if result.type[int(result.type_of[i])] == "unknown"
    ]
    assert [result.device[i] for i in guests] == ["g1"]


def test_the_live_directory_is_not_touched_and_vacancies_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    types = {"t": {"a": "W"}}
    live = registry({"d1": ("o", "s", "t"), "d2": ("o", "s", "t")}, types)
    before = contents(live)
    wanted = registry({}, types)
    assert contents(reloaded(live, wanted).directory) == {}
    assert contents(live) == before
    np.testing.assert_array_equal(live.enabled, [1, 1])
    monkeypatch.setattr(reload, "VACANT_ALLOWED", 1)
    with pytest.raises(InputError, match="restart the gateway"):
        reloaded(live, wanted)


def test_where_no_device_moves_the_columns_are_those_of_the_new_registry() -> None:
    """As they lie in the file that all processes map: a reload of other limits copies nothing."""
    devices = {f"x{i}": ("o", "s", "t") for i in range(5)}
    live = registry(devices, {"t": {"a": "W", "b": "Cel"}})
    wanted = registry(devices, {"t": {"a": "kW", "b": "K"}})
    done = reloaded(live, wanted)
    assert contents(done.directory) == contents(wanted)
    for name in (
        "low",
        "high",
        "warn_low",
        "warn_high",
        "step",
        "interval_ns",
        "tolerance",
        "series_enabled",
    ):
        assert np.shares_memory(getattr(done.directory, name), getattr(wanted, name)), name
    moved = reloaded(
        live, registry({"new": ("o", "s", "t"), **devices}, {"t": {"a": "kW", "b": "K"}})
    )
    assert (moved.added, moved.moved, moved.directory.n_devices) == (1, 0, 6)
    assert moved.entries.tolist() == [5, 0, 1, 2, 3, 4]
