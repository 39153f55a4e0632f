"""SenML: the examples and rules of RFC 8428."""

import json
from typing import Any

import pytest
from tests.fakes.directory import directory
from tests.fakes.format_decoder import NOW, FormatDecoder, Read
from tests.fakes.payload_formats import cbor

NS = 1_000_000_000
NAMES = ["voltage", "current", "temperature", "humidity", "door", "power", "power_sum"]
REGISTRY = directory(2, NAMES, units=["V", "A", "Cel", "%RH", "1", "W", "J"], low=-1e9, high=1e12)
T = 1_714_566_000


def read(pack: Any, **entry: Any) -> Read:
    made = FormatDecoder("senml-json", registry=REGISTRY, **entry)
    return made.read(json.dumps(pack).encode())


def test_multiple_measurements_of_the_rfc() -> None:
    """5.1.3, re-timed: base name, base time, base unit; times before it."""
    got = read(
        [
            {"bn": "urn:dev:ow:10e2073a0108006:", "bt": T + 0.001, "bu": "A", "bver": 5,
             "n": "voltage", "u": "V", "v": 120.1},
            {"n": "current", "t": -5, "v": 1.2},
            {"n": "current", "t": -4, "v": 1.3},
        ]
    )  # fmt: skip
    ms = 1_000_000
    assert got.rows == [
        ("d000", "voltage", T * NS + ms, 120.1, None),
        ("d000", "current", (T - 5) * NS + ms, 1.2, None),
        ("d000", "current", (T - 4) * NS + ms, 1.3, None),
    ]
    assert got.rejects == []


def test_base_values_hold_until_they_are_replaced() -> None:
    got = read(
        [
            {"bn": "urn:dev:mac:1/", "bt": T, "bv": 20, "n": "temperature", "v": 1},
            {"n": "temperature", "t": 1, "v": 2.5},
            {"bn": "urn:dev:mac:2:", "bt": T + 60, "bv": 0},
            {"n": "humidity", "v": 3},
        ]
    )
    assert [(r.metric, r.ts // NS - T, r.value) for r in got.rows] == [
        ("temperature", 0, 21),
        ("temperature", 1, 22.5),
        ("humidity", 60, 3),
    ]


def test_a_value_that_is_missing_beside_a_base_value_is_zero() -> None:
    """RFC 8428, 4.5.4."""
    got = read([{"bt": T, "bv": 20, "n": "temperature"}, {"n": "temperature", "t": 1}])
    assert [(r.ts // NS - T, r.value) for r in got.rows] == [(0, 20), (1, 20)]
    got = read([{"bt": T, "bv": 20}, {"n": "power", "s": 3}, {"n": "door", "vs": "open"}])
    assert [(r.metric, r.value) for r in got.rows] == [("power_sum", 3)]
    assert got.rejects == [[("[2].vs", "not_a_number")]]


@pytest.mark.parametrize(("version", "rows"), [(5, 1), (10, 1), (26, 1), (11, 0), (42, 0), (58, 0)])
def test_versions_are_features(version: int, rows: int) -> None:
    """RFC 9100: 26 is RFC 8428 with secondary units; bits that are not known are refused."""
    got = read([{"bver": version, "n": "power", "t": T, "u": "W", "v": 1}])
    assert [r.value for r in got.rows] == [1] * rows
    assert got.rejects == ([] if rows else [[("", "malformed")]])


def test_sums_become_readings_of_their_own() -> None:
    got = read(
        [
            {"bt": T, "bs": 1000, "n": "power", "u": "W", "v": 5, "s": 20},
            {"n": "power", "t": 1, "s": 30},
        ]
    )
    assert [(r.metric, r.value) for r in got.rows] == [
        ("power", 5),
        ("power_sum", 1020),
        ("power_sum", 1030),
    ]


def test_booleans_count_and_texts_do_not() -> None:
    got = read(
        [
            {"bt": T, "n": "door", "vb": True},
            {"n": "door", "vb": False},
            {"n": "door", "vs": "open"},
            {"n": "door", "vd": "aGk"},
            {"n": "door", "v": "1"},
            {"n": "door", "vb": 1},
        ]
    )
    assert [r.value for r in got.rows] == [1, 0]
    assert got.rejects == [[(f"[{i}].{n}", "not_a_number") for i, n in enumerate(["vs", "vd", "v", "vb"], 2)]]  # fmt: skip


def test_times_relative_to_now_count_only_where_the_time_of_receipt_does() -> None:
    pack = [{"n": "temperature", "v": 1}, {"n": "temperature", "t": -10, "v": 2}]
    assert read(pack).rejects == [[("[0].v", "ts_missing"), ("[1].v", "ts_missing")]]
    got = read(pack, missing_ts="receive_time")
    assert [r.ts for r in got.rows] == [NOW - 5, NOW - 5 - 10 * NS]


@pytest.mark.parametrize("t", [2**34, -(2**34), 1e300, "1", True, None])
def test_times_that_are_none(t: Any) -> None:
    assert read([{"n": "door", "t": t, "v": 1}]).rejects == [[("[0].v", "ts_invalid")]]


def test_units_of_the_record_or_the_base_are_checked() -> None:
    got = read(
        [
            {"bt": T, "bu": "degF", "n": "temperature", "v": 212},
            {"n": "temperature", "u": "Cel", "v": 7},
            {"n": "temperature", "u": "lbs", "v": 7},
        ]
    )
    assert [round(r.value, 9) for r in got.rows] == [100, 7]
    assert got.rejects == [[("[2].v", "unknown_unit")]]


@pytest.mark.parametrize(
    "pack",
    [
        {},
        [1],
        [{"bver": 11, "n": "door", "v": 1}],  # a newer version
        [{"bver": True}],
        [{"n": "door", "v": 1, "position_": 3}],  # must be understood, is not
        [{"bn": 1}],
        [{"bt": "now"}],
        [{"bv": []}],
        [{"bs": None}],
        [{"bu": 1}],
    ],
)
def test_packs_of_which_nothing_can_be_trusted(pack: Any) -> None:
    got = read(pack)
    assert (got.rows, got.rejects) == ([], [[("", "malformed")]])


@pytest.mark.parametrize(
    "record",
    [
        {"n": "door"},  # no value
        {"n": "door", "v": 1, "vs": "a"},
        {"n": 7, "v": 1},
        {"n": "door", "u": 1, "v": 1},
        {"n": "do or", "v": 1},
        {"v": 1},  # no name
    ],
)
def test_records_of_a_wrong_shape_cost_only_themselves(record: dict[str, Any]) -> None:
    got = read([{"bt": T}, record, {"n": "door", "v": 1}])
    assert [r.value for r in got.rows] == [1]
    assert got.rejects == [[("[1].v", "bad_shape")]]


def test_unknown_labels_are_ignored() -> None:
    assert len(read([{"bt": T, "n": "door", "v": 1, "colour": "red"}]).rows) == 1


def test_the_whole_name_may_be_the_metric() -> None:
    pack = [{"bn": "urn:dev:ow:1:", "bt": T, "n": "t", "v": 3}]
    names = {"urn:dev:ow:1:t": "temperature"}
    got = read(pack, options={"metric": "name"}, metrics=names)
    assert [r.metric for r in got.rows] == ["temperature"]


def test_cbor_labels_decimal_fractions_and_big_numbers() -> None:
    made = FormatDecoder("senml-cbor", registry=REGISTRY)
    decimal = b"\xc4\x82\x20\x18\xd6"  # tag 4: [−1, 214] = 21.4
    head = cbor({-2: "urn:dev:ow:1:", -3: T})
    record = b"\xa2\x00" + cbor("temperature") + b"\x02" + decimal
    got = made.read(b"\x82" + head + record)
    assert got.rows == [("d000", "temperature", T * NS, 21.4, None)]
    huge = b"\xc2\x59\x01\x00" + b"\xff" * 256  # tag 2: 2048 bits
    record = b"\xa2\x00" + cbor("temperature") + b"\x02" + huge
    assert made.read(b"\x82" + head + record).rejects == [[("[1].v", "non_finite")]]
