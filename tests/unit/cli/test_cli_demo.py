"""The demo as a user runs it: its summary is the proof that the main job works here."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes.directory import directory
from typer.testing import CliRunner

from greenlang_iot.cli.demo_screen import Screen
from greenlang_iot.cli.main import app
from greenlang_iot.settings.model import Settings
from greenlang_iot.simulate.manifest import Expected
from greenlang_iot.simulate.reconcile import FoundAlert, Reconciliation, _rejected


def test_the_demo_reconciles_and_its_numbers_agree(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "greenlang_iot", "demo", "--seconds", "6", "--devices", "60"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--port", "0", "--summary", "json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.strip().splitlines()[-1])
    assert summary["reconciled"] is True
    assert summary["published"] == summary["received_messages"] == summary["acked"] > 500
    undecodable = {"malformed", "unknown_device", "wrong_place", "bad_topic", "too_large"}
    rejected = sum(n for r, n in summary["dead_letter"].items() if r not in undecodable)
    kept = summary["delivered"]["lake"] + summary["duplicates"] + rejected
    assert summary["received_readings"] == kept
    assert "RECONCILED" in done.stderr
    first = re.search(r"([\d,]+) messages/s", done.stderr)
    assert first is not None, done.stderr
    assert first[1] != "0", done.stderr

    for option, path in (("--config", "settings.yaml"), ("--lake", "data/lake")):
        query = ["query", option, str(tmp_path / path), "--format", "json"]
        found = CliRunner().invoke(app, [*query, "SELECT count(*) AS n FROM readings"])
        assert json.loads(found.stdout)["n"] == summary["delivered"]["lake"]


def test_what_did_not_agree_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(Settings(), Path("settings.yaml"), directory(1), 8.0)
    result = Reconciliation(readings=5, found=5)
    result._note("unexpected_rejects", _rejected(("a/b/c", b'{"value": 400}', ("out_of_range",))))
    result._note("false_alerts", FoundAlert("pump-1", "flow", "spike", 1_500_000_000))
    result._note("missed", Expected("pump-2", "", "silence", 2_000_000_000, 3_000_000_000))
    done: Any = SimpleNamespace(acked=5, duplicates=0)
    screen.finish(5, done, result)
    said = capsys.readouterr().err
    assert '  dead letter unexpected: a/b/c: {"value": 400} (out_of_range)\n' in said
    assert (
        "explained by nothing injected: spike of pump-1 flow at 1970-01-01T00:00:01.500+00:00"
        in said
    )
    assert "without an alert: silence of pump-2 from 1970-01-01T00:00:02.000+00:00" in said
