"""The fleet of locust against a real Mosquitto over TLS: what a subscriber gets."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from tests.services import mosquitto_server
from tests.services.gateway_process import simulate
from tests.services.mosquitto_server import MosquittoServer

from greenlang_iot.simulate.ca import loopback

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        mosquitto_server.missing() is not None, reason=str(mosquitto_server.missing())
    ),
]
ROOT = Path(__file__).resolve().parents[2]
USERS = 20


class Listener:
    """Every message of the fleet; `done` is set when a device flapped and one misbehaved."""

    def __init__(self, port: int) -> None:
        self.good, self.bad = Counter[str](), Counter[str]()
        self.qos = set[int]()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        subscribed = threading.Event()
        self.client.on_connect = lambda client, *_: client.subscribe("greenlang/#", 1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.on_message = lambda client, data, message: self.take(message)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert subscribed.wait(10)

    def take(self, message: paho.MQTTMessage) -> None:
        self.qos.add(message.qos)
        try:
            document = json.loads(message.payload)
            good = isinstance(document, dict) and bool(document["values"])
        except (ValueError, KeyError):
            good = False
        (self.good if good else self.bad)[message.topic] += 1


def test_every_kind_of_device_publishes_over_tls_and_nothing_fails(tmp_path: Path) -> None:
    ca, identity = loopback(tmp_path / "tls")
    broker = MosquittoServer(tmp_path / "mosquitto", identity)
    registry = tmp_path / "fleet.json"
    wanted = {"--devices": USERS, "--seed": 3, "--seconds": 0, "--registry-out": registry}
    assert simulate(wanted).wait(60) == 0
    listener = Listener(broker.port)
    try:
        ran = subprocess.run(
            [
                sys.executable, "-m", "locust", "-f", ROOT / "bench" / "locustfile.py", "--headless",
                "--users", str(USERS), "--spawn-rate", str(USERS), "--run-time", "8s",
                "--host", f"mqtts://127.0.0.1:{broker.tls_port}", "--json", "--stop-timeout", "5",
            ],
            env=os.environ | {"FLEET": str(registry), "FLEET_CA": str(ca), "FLEET_PACE": "0.5"},
            capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
    finally:
        listener.client.loop_stop()
        broker.stop()
    assert ran.returncode == 0, ran.stderr
    statistics = {row["name"]: row for row in json.loads(ran.stdout)}
    assert {name: row["num_failures"] for name, row in statistics.items()} == dict.fromkeys(
        statistics, 0
    )
    published = sum(
        row["num_requests"] for name, row in statistics.items() if name.startswith("publish")
    )
    received = sum(listener.good.values()) + sum(listener.bad.values())
    assert received >= statistics["publish QoS 1"]["num_requests"] > USERS
    assert received <= published + USERS  # one of each may have been on its way at the end
    assert listener.qos == {0, 1}
    devices = json.loads(registry.read_text())["devices"]
    assert set(listener.good) | set(listener.bad) == {
        f"greenlang/{d['org']}/{d['site']}/{d['id']}/telemetry" for d in devices
    }
    assert len(listener.bad) == 1, "one user of twenty misbehaves"
    # a device that flaps connects for each message
    assert statistics["connect"]["num_requests"] > USERS + 5


def test_without_a_registry_it_says_what_to_set(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "locust", "-f", ROOT / "bench" / "locustfile.py", "--headless"],
        env={name: value for name, value in os.environ.items() if name != "FLEET"},
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode != 0
    assert "FLEET is not set: the registry file of the devices to play" in ran.stderr
