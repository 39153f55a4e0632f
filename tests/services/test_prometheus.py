"""promtool's tests of the rules; and a real Prometheus, in which every shipped expression has data.

The gateway runs against real Mosquitto and InfluxDB, is disconnected, loses its sink for a while, and
gets a fleet with faults: nothing but that makes a series appear.
"""

import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.fakes.ports import free_port
from tests.services import influxdb1, mosquitto_server, prometheus_server
from tests.services.gateway_process import GatewayProcess, finished, simulate
from tests.services.influxdb1 import start_influxdb1
from tests.services.mosquitto_server import Mosquitto
from tests.services.prometheus_server import Prometheus

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(bool(prometheus_server.missing()), reason=str(prometheus_server.missing())),
]
ROOT = Path(__file__).resolve().parents[2]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "config/prometheus/rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
FLEET: dict[str, object] = {"--devices": 200, "--seed": 7}
SECONDS = 20.0


def test_promtool_finds_the_rules_right() -> None:
    rules = ROOT / "config/prometheus/rules.yaml"
    subprocess.run(["promtool", "check", "rules", str(rules)], check=True)
    tests = ROOT / "tests/promtool/rules_test.yaml"
    subprocess.run(["promtool", "test", "rules", str(tests)], check=True)


def dashboard_expressions() -> dict[str, str]:
    """ "dashboard / panel / letter" → expression, with everything chosen in the variables."""
    found = {}
    for path in sorted((ROOT / "config/grafana").glob("greenlang-iot-*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                text = re.sub(r'=~"\$\w+"', '=~".*"', target["expr"])
                text = text.replace("$__rate_interval", "5m")
                found[f"{path.stem} / {panel['title']} / {target['refId']}"] = text
    return found


def rule_expressions() -> dict[str, str]:
    """Every recording rule's expression and name, and what each alert compares."""
    found = {}
    for rule in RULES:
        if "record" in rule:
            found[f"{rule['record']} (expression)"] = rule["expr"]
            found[rule["record"]] = rule["record"]
        else:
            for number, comparison in enumerate(rule["expr"].split(" and ")):
                left, _, _ = comparison.rsplit(" ", 2)
                found[f"{rule['alert']} / {number}"] = left
    return found


class Scene:
    """Mosquitto, InfluxDB and Prometheus around one gateway."""

    def __init__(self, folder: Path) -> None:
        self.mosquitto = Mosquitto(_made(folder / "mosquitto"))
        self.influx = start_influxdb1(folder / "influxdb")
        self.registry = folder / "fleet.json"
        assert simulate({**FLEET, "--seconds": 0, "--registry-out": self.registry}).wait(60) == 0
        settings = self._settings(folder)
        config = folder / "setup.yaml"
        config.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "greenlang_iot", "setup", "--config", str(config)]
        subprocess.run(command, check=True, capture_output=True)
        self.gateway = GatewayProcess(folder, settings, self.registry)
        self.gateway.wait_ready()
        token = (folder / "data" / "read-token").read_text().strip()
        target = f"127.0.0.1:{self.gateway.port}"
        self.prometheus = Prometheus(folder / "prometheus", target, token)

    def _settings(self, folder: Path) -> dict[str, Any]:
        broker = {
            "host": "127.0.0.1",
            "port": self.mosquitto.port,
            "tls": {"ca_file": str(self.mosquitto.ca_file)},
            "username": "gateway",
            "password_file": str(self.mosquitto.password_file("gateway")),
        }
        influx = {"enabled": True, "version": "1", "url": self.influx.url, "bucket": "iot_data"}
        return {
            "instance": "watched",
            "data_dir": str(folder / "data"),
            "mqtt": {"brokers": [broker]},
            "sinks": {"influxdb": influx, "kafka": {"enabled": False}, "lake": {"enabled": True}},
            "quality": {"window": 6.0, "min_readings": 5},
            "admin": {"port": free_port()},
            "log": {"format": "json"},
        }

    def publish(self) -> "subprocess.Popen[str]":
        login = {
            "--host": "127.0.0.1",
            "--port": self.mosquitto.port,
            "--tls-ca": self.mosquitto.ca_file,
            "--username": "simulator",
            "--password-file": self.mosquitto.password_file("simulator"),
        }
        return simulate({**FLEET, "--seconds": SECONDS, **login})

    def wait_for(self, expression: str, timeout: float = 60.0) -> None:
        self.prometheus.wait(lambda: self.prometheus.query(expression), timeout, expression)

    def has_data(self, expression: str) -> bool:
        return any(math.isfinite(value) for _, value in self.prometheus.query(expression))

    def stop(self) -> None:
        self.prometheus.stop()
        self.gateway.end()
        self.influx.stop()
        self.mosquitto.stop()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.stop()


@pytest.mark.skipif(
    bool(mosquitto_server.missing() or influxdb1.missing()), reason="needs Mosquitto and InfluxDB"
)
def test_every_expression_has_data_in_a_real_prometheus(scene: Scene) -> None:
    scene.wait_for("count_over_time(greenlang_iot_messages_received_total[1m]) > 1")
    scene.wait_for(
        "greenlang_iot_broker_dropped_messages"
    )  # told every ten seconds, looked at first
    scene.mosquitto.stop()
    scene.wait_for("sum(greenlang_iot_disconnects_total) > 0")
    scene.mosquitto.start()
    scene.gateway.wait_ready()

    publisher = scene.publish()
    scene.wait_for('sum(greenlang_iot_sink_delivered_readings_total{sink="influxdb"}) > 0')
    scene.influx.stop()
    scene.wait_for('sum(greenlang_iot_sink_spooled_readings_total{sink="influxdb"}) > 0')
    scene.influx.start()
    wanted = dashboard_expressions() | rule_expressions()
    empty = set(wanted)

    # A window's figures are there while devices speak: they speak until everything was seen.
    published = 0
    deadline = time.monotonic() + 120
    while empty and time.monotonic() < deadline:
        if publisher.poll() is not None:
            published += finished(publisher, SECONDS)["published"]
            publisher = scene.publish()
        empty = {name for name in empty if not scene.has_data(wanted[name])}
    assert not empty, "nothing came of these"
    published += finished(publisher, SECONDS + 60)["published"]
    scene.wait_for(f"sum(greenlang_iot_acks_sent_total) >= {published}")

    groups = scene.prometheus.get("rules")["groups"]
    failed = {
        rule["name"]: rule["lastError"]
        for g in groups
        for rule in g["rules"]
        if rule.get("lastError")
    }
    assert failed == {}
    assert sum(len(group["rules"]) for group in groups) == len(RULES)
