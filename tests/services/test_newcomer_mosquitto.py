"""doctor and replay against Mosquitto with the shipped rights."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.services import mosquitto_server
from tests.services.mosquitto_server import USERS, Mosquitto
from typer.testing import CliRunner, Result

from greenlang_iot.cli.main import app
from greenlang_iot.model.batches import Reject
from greenlang_iot.mqtt.client import Client, client_options
from greenlang_iot.settings.load import load
from greenlang_iot.settings.model import DeadLetterSettings
from greenlang_iot.sinks.deadletter import DeadLetterWriter

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        mosquitto_server.missing() is not None, reason=str(mosquitto_server.missing())
    ),
]
REGISTRY = Path(__file__).resolve().parents[2] / "devices" / "devices-registry.json"
TOPIC = "greenlang/acme/plant-a/em-main-a/telemetry"


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    server = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    yield server
    server.stop()


def configured(folder: Path, server: Mosquitto, user: str, host: str = "127.0.0.1") -> Path:
    broker = {
        "host": host,
        "port": server.port,
        "username": user,
        "password_file": str(server.password_file(user)),
        "tls": {"ca_file": str(server.ca_file)},
    }
    path = folder / "c.yaml"
    path.write_text(
        yaml.safe_dump({"data_dir": str(folder / "data"), "mqtt": {"brokers": [broker]}})
    )
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def findings(config: Path) -> dict[str, dict[str, Any]]:
    result = run("doctor", "--config", config, "--devices-file", REGISTRY, "--json")
    document = json.loads(result.stdout)
    found = {f["subject"]: f for f in document["findings"]}
    assert result.exit_code == (0 if document["healthy"] else 1)
    return found


def test_the_shipped_rights_are_enough_for_the_gateway(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    found = findings(configured(tmp_path, mosquitto, "gateway"))
    for check in ("", ": TLS", ": login", ": limits", ": subscribe", ": publish status"):
        assert found[f"broker default{check}"]["state"] == "ok"
    assert found["broker default: publish alerts"]["state"] == "ok"


def test_missing_rights_are_named(tmp_path: Path, mosquitto: Mosquitto) -> None:
    found = findings(configured(tmp_path, mosquitto, "operator"))
    for what in ("status", "alerts"):
        finding = found[f"broker default: publish {what}"]
        assert finding["state"] == "failed"
        assert "refused on greenlang/" in finding["said"]
        assert "right to write greenlang/" in finding["advice"]
    assert found["broker default: login"]["state"] == "ok"


async def test_replay_needs_a_login_that_may_publish_and_somebody_who_listens(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    config = configured(tmp_path, mosquitto, "gateway")
    writer = DeadLetterWriter(DeadLetterSettings(), tmp_path / "data" / "dead-letter" / "shard-0")
    body = b'{"ts":1,"metric":"power","value":7}'
    other = TOPIC.replace("em-main-a", "em-main-b")
    rejects = [Reject(t.encode(), body, "", [("", "unknown_device")], 0) for t in (TOPIC, other)]
    writer.submit(rejects, 1)
    await writer.close()

    async def replay(*more: object) -> dict[str, Any]:
        command = ("dead-letter", "replay", "--all", "--config", config, "--json", *more)
        document: dict[str, Any] = json.loads((await asyncio.to_thread(run, *command)).stdout)
        return document

    reasons = (await replay())["refused"].values()
    assert ["Not authorized" in why for why in reasons] == [True, True]
    login = ("--username", "simulator", "--password-file", mosquitto.password_file("simulator"))
    reasons = (await replay(*login))["refused"].values()
    assert ["nobody subscribes" in why for why in reasons] == [True, True]
    options = client_options(load(config).settings.mqtt.brokers[0])
    assert options["username"] == "gateway"
    assert USERS["gateway"] == options["password"]
    async with Client(**options) as gateway:
        await gateway.subscribe(TOPIC, qos=1)
        done = await replay(*login)
        assert (done["replayed"], len(done["refused"])) == (1, 1)
        message = await anext(aiter(gateway.messages))
        assert message.payload == body
    assert (await replay(*login))["replayed"] == 0
