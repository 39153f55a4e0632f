"""Names that are safe everywhere, and units that convert exactly."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenlang_iot.devices.locate import Lines
from greenlang_iot.devices.names import MAX_NAME, metric_problem, name_problem
from greenlang_iot.devices.units import UNITS, conversion, intended, siblings

FORBIDDEN = '+#$/ ,="\\\n\r\t\x00\x1f\x7f\x85\u2028\u200b'


@pytest.mark.parametrize("name", ["a", "Z9", "em-1", "a.b_c:d-e", "größe", "机器1", "x" * MAX_NAME])
def test_good_names(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize("name", ["", "_gateway", "-a", ".a", "x" * (MAX_NAME + 1), "gro\u0308", 7])
def test_bad_names(name: object) -> None:
    assert name_problem(name) is not None


@given(st.text(max_size=5), st.sampled_from(FORBIDDEN), st.text(max_size=5))
def test_no_name_holds_a_character_with_a_meaning(left: str, bad: str, right: str) -> None:
    assert name_problem(left + bad + right) is not None


@pytest.mark.parametrize("name", ["time", "site", "power_score", "a/b"])
def test_metric_names_that_a_stored_line_cannot_hold(name: str) -> None:
    assert metric_problem(name) is not None


@pytest.mark.parametrize(
    ("source", "target", "value", "want"),
    [
        ("degF", "Cel", 32, 0),
        ("degF", "Cel", -40, -40),
        ("K", "Cel", 273.15, 0),
        ("°C", "Cel", 21.5, 21.5),
        ("bar", "kPa", 1, 100),
        ("kWh", "MJ", 1, 3.6),
        ("L/s", "m3/h", 1, 3.6),
        ("km/h", "m/s", 36, 10),
        ("MWh", "kWh", 1, 1000),
        ("mm/s", "m/s", 1, 0.001),
        # SenML's registry: ratios, and the secondary units of RFC 8798
        ("/", "%", 0.5, 50),
        ("/1000", "/100", 5, 0.5),
        ("kvarh", "varh", 2, 2000),
        ("kVAh", "VAh", 2, 2000),
        ("km", "m", 2, 2000),
        ("ms", "s", 1500, 1.5),
        ("MHz", "kHz", 2, 2000),
        ("mm/h", "m/s", 3600, 0.001),
        ("mAh", "Ah", 500, 0.5),
        ("mS/cm", "uS/cm", 2, 2000),
        ("\u03bcg/m³", "\u00b5g/m³", 3, 3),
    ],
)
def test_conversions(source: str, target: str, value: float, want: float) -> None:
    factor, shift = conversion(source, target)
    assert value * factor + shift == pytest.approx(want, abs=1e-9)


def test_every_pair_of_a_dimension_goes_there_and_back() -> None:
    for target in UNITS:
        for source in siblings(target):
            a, b = conversion(source, target)
            c, d = conversion(target, source)
            back = (Fraction(10) * Fraction(a) + Fraction(b)) * Fraction(c) + Fraction(d)
            assert float(back) == pytest.approx(10)


def test_units_of_different_dimensions_do_not_convert() -> None:
    with pytest.raises(ValueError, match="temperature"):
        conversion("Cel", "kPa")
    assert siblings("widgets") == []


def test_what_a_misspelt_unit_was_meant_to_be() -> None:
    assert intended("KWH") == "kWh"
    assert intended("Celsius") == "Cel"
    assert intended("kWh") is None
    assert intended("widgets") is None


NESTED = st.recursive(
    st.integers() | st.text(max_size=3) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


@given(NESTED, st.sampled_from([None, 1, 2]))
def test_every_value_is_found_on_its_line(value: object, indent: int | None) -> None:
    """Numbers are replaced by markers that say where they are; the line must hold the marker."""
    markers: dict[str, tuple[str | int, ...]] = {}

    def mark(inner: object, place: tuple[str | int, ...]) -> object:
        if isinstance(inner, list):
            return [mark(x, (*place, i)) for i, x in enumerate(inner)]
        if isinstance(inner, dict):
            return {k: mark(x, (*place, k)) for k, x in inner.items()}
        name = f"marker-{len(markers)}-"
        markers[name] = place
        return name

    text = json.dumps(mark(value, ()), indent=indent)
    lines = Lines(text)
    for name, place in markers.items():
        assert name in text.splitlines()[lines.line(place) - 1]
