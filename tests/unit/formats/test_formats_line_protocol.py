"""InfluxDB line protocol: fields, escapes, times, what is refused."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.format_decoder import NOW, FormatDecoder, Read

from greenlang_iot.formats.base import Payload
from greenlang_iot.formats.catalog import make

NAMES = ["usage_idle", "cpu_usage_idle", "cpu", "door", "free"]
REGISTRY = directory(1, NAMES, units=["1"] * 5, low=-1e30, high=1e30)


def read(text: str, **options: Any) -> Read:
    return FormatDecoder("line-protocol", registry=REGISTRY, options=options).read(text.encode())


def test_fields_of_every_type_and_several_lines() -> None:
    got = read(
        f"cpu,host=a\\ b,cpu=cpu0 usage_idle=98.5,free=12i,door=t {NOW}\n"
        "# a comment\n\n"
        f"cpu usage_idle=1e-3,free=-7i,door=FALSE {NOW - 1}\r\n"
    )
    assert [(r.metric, r.value) for r in got.rows] == [
        ("usage_idle", 98.5), ("free", 12), ("door", 1),
        ("usage_idle", 0.001), ("free", -7), ("door", 0),
    ]  # fmt: skip
    assert {r.ts for r in got.rows} == {NOW, NOW - 1}
    assert got.rejects == []


@pytest.mark.parametrize(("unit", "ns"), [("ns", 1), ("us", 10**3), ("ms", 10**6), ("s", 10**9)])
def test_precision(unit: str, ns: int) -> None:
    [row] = read(f"cpu free=1 {NOW // ns}", precision=unit).rows
    assert row.ts == NOW // ns * ns


@pytest.mark.parametrize(
    ("template", "metric"),
    [
        ("{field}", "usage_idle"),
        ("{measurement}_{field}", "cpu_usage_idle"),
        ("{measurement}", "cpu"),
    ],
)
def test_the_metric_is_made_of_measurement_and_field(template: str, metric: str) -> None:
    assert [r.metric for r in read(f"cpu usage_idle=1 {NOW}", metric=template).rows] == [metric]


def test_what_is_refused_and_where() -> None:
    got = read(
        f'cpu free="a \\"b\\", c=1\n still",door=x,speed=1,usage_idle=1 {NOW}\n'
        f"no fields here\n"
        f"cpu free=1\n"
        f"cpu free=2 9999999999999999999"
    )
    assert [(r.metric, r.value) for r in got.rows] == [("usage_idle", 1)]
    assert got.rejects == [
        [
            ("[0].free", "not_a_number"),
            ("[0].door", "not_a_number"),
            ("[0].speed", "unknown_metric"),
            ("[1]", "bad_shape"),
            ("[2].free", "ts_missing"),
            ("[3].free", "ts_invalid"),
        ]
    ]


def test_an_unsigned_number_has_no_sign() -> None:
    got = read(f"cpu free=7u,usage_idle=-7i,door=-1u {NOW}")
    assert [r.value for r in got.rows] == [7, -7]
    assert got.rejects == [[("[0].door", "not_a_number")]]


def test_numbers_that_are_not_finite() -> None:
    got = read(f"cpu free=NaN,usage_idle=+Inf,door=-infinity,cpu=1e400 {NOW}")
    names = ("free", "usage_idle", "door", "cpu")
    assert got.rejects == [[(f"[0].{name}", "non_finite") for name in names]]


def test_escapes_in_names() -> None:
    made = make("line-protocol", {"metric": "{measurement}|{field}"})
    [one] = made.read(Payload(b"a\\,b\\ c,t\\=g=1 f\\=\\ g=1 5", "x"))
    assert (one.metric, one.value, one.ts) == ("a,b c|f= g", 1.0, 5)


@given(st.text(max_size=60))
def test_no_text_harms(text: str) -> None:
    got = read(text)
    assert len(got.rejects) <= 1


@pytest.mark.parametrize("unit", ["\\ ", "a=", ",a=", '"', "a,", '\\"', "1=1,"])
def test_long_lines_take_linear_time(unit: str) -> None:
    made = make("line-protocol", {})
    text = ("m,a=b f=" + unit * (60_000 // len(unit))).encode()
    began = time.process_time()
    made.read(Payload(text, "x"))
    assert time.process_time() - began < 2  # quadratic would take minutes


@pytest.mark.parametrize(
    "options", [{"metric": "temp"}, {"metric": "{tag}{field}"}, {"precision": "m"}]
)
def test_options_that_do_not_fit(options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="option"):
        make("line-protocol", options)
