"""`greenlang-iot quality report` where two organisations have a site of one name."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from greenlang_iot.cli.main import app
from greenlang_iot.cli.quality_words import skew_text
from greenlang_iot.encode.quality import quality_rows
from greenlang_iot.model.errors import InputError
from greenlang_iot.quality.figures import Scopes, widened
from greenlang_iot.quality.record import ARRIVED, FIELDS, ON_TIME, RECEIVED
from greenlang_iot.settings.model import LakeSettings, QualitySettings
from greenlang_iot.sinks.lake import Lake

SECOND = 1_000_000_000


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Three windows of acme/north, complete, and zeta/north, at 50 %."""
    writer = Lake(tmp_path / "lake", LakeSettings())
    for number in range(3):
        counts = np.zeros((2, FIELDS), np.int64)
        counts[:, RECEIVED] = counts[:, ARRIVED] = counts[:, ON_TIME] = 100, 50
        end = (1_800_000_000 + 600 * number) * SECOND
        names = ["acme", "zeta"], ["north", "north"], ["a-1", "z-1"]
        devices = Scopes(*names, np.full(2, 100.0), counts, np.zeros(2), end - 3_600 * SECOND, end)
        sites, fleet = widened(devices)
        for scope, scopes in (("fleet", fleet), ("site", sites), ("device", devices)):
            writer.append_quality(quality_rows(scope, scopes, QualitySettings()))
    writer.close()
    return tmp_path / "lake"


def report(lake: Path, *more: str) -> Result:
    arguments = ["quality", "report", "--lake", str(lake), *more]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_site_is_told_with_its_organisation(lake: Path) -> None:
    shown = report(lake).stdout
    assert "acme/north" in shown
    assert "zeta/north" in shown
    document = json.loads(report(lake, "--site", "zeta/north", "--json").stdout)
    assert [row["device"] for row in document["devices"]] == ["z-1"]
    assert [row["completeness"] for row in document["trend"]] == [0.5, 0.5, 0.5]


def test_a_name_of_two_sites_is_not_one_of_them(lake: Path) -> None:
    with pytest.raises(
        InputError, match="more than one site 'north'; say which: acme/north, zeta/north"
    ):
        report(lake, "--site", "north")


def test_a_clock_that_is_right_is_not_behind() -> None:
    assert skew_text({"skew": -0.04}) == "+0.0 s"
    assert skew_text({"skew": -0.06}) == "-0.1 s"
