"""Rules over the lake's history say what shards would have said."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from pydantic import SecretStr
from tests.fakes.directory import directory
from tests.fakes.readings import SECOND, readings, scores
from typer.testing import CliRunner

from greenlang_iot.alerts.rule_file import RuleSet, parse
from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.cli.main import app
from greenlang_iot.encode.arrow import ArrowEncoder
from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.runtime.rule_history import InfluxHistory, LakeHistory
from greenlang_iot.runtime.rule_trial import LOOK_EVERY, try_rules
from greenlang_iot.settings.model import AlertSettings, InfluxSettings, LakeSettings
from greenlang_iot.sinks.lake import LakeSender

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
T0 = 1_800_000_000 * SECOND // LOOK_EVERY * LOOK_EVERY
FLEET = directory(6, ("temperature",), units=("Cel",), sites=1)
RULES = parse(
    """version: 1
rules:
  - {name: hot, range: {above: 90, clear: 80}, for: 2m, cooldown: 10m}
  - {name: odd, score: {above: 0.999}}
  - {name: quiet, silence: 5m, group: {devices: 3}}
  - {name: never, range: {above: 1000}}
""",
    "rules",
)
SETTINGS = AlertSettings(group_devices=0)


def history() -> tuple[list[int], list[int], list[float], list[float]]:
    """An hour of six devices, a reading a minute; at minute 30 three of them stop."""
    rng = np.random.default_rng(3)
    rows = [
        (s, T0 + m * MINUTE + s, 85 + 10 * float(rng.standard_normal()), float(rng.random() ** 9))
        for m in range(60)
        for s in range(6)
        if m < 30 or s >= 3
    ]
    series, ts, value, tail = zip(*rows, strict=True)
    return list(series), list(ts), list(value), [float(-np.log10(t + 1e-12)) for t in tail]


@pytest.fixture
async def lake(tmp_path: Path) -> Path:
    series, ts, value, score = history()
    n = len(series)
    encoder = ArrowEncoder(FLEET)
    encoder.append(readings(series, ts, value), scores(score, [0] * n, [0] * n))
    sender = LakeSender(LakeSettings(fsync_every=0.0), tmp_path / "lake" / "shard-0")
    await sender.open()
    await sender.send(encoder.seal(), n)
    await sender.close()
    return tmp_path / "lake"


async def test_it_says_what_a_shard_says(lake: Path) -> None:
    series, ts, value, score = history()
    alerter = Alerter(FLEET, SETTINGS, RULES)
    said = []
    for i in range(len(series)):
        one = readings(series[i : i + 1], ts[i : i + 1], value[i : i + 1])
        said += alerter.evaluate(one, scores(score[i : i + 1], [0], [0]))
    opened = {
        name: sum(t.rule == name and t.state == "open" for t in said) for name in ("hot", "odd")
    }
    assert min(opened.values()) > 0

    trial = try_rules(
        LakeHistory(lake, FLEET), RULES, FLEET, SETTINGS, T0, T0 + 60 * MINUTE, examples=2
    )
    assert trial.readings == len(series)
    assert {name: trial.rules[name].opened for name in opened} == opened
    first = next(t for t in said if t.rule == "hot" and t.state == "open")
    assert trial.rules["hot"].examples[0].alert_id == first.alert_id
    assert len(trial.rules["hot"].examples) <= 2
    assert (trial.rules["quiet"].opened, trial.rules["quiet"].devices) == (
        3,
        {"d000", "d001", "d002"},
    )
    assert trial.rules["never"].opened == 0
    assert trial.incidents == 1


async def test_only_the_time_asked_for(lake: Path) -> None:
    trial = try_rules(
        LakeHistory(lake, FLEET), RULES, FLEET, SETTINGS, T0 + 30 * MINUTE, T0 + 60 * MINUTE
    )
    assert trial.readings == 90
    assert trial.rules["quiet"].opened == 0  # what was before is not known


async def test_readings_of_unknown_series_are_counted(lake: Path) -> None:
    smaller = directory(2, ("temperature",), units=("Cel",), sites=1)
    trial = try_rules(LakeHistory(lake, smaller), RULES, smaller, SETTINGS, T0, T0 + 60 * MINUTE)
    assert (trial.readings, trial.unknown) == (60, 210)


def test_no_lake_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no lake"):
        try_rules(LakeHistory(tmp_path / "x", FLEET), RuleSet(), FLEET, SETTINGS, T0, T0 + 1)


# ---- InfluxDB 2.x, by the form of answer that its manual shows; 1.x is asked for real in tests/services -------


class FluxServer:
    """Answers every query with `body`; keeps what was asked."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked: list[str] = []

    async def __aenter__(self) -> str:
        application = web.Application()
        application.router.add_get("/ping", self._ping)
        application.router.add_post("/api/v2/query", self._query)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(status=204)

    async def _query(self, request: web.Request) -> web.Response:
        assert request.query["org"] == "greenlang"
        self.asked.append(await request.text())
        return web.Response(body=self.body)


async def flux(body: bytes) -> tuple[Any, str]:
    server = FluxServer(body)
    async with server as url:
        given = InfluxSettings(enabled=True, url=url, token=SecretStr("t"), bucket='a"b')
        history = InfluxHistory(given, FLEET)
        return await asyncio.to_thread(history.read, T0, T0 + HOUR), server.asked[0]


async def test_history_is_read_from_influxdb_2() -> None:
    rows = [
        b",result,table,_time,_value,_field,device",
        b",_result,0,2027-01-15T08:00:01.000000007Z,90.5,temperature,d001",
        b",_result,0,2027-01-15T08:00:00Z,91,temperature,d000",
        b",_result,0,2027-01-15T08:00:00Z,0.9995,temperature_score,d000",
        b",_result,0,2027-01-15T08:00:00Z,1,temperature,nobody",
        b",_result,0,2027-01-15T08:00:00.25Z,1,other,d000",
    ]
    found, asked = await flux(b"\r\n".join(rows) + b"\r\n\r\n")
    assert found.series.tolist() == [0, 1]
    second = 1_800_000_000 * SECOND
    assert found.ts_ns.tolist() == [second, second + SECOND + 7]
    assert found.value.tolist() == [91.0, 90.5]
    assert found.score.tolist() == [0.9995, 0.0]
    assert found.unknown == 2
    assert asked.startswith(f'from(bucket: "a\\"b") |> range(start: time(v: {T0}), ')


async def test_an_empty_and_a_failed_answer_of_influxdb_2() -> None:
    found, _ = await flux(b"\r\n")
    assert (len(found.series), found.unknown) == (0, 0)
    with pytest.raises(SinkError, match="could not read the history: out of memory"):
        await flux(b",error,reference\r\n,out of memory,897\r\n")


# ---- the commands ---------------------------------------------------------------------------------------


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["alerts", *arguments])


def registry(folder: Path) -> str:
    types = {"sensor": {"metrics": {"temperature": {"unit": "Cel"}}}}
    devices = [{"id": f"d00{n}", "org": "o", "site": "s", "type": "sensor"} for n in range(6)]
    path = folder / "registry.json"
    path.write_text(json.dumps({"version": 1, "types": types, "devices": devices}))
    return str(path)


async def test_the_command_counts_and_shows(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: T0 + 60 * MINUTE)
    (tmp_path / "rules.yaml").write_text("version: 1\nrules: [{name: hot, range: {above: 90}}]\n")
    (tmp_path / "settings.yaml").write_text("{}")
    where = ["--lake", str(lake), "--config", str(tmp_path / "settings.yaml")]
    where += ["--devices-file", registry(tmp_path), "--rules", str(tmp_path / "rules.yaml")]
    found = json.loads(call("test", "--since", "1h", "--json", *where).stdout)
    assert found["readings"] == len(history()[0])
    assert found["rules"]["hot"]["opened"] > 0
    shown = call("test", "--since", "1h", "--examples", "1", *where)
    assert f"hot: {found['rules']['hot']['opened']} opened on 6 devices" in shown.stdout
    (tmp_path / "rules.yaml").write_text(
        "version: 1\nrules: [{name: hot, match: {type: pmp}, range: {above: 90}}]\n"
    )
    matched = call("test", "--since", "1h", *where)
    assert matched.stdout == "hot: matches nothing in this registry\n"
    (tmp_path / "rules.yaml").write_text("version: 1\nrules: [{name: hot}]\n")
    wrong = call("test", *where)
    assert "has no condition" in wrong.exception.problems[0]


def test_notify_test_says_how_it_went(tmp_path: Path) -> None:
    notifiers = [
        {"name": "here", "kind": "log"},
        {"name": "there", "kind": "webhook", "url": "http://127.0.0.1:1/"},
    ]
    config = tmp_path / "settings.yaml"
    config.write_text(json.dumps({"alerts": {"notifiers": notifiers}}))
    assert "here: took it" in call("notify-test", "here", "--config", str(config)).stderr
    both = call("notify-test", "--config", str(config))
    assert "there: notifier there: " in both.stderr
    assert str(both.exception) == "not told: there."
    nobody = call("notify-test", "nobody", "--config", str(config))
    assert str(nobody.exception) == "there is no notifier 'nobody'; known: here, there"
    config.write_text("log: {level: info}")
    assert "there are no notifiers yet" in str(
        call("notify-test", "--config", str(config)).exception
    )
