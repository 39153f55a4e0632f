"""A gateway whose every service refuses it tells its secrets to nobody."""

import re
import socket
import sys
from pathlib import Path
from subprocess import run

import pytest
from tests.services.gateway_process import GatewayProcess

from greenlang_iot.simulate.ca import loopback

REGISTRY = Path(__file__).parents[3] / "devices" / "devices-registry.json"
PLANTED = {
    "broker": "planted-Broker-pässword",
    "influxdb": "planted-influxdb-token",
    "kafka": "planted-kafka-password",
}


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def everywhere(gateway: GatewayProcess, folder: Path) -> dict[str, str]:
    """By place, what anybody may see of the gateway."""
    config = str(folder / "gateway.yaml")
    seen = {path: str(gateway.get(path)) for path in ("/status", "/readyz", "/healthz")}
    seen["/metrics"] = gateway.metrics()
    for pid in (gateway._process.pid, *gateway.shard_pids()):
        seen[f"arguments of {pid}"] = Path(f"/proc/{pid}/cmdline").read_text()
    for command in (["config", "show"], ["config", "show", "--json"], ["config", "check"]):
        done = run(
            [sys.executable, "-m", "greenlang_iot", *command, "--config", config],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        seen[" ".join(command)] = done.stdout + done.stderr
    gateway.end()
    seen["the log"] = gateway.log.read_text()
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, secret in PLANTED.items():
        path = tmp_path / name
        path.write_text(secret)
        path.chmod(0o600)
    return tmp_path


def test_planted_secrets_are_seen_nowhere(folder: Path) -> None:
    closed = closed_port()
    gateway = GatewayProcess(
        folder,
        {
            "instance": "planted",
            "data_dir": str(folder / "data"),
            "log": {"level": "debug", "format": "json"},
            "admin": {"port": closed_port()},
            "runtime": {"shards": 1},
            "detect": {"second_stage": {"enabled": False}},
            "mqtt": {
                "brokers": [
                    {
                        "host": "127.0.0.1",
                        "port": closed,
                        "username": "gateway",
                        "password_file": str(folder / "broker"),
                        "tls": {"ca_file": str(loopback(folder / "tls")[0])},
                    }
                ]
            },
            "sinks": {
                "influxdb": {
                    "enabled": True,
                    "url": f"http://127.0.0.1:{closed}",
                    "token_file": str(folder / "influxdb"),
                },
                "kafka": {
                    "enabled": True,
                    "bootstrap_servers": f"127.0.0.1:{closed}",
                    "sasl_mechanism": "PLAIN",
                    "username": "gateway",
                    "password_file": str(folder / "kafka"),
                },
                "lake": {"enabled": False},
            },
        },
        REGISTRY,
    )
    try:
        gateway.wait(
            lambda: (
                {"influxdb", "kafka"} <= set(re.findall(r'"sink":"(\w+)"', gateway.log.read_text()))
                and "not_connected" in gateway.log.read_text()
            ),
            240,
            "refused by all three",
        )
        seen = everywhere(gateway, folder)
    finally:
        gateway.end()
    assert "********" in seen["config show"]
    token = (folder / "data" / "admin-token").read_text().strip()
    for place, text in seen.items():
        assert text, place
        for secret in (*PLANTED.values(), token):
            assert secret not in text, place
