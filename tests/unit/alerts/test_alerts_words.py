"""What alerts say that rest on more than a level."""

import re
from importlib.resources import files

from tests.fakes.directory import directory

from greenlang_iot.alerts import words
from greenlang_iot.devices.units import sign


def test_a_usual_value_that_does_not_fit_the_others_is_said_so() -> None:
    d = directory(1, names=["d7"])
    said = words.reading(d, 0, "river", 21.5, 21.0, 2.0)
    assert said == "temperature of d7 no longer fits the device's other metrics, now 21.5 °C"


def test_a_device_with_one_metric_has_no_others_that_it_could_fit() -> None:
    d = directory(1, ("temperature",), units=("Cel",), names=["d7"])
    said = words.reading(d, 0, "river", 21.5, 21.0, 2.0)
    assert said == "temperature of d7 changes as it rarely does at this hour, now 21.5 °C"


def test_an_unusual_value_is_said_with_what_was_expected() -> None:
    d = directory(1, names=["d7"])
    assert words.reading(d, 0, "river", 24.5, 21.0, 2.0) == (
        "temperature of d7 read 24.5 °C; expected 21.0 ± 2.0"
    )


def test_a_cycle_unlike_the_others_is_said_so() -> None:
    d = directory(1, names=["d7"])
    said = words.reading(d, 0, "swing", 30.0, 29.5, 2.0)
    assert said == "temperature of d7 swings unlike it usually does, now 30 °C"


def test_a_unit_is_said_as_the_console_says_it() -> None:
    script = (files("greenlang_iot.console") / "static" / "format.js").read_text()
    table = re.search(r"SIGNS = \{(.*?)\};", script)
    assert table is not None
    signs = re.findall(r'"?([\w%/]+)"?: "([^"]*)"', table[1])
    assert len(signs) > 4
    assert [sign(unit) for unit, _ in signs] == [shown for _, shown in signs]
    assert sign("kWh") == "kWh"
    plain = directory(1, ("count",), units=("1",), names=["d7"])
    assert words.reading(plain, 0, "spike", 3.0, 1.0, 0.5) == (
        "count of d7 read 3; expected 1.00 ± 0.50"
    )
