"""`greenlang-iot doctor` on broken set-ups: each cause is named, with what to do."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes.influxdb2 import InfluxDB2
from typer.testing import CliRunner, Result

from greenlang_iot.cli.main import app
from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.settings.model import InfluxSettings
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.simulate.broker_router import BrokerOptions
from greenlang_iot.simulate.ca import Authority, loopback, server_context
from greenlang_iot.sinks.influx_setup import influx_setup

REGISTRY = Path(__file__).resolve().parents[3] / "devices" / "devices-registry.json"
PASSWORD = "right-password"


class SetUp:
    """A broker with TLS and a login, a stand-in for InfluxDB, and settings that are right."""

    def __init__(self, folder: Path, broker: Broker, ca_file: Path, influx: InfluxDB2) -> None:
        self.folder = folder
        self.influx = influx
        self.ca_file = ca_file
        self.broker: dict[str, Any] = {
            "host": "localhost",
            "port": broker.port,
            "username": "gateway",
            "password_file": self.secret("password", PASSWORD),
            "tls": {"ca_file": str(ca_file)},
        }
        self.influxdb: dict[str, Any] = {
            "enabled": True,
            "url": influx.url,
            "token_file": self.secret("token", influx.token),
        }
        self.kafka: dict[str, Any] = {}

    def secret(self, name: str, value: str) -> str:
        path = self.folder / name
        path.write_text(value)
        path.chmod(0o600)
        return str(path)

    async def call(self, command: str, *more: str, fails: bool = False) -> Result:
        config = self.folder / "c.yaml"
        settings = {
            "data_dir": str(self.folder / "data"),
            "mqtt": {"brokers": [self.broker]},
            "sinks": {
                "influxdb": self.influxdb,
                "kafka": self.kafka,
                "lake": {"max_bytes": 67_108_864},
            },
            "spool": {"max_bytes": 67_108_864},
        }
        config.write_text(yaml.safe_dump(settings))
        arguments = [command, "--config", str(config), *more]
        invoke = CliRunner().invoke
        return await asyncio.to_thread(invoke, app, arguments, catch_exceptions=fails)

    async def doctor(self, *more: str) -> Result:
        return await self.call("doctor", "--devices-file", str(REGISTRY), *more)

    async def failed(self) -> dict[str, tuple[str, str]]:
        """subject → (what was said, what to do) of what failed."""
        result = await self.doctor("--json")
        document = json.loads(result.stdout)
        bad = [f for f in document["findings"] if f["state"] == "failed"]
        assert result.exit_code == (1 if bad else 0)
        assert document["healthy"] is not bool(bad)
        return {f["subject"]: (f["said"], f["advice"]) for f in bad}


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[SetUp]:
    ca_file, identity = loopback(tmp_path / "ca")
    options = BrokerOptions(users={"gateway": PASSWORD})
    broker = Broker(tls=server_context(identity), options=options)
    await broker.start()
    async with InfluxDB2(buckets=("iot_data", "iot_aggregated")) as influx:
        yield SetUp(tmp_path, broker, ca_file, influx)
    await broker.stop()


async def test_a_sound_set_up_fails_nowhere(setup: SetUp) -> None:
    assert await setup.failed() == {}
    result = await setup.doctor()
    assert result.exit_code == 0
    assert "broker default: TLS: TLSv1." in result.stdout
    assert "chain and host name hold" in result.stdout
    assert "influxdb: bucket iot_data: kept for ever; the settings say kept 30d" in result.stdout
    assert "the downsampling task is missing" in " ".join(result.stdout.split())
    lines = result.stdout.splitlines()  # a path is not broken, however long
    assert max(len(line) for line in lines if str(setup.folder) not in line) <= 80
    assert "\x1b" not in result.stdout


async def test_broker_that_is_not_there(setup: SetUp) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        setup.broker["port"] = free.getsockname()[1]
        ((subject, (said, advice)),) = (await setup.failed()).items()
    assert subject == "broker default"
    assert "cannot be reached: connection refused" in said
    assert "start the broker" in advice


async def test_unknown_host(setup: SetUp) -> None:
    setup.broker["host"] = "no-such-host.invalid"
    ((_, (said, advice)),) = (await setup.failed()).items()
    assert "no-such-host.invalid is not known" in said
    assert "DNS" in advice


async def test_certificate_of_another_ca(setup: SetUp) -> None:
    setup.broker["tls"]["ca_file"] = str(Authority(setup.folder / "other").ca_file)
    ((subject, (said, advice)),) = (await setup.failed()).items()
    assert subject == "broker default: TLS"
    assert "certificate is refused" in said
    assert "ca_file" in advice


@pytest.mark.parametrize(
    ("hosts", "expired", "words", "what_to_do"),
    [
        (("broker.example",), False, "another host name", "a name that it holds"),
        (("localhost",), True, "expired", "renew"),
    ],
)
async def test_certificate_for_another_host_or_expired(
    setup: SetUp, hosts: tuple[str, ...], expired: bool, words: str, what_to_do: str
) -> None:
    identity = Authority(setup.folder / "ca").server(hosts, "other", expired=expired)
    broker = Broker(tls=server_context(identity))
    await broker.start()
    setup.broker["port"] = broker.port
    try:
        ((subject, (said, advice)),) = (await setup.failed()).items()
    finally:
        await broker.stop()
    assert subject == "broker default: TLS"
    assert words in said
    assert what_to_do in advice


async def test_plain_mqtt_where_tls_is_set(setup: SetUp) -> None:
    broker = Broker()
    await broker.start()
    setup.broker["port"] = broker.port
    try:
        ((subject, (said, advice)),) = (await setup.failed()).items()
    finally:
        await broker.stop()
    assert subject == "broker default: TLS"
    assert "no TLS" in said
    assert "plain MQTT" in advice


async def test_tls_where_the_settings_have_none(setup: SetUp) -> None:
    del setup.broker["tls"]
    setup.broker["connect_timeout"] = 2
    ((subject, (said, advice)),) = (await setup.failed()).items()
    assert subject == "broker default: login"
    assert f"port {setup.broker['port']} speaks TLS, and the settings have no tls section" in said
    assert "mqtt.brokers[].tls" in advice


async def test_wrong_password(setup: SetUp) -> None:
    setup.secret("password", "wrong")
    ((subject, (said, advice)),) = (await setup.failed()).items()
    assert subject == "broker default: login"
    assert "does not let user 'gateway' in" in said
    assert "password" in advice
    assert "wrong" not in said


@pytest.mark.parametrize(
    ("token", "words", "what_to_do"),
    [
        ("unknown", "401", "token is unknown"),
        ("token-that-may-only-read", "403", "may not write"),
    ],
)
async def test_influxdb_token(setup: SetUp, token: str, words: str, what_to_do: str) -> None:
    setup.secret("token", token)
    ((subject, (said, advice)),) = (await setup.failed()).items()
    assert subject == "influxdb: write to greenlang/iot_data"
    assert words in said
    assert what_to_do in advice


async def test_influxdb_bucket_that_is_missing(setup: SetUp) -> None:
    setup.influxdb["bucket"] = "nowhere"
    ((subject, (said, advice)),) = (await setup.failed()).items()
    assert subject == "influxdb: write to greenlang/nowhere"
    assert '404: bucket "nowhere" not found' in said
    assert "greenlang-iot setup" in advice


async def test_influxdb_of_another_version(setup: SetUp) -> None:
    setup.influx.version = "1.8.10"
    ((subject, (said, advice)),) = (await setup.failed()).items()
    assert subject == "influxdb: version"
    assert said == "the server is 1.8.10, the settings say 2"
    assert advice == 'set sinks.influxdb.version to "1"'
    settings = InfluxSettings.model_validate(setup.influxdb | {"token": "t"})
    changes = influx_setup(settings)
    try:
        with pytest.raises(
            SinkError, match=r"is 1\.8\.10, .*set sinks\.influxdb\.version to \"1\""
        ):
            await changes.plan()
    finally:
        await changes.close()


async def test_setup_says_what_differs_and_then_nothing(setup: SetUp) -> None:
    first = json.loads((await setup.call("setup", "--json")).stdout)
    assert "influxdb: bucket iot_data: kept for ever → kept 30d" in first["differences"]
    again = json.loads((await setup.call("setup", "--json")).stdout)
    note = "influxdb: the downsampling task has not run yet"
    assert again == {"applied": True, "differences": [], "notes": [note]}
    said = (await setup.call("setup", "--dry-run")).stdout
    assert said == f"Nothing to do: everything is as the settings say.\n{note}\n"


async def test_setup_says_what_it_made_before_another_service_failed(setup: SetUp) -> None:
    setup.kafka = {"enabled": True, "bootstrap_servers": "127.0.0.1:1", "timeout": 2}
    said = await setup.call("setup", "--json", fails=True)
    assert str(said.exception) == "Kafka at 127.0.0.1:1: connection refused"
    differences = json.loads(said.stdout)["differences"]
    assert "influxdb: bucket iot_data: kept for ever → kept 30d" in differences


async def test_setup_keeps_a_token_for_the_gateway(setup: SetUp) -> None:
    path = setup.folder / "own" / "token"
    more = ("--influxdb-token-out", str(path))
    made = f"influxdb: token in {path}: missing → may write"
    assert made in (await setup.call("setup", *more, "--dry-run")).stdout
    assert not path.exists()
    assert made in (await setup.call("setup", *more)).stdout
    first = path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert "token in" not in (await setup.call("setup", *more)).stdout
    assert path.read_text() == first
    setup.influx.rights.clear()  # another InfluxDB, or somebody took it away
    assert "refused → may write" in (await setup.call("setup", *more)).stdout
    assert path.read_text() != first
    setup.influxdb["token_file"] = str(path)
    assert await setup.failed() == {}


async def test_a_token_that_may_only_write_is_no_missing_bucket(setup: SetUp) -> None:
    """InfluxDB shows a token what it may read: doctor said that organisation and buckets were missing."""
    bucket = setup.influx.buckets["iot_data"]
    setup.influx.rights["w"] = [
        {"action": "write", "resource": {"type": "buckets", "id": bucket.id}}
    ]
    setup.influxdb["token_file"] = setup.secret("write", "w")
    found = json.loads((await setup.doctor("--json")).stdout)["findings"]
    (said,) = [f for f in found if f["subject"] == "influxdb: buckets and tasks"]
    assert said["state"] == "skipped"
    assert not [f for f in found if f["said"].startswith("missing")]


async def test_kafka_that_is_not_there(setup: SetUp) -> None:
    setup.kafka = {"enabled": True, "bootstrap_servers": "127.0.0.1:1", "timeout": 2}
    ((subject, (said, advice)),) = (await setup.failed()).items()
    assert subject == "kafka"
    assert "127.0.0.1:1" in said
    assert "bootstrap_servers" in advice


async def test_stores_that_are_not_there_in_the_systems_words(setup: SetUp) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
        setup.kafka = {"enabled": True, "bootstrap_servers": where}
        setup.influxdb["url"] = f"http://{where}"
        found = await setup.failed()
    assert found["kafka"][0] == f"Kafka at {where}: connection refused"
    said = f"InfluxDB at http://{where} cannot be reached: connection refused"
    assert found["influxdb"][0] == said


async def test_a_data_dir_that_cannot_be_written(setup: SetUp) -> None:
    (setup.folder / "data").write_text("a file where the folder should be")
    ((subject, (said, _)),) = (await setup.failed()).items()
    assert subject.startswith("disk: data_dir")
    assert "cannot be written" in said


async def test_wrong_settings_are_wrong_input(setup: SetUp) -> None:
    setup.broker["prot"] = 1
    with pytest.raises(InputError):
        await setup.doctor()
