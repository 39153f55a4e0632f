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


def test_times_to_the_nanosecond(tmp_path: Path) -> None:
    sql = "SELECT make_timestamp_ns(1) AS a, make_timestamp_ns(1_500_000_000) AS b, to_timestamp(10)::TIMESTAMP AS c"
    assert json.loads(printed(tmp_path, sql, "--format", "json")) == {
        "a": "1970-01-01 00:00:00.000000001",
        "b": "1970-01-01 00:00:01.5",
        "c": "1970-01-01 00:00:10",
    }
    assert "00:00:00.000000001" in printed(tmp_path, sql)


def test_a_row_too_wide_for_the_terminal_is_one_line_a_column(tmp_path: Path) -> None:
    columns = ", ".join(f"'{c * 12}' AS column_{c}" for c in "abcdefgh")
    text = printed(tmp_path, f"SELECT {columns}")
    assert "column_h  hhhhhhhhhhhh" in text.splitlines()
    assert max(map(len, text.splitlines())) <= 80
