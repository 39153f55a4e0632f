"""What two runs are judged to be, and what a report is made of."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from greenlang_iot.bench.ladders import LADDERS
from greenlang_iot.bench.measure import Measured
from greenlang_iot.bench.report import report
from greenlang_iot.bench.results import compare, read, write
from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.load import load


def row(ratio: float, spread: float = 0.05, name: str = "everything on") -> dict[str, Any]:
    cost = ratio * 400
    return {
        "name": name,
        "cpu_ns_per_message": cost,
        "cpu_ns_p10": cost * 0.97,
        "cpu_ns_p90": cost * 1.03,
        "ratio": ratio,
        "ratio_paired": ratio + 0.1,
        "messages_per_s": 1_000_000,
        "rss_mb": 400.0,
        "ready_s": 2.5,
        "spread": spread,
        "verified": True,
    }


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (row(1.0), row(1.5), "slower"),
        (row(1.5), row(1.0), "faster"),
        (row(1.0), row(1.05), "no difference that shows"),
        (row(1.0, spread=0.7), row(1.3, spread=0.7), "no difference that shows"),
    ],
)
def test_two_runs_are_judged_with_their_noise(
    before: dict[str, Any], after: dict[str, Any], verdict: str
) -> None:
    (judged,) = compare({"rows": [before]}, {"rows": [after]})
    assert judged.verdict == verdict


def test_the_paired_ratio_is_judged_where_both_have_it_and_said() -> None:
    """The machine was slower in the second run: `ratio` says 1.5, its own bursts say that nothing changed."""
    before = row(1.0) | {"ratio_paired": 1.0, "ratio_paired_p10": 0.98, "ratio_paired_p90": 1.02}
    after = row(1.5) | {"ratio_paired": 1.01, "ratio_paired_p10": 0.98, "ratio_paired_p90": 1.04}
    (judged,) = compare({"rows": [before]}, {"rows": [after]})
    assert (judged.figure, judged.before, judged.after) == ("ratio_paired", 1.0, 1.01)
    assert judged.noise == pytest.approx((0.02**2 + 0.03**2) ** 0.5)
    assert judged.verdict == "no difference that shows"
    del before["ratio_paired"]
    (judged,) = compare({"rows": [before]}, {"rows": [after]})
    assert (judged.figure, judged.before, judged.after) == ("ratio", 1.0, 1.5)
    assert judged.verdict == "slower"


def test_runs_without_a_common_rung_are_not_compared() -> None:
    with pytest.raises(InputError, match="no rung in common"):
        compare({"rows": [row(1.0)]}, {"rows": [row(1.0, name="QoS 0")]})


def test_a_report_holds_every_row_and_what_was_wrong(tmp_path: Path) -> None:
    write(tmp_path, "features", [row(1.0), row(0.8, name="QoS 0")], ["QoS 0: something"])
    late = {"name": "50,000 a second", "messages_per_s": 50_000, "p50": 4, "p99": 9, "p99.9": 11}
    write(tmp_path, "latency", [late], [])
    written = {path.name for path in report(tmp_path)}
    assert written == {"report.md", "features.png", "latency.png"}
    text = (tmp_path / "report.md").read_text()
    assert "| QoS 0 | 320.0 | 0.8 | 0.9 | 1,000,000 | 400.0 | 2.5 | 0.05 | yes |" in text
    assert "| 50,000 a second | 50,000 | 4 | 9 | 11 |" in text
    assert "- QoS 0: something" in text


def test_what_is_no_result_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InputError, match="holds no results"):
        read(tmp_path / "x.json")
    with pytest.raises(InputError, match=r"^cannot read .*: No such file or directory$"):
        read(tmp_path / "y.json")


def test_every_rung_has_settings_that_hold(tmp_path: Path) -> None:
    for name, rungs in LADDERS.items():
        for rung in rungs:
            file = tmp_path / "settings.yaml"
            file.write_text(yaml.safe_dump(rung.changes))
            assert load([file], {}).settings, f"{name}: {rung.name}"


def test_a_machine_that_changes_its_speed_within_a_run_changes_both_sides_of_the_paired_ratio() -> (
    None
):
    measured = Measured(
        messages=3_000, cpu_ns=1_600_000, segments=[400.0, 400.0, 800.0], bursts=[400, 400, 800]
    )
    assert measured.paired == 1.0
    assert measured.cpu_ns_per_message / 400 == pytest.approx(4 / 3)
