"""compose.yaml's broker in a real Mosquitto, with the secrets that are made for it."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.fakes.ports import free_port
from tests.services import mosquitto_server
from typer.testing import CliRunner

from greenlang_iot.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
REGISTRY = ROOT / "devices" / "devices-registry.json"
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        mosquitto_server.missing() is not None, reason=str(mosquitto_server.missing())
    ),
]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    script = str(CONFIG / "compose" / "make_secrets.py")
    subprocess.run([sys.executable, script, str(folder)], check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def port(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The shipped mosquitto.conf, its paths where compose.yaml mounts something put where that is."""
    folder = tmp_path_factory.mktemp("mosquitto")
    inside = {}
    for item in COMPOSE["services"]["mosquitto"]["secrets"]:
        inside[item["target"]] = str(secrets / item["source"])
    for text in COMPOSE["services"]["mosquitto"]["volumes"]:
        source, target, *_ = text.split(":")
        inside[target] = str(ROOT / source) if source[0] == "." else str(folder)
    config = inside.pop("/etc/mosquitto/mosquitto.conf")
    number = free_port()
    said = Path(config).read_text()
    for target, path in inside.items():
        said, count = re.subn(rf"(?m) {re.escape(target)}(?=/?$)", f" {path}", said)
        assert count == 1, target
    said = re.sub(r"(?m)^listener 8883$", f"listener {number} 127.0.0.1", said)
    (folder / "mosquitto.conf").write_text(f"user root\n{said}")
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        ["mosquitto", "-c", folder / "mosquitto.conf"], stderr=log, stdout=log
    )
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", number), 1).close()
            break
        except OSError:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
    yield number
    server.terminate()
    server.wait(10)
    log.close()


def test_the_gateways_login_gets_in_and_has_its_rights(
    secrets: Path, port: int, tmp_path: Path
) -> None:
    """doctor, with the gateway's own settings but for the host name, which only Compose's network knows."""
    site = yaml.safe_load(
        (CONFIG / "compose" / "gateway.yaml").read_text().replace("/run/secrets", str(secrets))
    )
    site["mqtt"]["brokers"][0] |= {"host": "localhost", "port": port}
    site["data_dir"] = str(tmp_path / "data")
    site["sinks"] = {
        "influxdb": {"enabled": False},
        "kafka": {"enabled": False},
        "lake": {"enabled": True},
    }
    path = tmp_path / "site.yaml"
    path.write_text(yaml.safe_dump(site))
    profile = str(CONFIG / "production.yaml")
    files = ["--config", profile, "--config", str(path), "--devices-file", str(REGISTRY)]
    result = CliRunner().invoke(app, ["doctor", *files, "--json"], catch_exceptions=False)
    found = {f["subject"]: f for f in json.loads(result.stdout)["findings"]}
    for check in ("", ": TLS", ": login", ": subscribe", ": publish status", ": publish alerts"):
        assert found[f"broker mosquitto{check}"]["state"] == "ok", found[f"broker mosquitto{check}"]
