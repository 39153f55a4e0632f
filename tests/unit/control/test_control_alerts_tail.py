import asyncio
import json
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.fakes.alerts import SPIKE
from tests.fakes.mqtt_client import RawClient
from typer.testing import CliRunner, Result

from greenlang_iot.cli.alert_lines import Wanted, json_line, line, parse
from greenlang_iot.cli.alerts import app
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.mqtt.control import alert_topic
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.simulate.ca import loopback, server_context


def text(alert: dict[str, Any]) -> str:
    return line(alert).plain


def test_a_line_says_when_where_what_and_how_bad() -> None:
    assert text(SPIKE.as_dict()) == (
        "2023-11-14 22:13:20.123Z  open          warning   acme/north/d1 temperature   spike     "
        "41.5 (20 ± 1.25) score 0.999  temperature of d1 jumped"
    )


def test_the_score_of_what_nobody_scored_is_left_out() -> None:
    alert = replace(SPIKE, rule="silence", value=None, expected=None, band=None, score=1.0)
    assert text(alert.as_dict()).endswith("silence   temperature of d1 jumped")


def test_a_site_alert_without_numbers() -> None:
    alert = replace(SPIKE, device="", metric="", value=None, expected=None, band=None, summary="")
    assert "acme/north/_" in text(alert.as_dict())
    assert "None" not in text(alert.as_dict())
    assert text({"alert_id": "x", "at": 10**40})  # whatever a broker sends, a line comes out


def test_control_characters_do_not_reach_the_terminal() -> None:
    hostile = "d\x1b[2J\n\u202e\x9b\x7f"
    alert = replace(SPIKE, device=hostile, site=hostile, state=hostile, summary=hostile).as_dict()
    for shown in (text(alert), json_line(alert)):
        assert not set(shown) & set("\x1b\n\u202e\x9b\x7f")
    assert json.loads(json_line(alert)) == alert


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def drawn() -> str:
        console = Console(soft_wrap=True, force_terminal=True)
        with console.capture() as capture:
            console.print(line(SPIKE.as_dict()))
        return capture.get()

    assert "\x1b[" in drawn()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in drawn()


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Wanted(), True),
        (Wanted(site="north", device="d1", severity="warning"), True),
        (Wanted(severity="info"), True),
        (Wanted(severity="critical"), False),
        (Wanted(site="south"), False),
        (Wanted(device="d2"), False),
    ],
)
def test_filters(wanted: Wanted, shown: bool) -> None:
    assert (SPIKE.as_dict() in wanted) is shown


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"state":"open"}', b"\xff"])
def test_what_is_no_alert(body: bytes) -> None:
    assert parse(body) is None


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker()
    await broker.start()
    yield broker
    await broker.stop()


async def retain(broker: Broker, *alerts: Transition) -> None:
    client = await RawClient.connected(broker.port, "gateway")
    for alert in alerts:
        await client.publish(alert_topic(alert), json.dumps(alert.as_dict()).encode(), retain=True)


async def tail(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, app, ["tail", *arguments])


async def test_tail_shows_open_alerts_of_a_site(broker: Broker) -> None:
    south = replace(SPIKE, site="south", alert_id="a2")
    info = replace(SPIKE, severity="info", alert_id="a3")
    await retain(broker, SPIKE, south, info)
    at = ("--broker", "127.0.0.1", "--port", str(broker.port), "--count", "1")
    result = await tail(*at, "--site", "north", "--severity", "warning", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == SPIKE.as_dict()
    result = await tail(*at, "--site", "south")
    assert result.stdout == text(south.as_dict()) + "\n"


async def test_tail_reads_its_connection_from_the_settings_over_tls(tmp_path: Path) -> None:
    ca_file, identity = loopback(tmp_path / "ca")
    broker = Broker(tls=server_context(identity))
    await broker.start()
    from greenlang_iot.mqtt.tls import ssl_context
    from greenlang_iot.settings.model import TlsSettings

    client = await RawClient.connected(
        broker.port, "gateway", tls=ssl_context(TlsSettings(ca_file=ca_file))
    )
    await client.publish(alert_topic(SPIKE), json.dumps(SPIKE.as_dict()).encode(), retain=True)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"mqtt:\n  brokers:\n    - host: localhost\n      port: {broker.port}\n"
        f"      tls:\n        ca_file: {ca_file}\n"
    )
    result = await tail("--config", str(config), "--count", "1", "--json")
    assert json.loads(result.stdout)["alert_id"] == "a1"
    at = ("--broker", "localhost", "--port", str(broker.port), "--count", "1", "--json")
    result = await tail(*at, "--tls-ca", str(ca_file))
    assert json.loads(result.stdout)["alert_id"] == "a1"
    await broker.stop()


async def test_wrong_options_and_a_dead_broker_are_one_sentence() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        result = await tail("--broker", "127.0.0.1", "--port", str(port))
    assert isinstance(result.exception, GatewayError)
    assert f"127.0.0.1:{port}" in str(result.exception)
    result = await tail("--port", "1")
    assert isinstance(result.exception, InputError)
    result = await tail("--broker", "127.0.0.1", "--site", "a/#")
    assert isinstance(result.exception, InputError)


async def test_ctrl_c_ends_it_cleanly(broker: Broker) -> None:
    await retain(broker, SPIKE)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", "from greenlang_iot.cli.alerts import app; app()"),
        *("tail", "--broker", "127.0.0.1", "--port", str(broker.port)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    first = await asyncio.wait_for(process.stdout.readline(), 30)
    assert b"acme/north/d1" in first
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    assert re.fullmatch(rb"following greenlang/\S+ at 127.0.0.1:\d+; Ctrl-C ends it\n", errors)


async def test_a_login_goes_with_its_password() -> None:
    result = await tail("--broker", "127.0.0.1", "--username", "operator")
    assert isinstance(result.exception, InputError)
    assert "go together" in str(result.exception)
