"""`greenlang-iot detect`: replay, compare, explain; the pictures and what wrong input is told."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, readings
from typer.testing import CliRunner

from greenlang_iot.alerts.explained import Before, explain
from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.cli import detect
from greenlang_iot.cli.main import app
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model.batches import F64
from greenlang_iot.model.errors import InputError
from greenlang_iot.runtime import detect_replay, recorded
from greenlang_iot.settings.model import AlertSettings, DetectSettings, LakeSettings
from greenlang_iot.sinks.lake import Lake

N = 600
SPIKE = 400
START = 1_772_323_200_000_000_000


def values() -> F64:
    x = 20 + 0.3 * np.random.default_rng(1).normal(size=N)
    x[SPIKE] += 8
    return np.round(x, 3)


def times() -> np.ndarray:
    return START + np.arange(N, dtype=np.int64) * MINUTE


@pytest.fixture
def series(tmp_path: Path) -> Path:
    path = tmp_path / "history.csv"
    stamps = times().astype("datetime64[ns]").astype("datetime64[s]").astype(str)
    rows = [f"{t.replace('T', ' ')},{v}" for t, v in zip(stamps, values(), strict=True)]
    path.write_text("\n".join(["timestamp,value", *rows]) + "\n")
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["detect", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_the_second_stage_had_no_budget_for_is_said(tmp_path: Path) -> None:
    """A series alone that is short has no budget yet."""
    path = tmp_path / "short.csv"
    rows = [f"{t // 10**9},{v}" for t, v in zip(times()[:300], values()[300:], strict=True)]
    path.write_text("\n".join(["ts,value", *rows]) + "\n")
    lines = CliRunner().invoke(app, ["detect", "replay", "--series", str(path)]).output
    assert "shed: 1 reading that the second stage had no budget for" in " ".join(lines.split())


def test_replay_gives_what_a_shard_gives(series: Path) -> None:
    """The same detector and alerter, called here by hand, say the same of every reading."""
    d = detect_replay.unregistered()
    x = values()
    got = detect_replay.replay(d, 0, times(), x, DetectSettings(), AlertSettings())
    detector, alerter = Detector(d, DetectSettings()), Alerter(d, AlertSettings())
    detector.load_second_stage()
    batch = readings([0] * N, times(), x)
    scores = detector.score(batch)
    opened = [t for t in alerter.evaluate(batch, scores) if t.state == "open"]
    for name in ("score", "expected", "band", "detector", "verdict"):
        np.testing.assert_array_equal(getattr(got, name), getattr(scores, name), err_msg=name)
    assert [e.opening.opened_ns for e in got.episodes] == [t.opened_ns for t in opened]
    assert [e.opening.opened_ns for e in got.episodes] == [int(times()[SPIKE])]
    assert got.episodes[0].resolved_ns is not None


def test_replay_writes_table_pictures_and_json(series: Path, tmp_path: Path) -> None:
    png, page, table = (tmp_path / name for name in ("a.png", "a.html", "a.csv"))
    out = run(
        "replay",
        "--series",
        series,
        "--picture",
        png,
        "--picture",
        page,
        "--table",
        table,
        "--json",
    )
    document = json.loads(out)
    assert (document["readings"], document["alerts"], document["learning"]) == (N, 1, 30)
    assert document["alerts_opened"][0]["opened"] == int(times()[SPIKE])
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = page.read_text()
    assert "src=" not in text
    assert "http-equiv" not in text
    assert "<link" not in text
    data = text.split('type="application/json">')[1].split("</script>")[0]
    points = json.loads(data)
    assert len(points["t"]) == len(points["value"]) == N
    assert points["replays"][0]["suspect"][SPIKE] == 1
    rows = list(csv.DictReader(table.open()))
    assert (rows[SPIKE]["verdict"], rows[0]["verdict"], rows[SPIKE - 1]["verdict"]) == (
        "suspect",
        "learning",
        "ok",
    )
    assert float(rows[SPIKE]["value"]) == values()[SPIKE]


def test_a_title_from_outside_cannot_become_html(tmp_path: Path) -> None:
    from greenlang_iot.cli.detect_pictures import write

    result = detect_replay.replay(
        detect_replay.unregistered(), 0, times(), values(), DetectSettings(), AlertSettings()
    )
    path = tmp_path / "x.html"
    write(path, "<script>alert(1)</script>", [("</script>", result)])
    text = path.read_text()
    assert "<script>alert(1)" not in text
    assert "\\u003c/script" in text


def test_a_profile_changes_the_outcome_and_compare_shows_it(series: Path) -> None:
    out = json.loads(
        run("compare", "--a", "default", "--b", "threshold=20", "--series", series, "--json")
    )
    assert (out["a"]["alerts"], out["b"]["alerts"], out["in_both"]) == (1, 0, 0)
    assert out["only_a"][0]["opened"] == int(times()[SPIKE])
    assert out["only_b"] == []
    assert out["b"]["threshold"] == 20.0
    assert "only a: 1" in run(
        "compare", "--a", "default", "--b", "threshold=20", "--series", series
    )


def test_profiles_are_parsed() -> None:
    assert detect.parse_profile("") == (None, {})
    assert detect.parse_profile("spiky, threshold=6,warmup=60") == (
        "spiky",
        {"threshold": 6.0, "warmup": 60},
    )


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("spikey", 'did you mean "spiky"?'),
        ("volume=3", "'volume' is no number of a profile: threshold, warmup, silence_intervals"),
        ("threshold=loud", "'loud' is no value for threshold"),
        ("warmup=1", "'1' is no value for warmup"),
    ],
)
def test_a_wrong_profile_is_told(profile: str, says: str) -> None:
    with pytest.raises(InputError) as told:
        detect.parse_profile(profile)
    assert says in str(told.value)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_with_numbers_as_times(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "x.parquet"
    divisor = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit]
    columns = {
        "ts": times()[:5] // divisor,
        "value": values()[:5],
        "metric": ["m", "n", "m", "m", "m"],
    }
    pq.write_table(pa.table(columns), path)
    ts, x = recorded.from_file(path, "d", "m")
    assert ts.tolist() == times()[[0, 2, 3, 4]].tolist()
    assert x.tolist() == values()[[0, 2, 3, 4]].tolist()


def test_a_file_without_the_columns_is_told_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("when,what\n1,2\n")
    with pytest.raises(
        InputError, match="needs the columns timestamp and value; it has: when, what"
    ):
        recorded.from_file(path, None, None)
    path.write_text("timestamp,value\nyesterday,2\n")
    with pytest.raises(InputError, match="should be ISO 8601 or numbers"):
        recorded.from_file(path, None, None)
    path.write_text("timestamp,value\n1,many\n")
    with pytest.raises(InputError):
        recorded.from_file(path, None, None)
    with pytest.raises(InputError, match="there is no file"):
        recorded.from_file(tmp_path / "none.csv", None, None)


def test_silence_in_history_is_an_alert_of_its_own() -> None:
    d = directory(1, ("m",), units=("Cel",), interval_s=60.0)
    ts = np.concatenate([times()[:300], times()[:300] + 400 * MINUTE])
    got = detect_replay.replay(
        d, 0, ts, values()[:300].repeat(2)[:600], DetectSettings(), AlertSettings()
    )
    (silence,) = [e for e in got.episodes if e.opening.rule == "silence"]
    assert silence.resolved_ns == int(ts[300])


# ---- explain ---------------------------------------------------------------------------------------


def opening() -> dict[str, object]:
    got = detect_replay.replay(
        directory(1, ("m",), units=("Cel",), step=0.5),
        0,
        times(),
        values(),
        DetectSettings(),
        AlertSettings(),
    )
    return got.episodes[0].opening.as_dict()


def test_explain_names_detector_baseline_and_numbers() -> None:
    one = opening()
    d = directory(1, ("m",), units=("Cel",), step=0.5)
    text = " ".join(explain(one, one, d, Before(60, 20.01, 19.2, 20.9)))
    assert "The spike detector compares each reading with the level" in text
    assert "was expected" in text
    assert "times the half width of the band" in text
    assert "60 readings: median 20.01 °C, from 19.2 to 20.9" in text
    assert "It is open" in text
    resolved = one | {"state": "resolved", "at": int(one["opened"]) + 3 * MINUTE}  # type: ignore[call-overload]
    assert explain(one, resolved)[-1] == "It is resolved; it lasted 3 min."


def test_explain_gives_the_limit_that_was_violated() -> None:
    d = directory(1, ("m",), units=("Cel",), step=0.5, interval_s=60)
    one = opening()
    assert "a change of 0.5 °C a second" in " ".join(explain(one | {"detector": "rate"}, one, d))
    assert "a reading every 60 s" in " ".join(explain(one | {"detector": "silence"}, one, d))
    range_of = one | {"detector": "range"}
    assert explain(range_of, one, d)[3] == "By the registry -50 to 150 °C is valid."
    d.warn_high[0] = 90.0
    assert explain(range_of, one, d)[3] == (
        "By the registry -50 to 150 °C is valid and at most 90 °C is the operating range."
    )
    own = explain(one | {"detector": "rule", "score": 1.0}, one, d)
    assert "A rule of your own" in own[1]


def test_explain_finds_the_alert_in_the_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Lake(tmp_path / "lake", LakeSettings()).append_alerts([opening()])
    alert = str(opening()["alert_id"])
    out = json.loads(run("explain", alert, "--lake", tmp_path / "lake", "--json"))
    assert out["alert"]["alert_id"] == alert
    assert any("spike detector" in sentence for sentence in out["explanation"])
    result = CliRunner().invoke(
        app, ["detect", "explain", "nobody", "--lake", str(tmp_path / "lake")]
    )
    assert result.exit_code == 1
    said = str(result.exception)
    assert said.startswith("there is no alert nobody in the lake, and ")
