"""Alerts and silences over HTTP, and the commands that ask it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.fakes.alerts import change
from typer.testing import CliRunner, Result

from greenlang_iot.cli.main import app
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.observe.access import Tokens
from greenlang_iot.observe.admin import AdminServer, Status
from greenlang_iot.observe.api_alerts import AlertApi
from greenlang_iot.observe.audit import Audit
from greenlang_iot.runtime.instance_lock import InstanceLock
from greenlang_iot.settings.model import AdminSettings, AlertSettings
from greenlang_iot.sinks.alert_store import AlertStore

TOKEN = "a-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AlertStore]:
    made = AlertStore(tmp_path / "alerts", AlertSettings(group_devices=3))
    await made.take(
        [
            change("a1", at=1, severity="critical"),
            change("a2", at=2, device="d2"),
            change("b1", at=3, site="south", device="d3", rule="silence"),
            change("b1", 2, "resolved", at=4, opened=3, site="south", device="d3", rule="silence"),
        ]
    )
    yield made
    await made.close()


@pytest.fixture
async def port(store: AlertStore, tmp_path: Path) -> AsyncIterator[int]:
    api = AlertApi(store, Audit(tmp_path, 1 << 20))
    server = AdminServer(
        AdminSettings(port=0), bytes, Status, Tokens(TOKEN, "r"), more=[api.add_routes]
    )
    yield await server.start()
    await server.stop()


@pytest.fixture
async def client(port: int) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session


async def call(
    client: aiohttp.ClientSession, method: str, path: str, body: Any = None, **more: Any
) -> tuple[int, Any]:
    headers = more.pop("headers", BEARER)
    async with client.request(method, path, json=body, headers=headers, **more) as answer:
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("", ["b1", "a2", "a1"]),
        ("?state=open", ["a2", "a1"]),
        ("?state=open,resolved&site=south", ["b1"]),
        ("?device=d2", ["a2"]),
        ("?severity=critical", ["a1"]),
        ("?rule=silence,stuck", ["b1"]),
        ("?q=TEMPERATURE d2", ["a2"]),
        ("?q=nothing", []),
        ("?limit=1", ["b1"]),
    ],
)
async def test_alerts_are_found(client: aiohttp.ClientSession, query: str, ids: list[str]) -> None:
    status, found = await call(client, "GET", f"/api/v1/alerts{query}", headers={})
    assert (status, [a["alert_id"] for a in found["alerts"]]) == (200, ids)
    assert found["total"] == (3 if "limit" in query else len(ids))


async def test_pages_follow_each_other(client: aiohttp.ClientSession) -> None:
    _, first = await call(client, "GET", "/api/v1/alerts?limit=2")
    _, second = await call(client, "GET", f"/api/v1/alerts?limit=2&cursor={first['next']}")
    assert [a["alert_id"] for a in second["alerts"]] == ["a1"]
    assert second["next"] is None


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=x", "limit=99999", "limit=" + "9" * 5_000, "cursor=x", "sight=north",
        "state=opne", "severity=open,info",
        "q=" + "x+" * 9, "q=" + "x" * 257,
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_one_sentence(client: aiohttp.ClientSession, query: str) -> None:
    status, found = await call(client, "GET", f"/api/v1/alerts?{query}")
    assert status == 400
    assert query.split("=")[0] in found["error"]


async def test_one_alert_with_its_transitions_and_members(
    client: aiohttp.ClientSession, store: AlertStore
) -> None:
    status, found = await call(client, "GET", "/api/v1/alerts/b1")
    assert (status, found["state"]) == (200, "resolved")
    assert [(t["number"], t["state"]) for t in found["transitions"]] == [
        (1, "open"),
        (2, "resolved"),
    ]
    assert found["members"] == []
    await store.take([change("a3", at=3, device="d4")])
    _, listed = await call(client, "GET", "/api/v1/alerts?q=kind")
    (incident,) = listed["alerts"]
    _, shown = await call(client, "GET", f"/api/v1/alerts/{incident['alert_id']}")
    assert [m["alert_id"] for m in shown["members"]] == ["a1", "a2", "a3"]
    assert (await call(client, "GET", "/api/v1/alerts/none"))[0] == 404


async def test_acknowledge(
    client: aiohttp.ClientSession, store: AlertStore, tmp_path: Path
) -> None:
    heard: list[str] = []
    store.listen(lambda p: heard.extend(t["transition_id"] for t in p.transitions))
    body = {"by": "kim", "comment": "on it"}
    status, found = await call(client, "POST", "/api/v1/alerts/a1/ack", body)
    assert (status, found["state"], found["by"]) == (200, "acknowledged", "kim")
    assert heard == ["a1-2"]
    line = json.loads((tmp_path / "audit.jsonl").read_text())
    assert (line["action"], line["alert_id"], line["by"]) == ("acknowledge", "a1", "kim")
    assert (await call(client, "POST", "/api/v1/alerts/b1/ack"))[0] == 409
    assert (await call(client, "POST", "/api/v1/alerts/none/ack"))[0] == 404


async def test_silence_and_unsilence(client: aiohttp.ClientSession, store: AlertStore) -> None:
    body = {"match": {"site": "north"}, "reason": "work", "duration": 3600, "by": "kim"}
    status, made = await call(client, "POST", "/api/v1/silences", body)
    assert (status, made["until"] - made["starts"]) == (201, 3600 * 10**9)
    assert store.book.alerts["a1"].last["flags"] == ["silenced"]
    assert (await call(client, "GET", "/api/v1/silences"))[1]["silences"] == [made]
    assert (await call(client, "DELETE", f"/api/v1/silences/{made['id']}"))[0] == 200
    assert store.book.alerts["a1"].last["flags"] == []
    assert (await call(client, "DELETE", f"/api/v1/silences/{made['id']}"))[0] == 404


async def test_a_maintenance_window_by_times(client: aiohttp.ClientSession) -> None:
    body = {"match": {"site": "*"}, "reason": "works", "starts": "2100-01-01T00:00:00+02:00"}
    body["until"] = "2100-01-02T00:00:00"
    status, made = await call(client, "POST", "/api/v1/silences", body)
    assert (status, made["until"] - made["starts"]) == (201, 26 * 3600 * 10**9)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "until"),
        ({"match": {"site": "n"}, "reason": "x", "until": "tomorrow"}, "until is not a time"),
        ({"match": {"site": "n"}, "reason": "x", "duration": -1}, "duration"),
        ({"match": {"site": "n"}, "reason": "x", "duration": True}, "duration"),
        ({"match": {"site": 7}, "reason": "x", "duration": 1}, "patterns are texts"),
        ({"match": [], "reason": "x", "duration": 1}, "match is of the wrong type"),
        ({"reason": "x", "duration": 1}, "at least one"),
        ({"match": {"site": "n"}, "duration": 1}, "reason"),
        ({"because": "x", "duration": 1}, "there is no because"),
        ([], "JSON object"),
    ],
)
async def test_a_wrong_silence_is_refused(
    client: aiohttp.ClientSession, store: AlertStore, body: Any, words: str
) -> None:
    status, found = await call(client, "POST", "/api/v1/silences", body)
    assert status == 400
    assert words in found["error"] + " ".join(found["problems"])
    assert store.book.silences == {}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/alerts/a1/ack"),
        ("POST", "/api/v1/silences"),
        ("DELETE", "/api/v1/silences/x"),
    ],
)
async def test_what_acts_wants_the_token(
    client: aiohttp.ClientSession, store: AlertStore, method: str, path: str
) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert (await call(client, method, path, headers=headers))[0] == 401
    assert store.book.alerts["a1"].last["state"] == "open"


# ---- the commands --------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, port: int) -> Iterator[Path]:
    (tmp_path / "admin-token").write_text(TOKEN + "\n")
    path = tmp_path / "config.yaml"
    path.write_text(f"data_dir: {tmp_path}\nadmin: {{port: {port}}}\n")
    with InstanceLock(tmp_path):
        yield path


async def run(config: Path, *arguments: str) -> Result:
    """A command, while the server goes on in this loop."""
    command = [*arguments, "--config", str(config)]
    return await asyncio.to_thread(CliRunner().invoke, app, ["alerts", *command])


async def test_the_commands_do_what_the_api_does(config: Path, store: AlertStore) -> None:
    listed = await run(config, "list", "--json")
    assert [a["alert_id"] for a in json.loads(listed.stdout)["alerts"]] == ["a2", "a1"]
    lines = (await run(config, "list", "--state", "all")).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["b1", "a2", "a1"]

    assert (await run(config, "list", "--site", "nowhere")).stderr == "no alerts\n"

    acked = await run(config, "ack", "a1", "--comment", "on it", "--by", "kim", "--json")
    assert json.loads(acked.stdout)["transition_id"] == "a1-2"
    shown = await run(config, "show", "a1")
    assert "comment: on it" in shown.stdout
    assert "acknowledged" in shown.stdout

    how = ["--device", "d2", "--for", "2h", "--reason", "work", "--by", "kim"]
    made = json.loads((await run(config, "silence", *how, "--json")).stdout)
    assert store.book.silences[made["id"]].match == {"device": "d2"}
    assert "device=d2  work (kim)" in (await run(config, "silences")).stdout
    assert "[silenced]" in (await run(config, "list", "--device", "d2")).stdout
    assert (await run(config, "unsilence", made["id"])).exit_code == 0
    assert store.book.silences == {}


async def test_what_the_gateway_refuses_is_wrong_input(config: Path) -> None:
    refused = await run(config, "ack", "b1")
    assert isinstance(refused.exception, InputError)
    assert str(refused.exception) == "alert b1 is resolved: only an open one is acknowledged."
    wrong = await run(config, "silence", "--reason", "x", "--for", "soon", "--site", "n")
    assert str(wrong.exception) == "'soon' is no duration: write 45s, 30m, 8h or 7d."
    nothing = await run(config, "silence", "--reason", "x", "--for", "1h")
    assert isinstance(nothing.exception, InputError)
    assert "at least one" in nothing.exception.problems[0]


async def test_a_wrong_token_and_no_gateway_are_said(config: Path, tmp_path: Path) -> None:
    (tmp_path / "admin-token").write_text("another")
    assert "answered 401" in str((await run(config, "ack", "a1")).exception)
    (tmp_path / "admin-token").unlink()
    assert "no gateway was started" in str((await run(config, "ack", "a1")).exception)
    (tmp_path / "admin-token").write_text(TOKEN)
    config.write_text(f"data_dir: {tmp_path}\nadmin: {{port: 1}}\n")  # noqa: ASYNC240
    away = await run(config, "list")
    assert isinstance(away.exception, GatewayError)
    assert "no gateway answers at 127.0.0.1:1" in str(away.exception)
