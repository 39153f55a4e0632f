"""What systemd hears: over a real datagram socket, and from a real gateway."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from structlog.testing import capture_logs

from greenlang_iot.runtime.service_manager import ServiceManager

REGISTRY = Path(__file__).resolve().parents[3] / "devices" / "devices-registry.json"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.settimeout(60)
        yield server


def heard(listener: socket.socket) -> dict[str, str]:
    lines = listener.recv(4_096).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_started_status_signs_of_life_and_stopping(listener: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "1500000"}
    manager = ServiceManager(environ)
    assert manager.every == 0.75
    manager.started()
    assert heard(listener) == {"READY": "1"}
    manager.beat("sink influxdb\nis down")
    assert heard(listener) == {"WATCHDOG": "1", "STATUS": "sink influxdb is down"}
    manager.beat("sink influxdb\nis down")
    assert heard(listener) == {"WATCHDOG": "1"}
    manager.stopping()
    assert heard(listener) == {"STOPPING": "1", "STATUS": "draining"}


def test_without_a_watchdog_only_changes_are_told(listener: socket.socket) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": listener.getsockname()})
    manager.beat("ready")
    assert heard(listener) == {"STATUS": "ready"}
    manager.beat("ready")
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.recv(1)


def test_the_watchdog_of_another_process_is_not_ours(listener: socket.socket) -> None:
    environ = {
        "NOTIFY_SOCKET": listener.getsockname(),
        "WATCHDOG_USEC": "1000",
        "WATCHDOG_PID": "1",
    }
    assert ServiceManager(environ).every == 1.0


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(f"\0greenlang-iot-test-{os.getpid()}")
        server.settimeout(60)
        ServiceManager({"NOTIFY_SOCKET": f"@greenlang-iot-test-{os.getpid()}"}).started()
        assert server.recv(64) == b"READY=1"


def test_nobody_to_tell_is_said_once_and_harms_nothing(tmp_path: Path) -> None:
    assert not ServiceManager({}).present
    ServiceManager({}).started()
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    with capture_logs() as logs:
        manager.started()
        manager.stopping()
    assert [entry["event"] for entry in logs] == ["the service manager does not listen"]


def test_a_gateway_under_a_service_manager(tmp_path: Path, listener: socket.socket) -> None:
    """No broker is there: it has started all the same, and its status says what is missing."""
    config = tmp_path / "c.yaml"
    settings = {
        "data_dir": str(tmp_path / "data"),
        "mqtt": {"brokers": [{"port": 1}]},
        "runtime": {"shards": 1},
        "admin": {"port": 0},
    }
    config.write_text(yaml.safe_dump(settings))
    environ = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "500000"}
    command = [sys.executable, "-m", "greenlang_iot", "run", "--config", str(config)]
    gateway = subprocess.Popen(
        [*command, "--devices-file", str(REGISTRY), "--json"],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert heard(listener) == {"READY": "1"}
        url = (tmp_path / "data" / "run" / "admin-url").read_text().strip()
        with urllib.request.urlopen(f"{url}/healthz") as answer:
            assert answer.status == 200
        first = heard(listener)
        assert first["WATCHDOG"] == "1"
        assert "shard 0" in first["STATUS"]
        assert heard(listener)["WATCHDOG"] == "1"
        os.killpg(gateway.pid, signal.SIGTERM)  # all of it, as `timeout` and some managers do
        while "STOPPING" not in (last := heard(listener)):
            assert last["WATCHDOG"] == "1"
        assert gateway.wait(30) == 0
    finally:
        gateway.kill()
        _, said = gateway.communicate()
    assert f"  see   {url}/ in a browser" in said.decode()
    assert not (tmp_path / "data" / "run" / "admin-url").exists()
