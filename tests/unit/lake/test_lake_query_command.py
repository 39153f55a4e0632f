"""`greenlang-iot query`: formats, and one sentence for what is wrong."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from greenlang_iot.cli.query import query
from greenlang_iot.model.errors import InputError

app = typer.Typer()
app.command()(query)
SQL = "SELECT 1 AS a, 'x,[b]y' AS b, NULL AS c"


def printed(tmp_path: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--lake", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_formats(tmp_path: Path) -> None:
    assert json.loads(printed(tmp_path, SQL, "--format", "json")) == {
        "a": 1,
        "b": "x,[b]y",
        "c": None,
    }
    assert printed(tmp_path, SQL, "--format", "csv") == 'a,b,c\n1,"x,[b]y",\n'
    assert "x,[b]y" in printed(tmp_path, SQL)


def test_a_long_table_says_what_it_leaves_out(tmp_path: Path) -> None:
    text = printed(tmp_path, "SELECT unnest(range(300)) AS n")
    assert "200 of 300 rows" in text


def test_wrong_sql_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the query is wrong"):
        printed(tmp_path, "SELECT nope FROM readings")
