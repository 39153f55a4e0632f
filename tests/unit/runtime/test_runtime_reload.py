"""Reload without restart, on the gateway as its users run it."""

import asyncio
import copy
import json
import os
import signal
import stat
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests.fakes.mqtt_client import RawClient
from tests.fakes.ports import free_port
from tests.services.gateway_process import GatewayProcess

from greenlang_iot.settings.model import Settings
from greenlang_iot.settings.reload import reload_settings
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.sinks.lake_query import LakeReader

TYPES = {"meter": {"metrics": {"power": {"unit": "W", "range": [0, 1000]}}}}
FIRST = {
    "version": 1,
    "types": TYPES,
    "devices": [{"id": "m1", "org": "o", "site": "s", "type": "meter"}],
}


class Running:
    """A gateway in a process of its own, its registry, and a device that publishes."""

    def __init__(self, folder: Path, broker_port: int) -> None:
        self.folder = folder
        self.registry = folder / "registry.json"
        self.write(FIRST)
        self.settings: dict[str, Any] = {
            "data_dir": str(folder / "data"),
            "mqtt": {"brokers": [{"host": "127.0.0.1", "port": broker_port}], "discovery": False},
            "admin": {"port": free_port()},
            "runtime": {"shards": 1},
        }
        self.process = GatewayProcess(folder, self.settings, self.registry)

    def write(self, document: object) -> None:
        self.registry.write_bytes(orjson.dumps(document))

    def post(self, token: str | None) -> tuple[int, dict[str, Any]]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.process.port}/-/reload", method="POST", headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    @property
    def token_file(self) -> Path:
        return self.folder / "data" / "admin-token"

    def reload(self) -> tuple[int, dict[str, Any]]:
        return self.post(self.token_file.read_text().strip())

    def rows(self) -> list[tuple[str, str, float, str]]:
        table = LakeReader(self.folder / "data" / "lake").query(
            "SELECT device, metric, value, unit FROM readings ORDER BY ts"
        )
        return [tuple(row.values()) for row in table.to_pylist()]


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[Running, RawClient]]:
    broker = Broker()
    await broker.start()
    gateway = Running(tmp_path, broker.port)
    try:
        await asyncio.to_thread(gateway.process.wait_ready)
        yield gateway, await RawClient.connected(broker.port, "device")
    finally:
        await asyncio.to_thread(gateway.process.end)
        await broker.stop()


async def test_a_reload_takes_what_it_can_and_says_the_rest(
    running: tuple[Running, RawClient],
) -> None:
    gateway, client = running

    async def publish(device: str, values: dict[str, float], site: str = "s") -> None:
        body = orjson.dumps({"ts": time.time_ns(), "values": values})
        await client.publish(f"greenlang/o/{site}/{device}/telemetry", body)

    # a token is needed, and it is nobody else's
    assert stat.S_IMODE(gateway.token_file.stat().st_mode) == 0o600
    for wrong in (None, "", "x" * 43):
        status, document = await asyncio.to_thread(gateway.post, wrong)
        assert (status, "reloaded" in document) == (401, False)

    await publish("m1", {"power": 5.0})
    await until(lambda: gateway.rows() == [("m1", "power", 5.0, "W")], "the first reading")

    # a bad file is refused with its reasons, and the old one goes on
    bad = copy.deepcopy(FIRST)
    bad["devices"][0]["type"] = "metre"  # type: ignore[index]
    gateway.write(bad)
    status, document = await asyncio.to_thread(gateway.reload)
    assert status == 422
    assert document["reloaded"] is False
    assert 'did you mean "meter"?' in document["reasons"][0]
    await publish("m1", {"power": 6.0})
    await until(lambda: len(gateway.rows()) == 2, "the old registry goes on")

    # a device, a metric and a unit more; a site that needs a restart; a setting of each kind
    second = copy.deepcopy(FIRST)
    second["types"] = {
        "meter": {"metrics": {"power": {"unit": "kW"}, "energy": {"unit": "kWh"}}},
    }
    second["devices"] = [
        {"id": name, "org": "o", "site": site, "type": "meter"}
        for name, site in (("m2", "s"), ("m1", "s"), ("m3", "elsewhere"))
    ]
    gateway.write(second)
    config = gateway.folder / "gateway.yaml"
    gateway.settings |= {"alerts": {"cooldown": 1}, "instance": "other"}
    config.write_bytes(orjson.dumps(gateway.settings))
    status, document = await asyncio.to_thread(gateway.reload)
    assert status == 200
    assert document == {
        "reloaded": True,
        "devices": {"registered": 3, "added": 2, "removed": 0},
        "alert_rules": 0,
        "settings": ["alerts.cooldown"],
        "needs_restart": ["setting instance", "site o/elsewhere: 1 device not subscribed to"],
    }
    said = [json.loads(x) for x in gateway.process.log.read_text().splitlines() if "{" in x]
    assert [e["level"] for e in said if e["event"] == "reloaded"][-1] == "warning"
    await publish("m1", {"power": 7.0, "energy": 8.0})
    await publish("m2", {"power": 9.0})
    expected = [("m1", "power", 5.0, "W"), ("m1", "power", 6.0, "W")]
    expected += [("m1", "power", 7.0, "kW"), ("m1", "energy", 8.0, "kWh")]
    expected += [("m2", "power", 9.0, "kW")]
    await until(lambda: sorted(gateway.rows()) == sorted(expected), "the new registry")

    # SIGHUP does the same; a removed device is unknown again
    gateway.write(FIRST)
    os.kill(gateway.process._process.pid, signal.SIGHUP)
    await until(
        lambda: gateway.process.log.read_text().count('"needs_restart"') >= 2, "SIGHUP reloads"
    )
    await publish("m2", {"power": 10.0})
    await publish("m1", {"power": 11.0})
    expected += [("m1", "power", 11.0, "W")]
    await until(lambda: sorted(gateway.rows()) == sorted(expected), "the first registry again")

    await asyncio.to_thread(gateway.process.stop)
    letters = list((gateway.folder / "data" / "dead-letter").rglob("dead-letters-*.jsonl"))
    reasons = [json.loads(line)["paths"] for path in letters for line in path.open()]
    assert reasons == [[{"path": "", "reason": "unknown_device"}]]
    audit = gateway.folder / "data" / "audit.jsonl"
    assert stat.S_IMODE(audit.stat().st_mode) == 0o600
    audited = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["action"], line["actor"], line["outcome"]) for line in audited] == [
        ("reload", "admin token from 127.0.0.1", "refused"),
        ("reload", "admin token from 127.0.0.1", "done"),
        ("reload", "SIGHUP", "done"),
    ]


def test_only_what_can_be_taken_over_is() -> None:
    wanted = Settings.model_validate(
        {
            "limits": {"max_age": 5, "unknown_devices": "accept"},
            "detect": {"threshold": 9, "second_stage": {"models": 3}},
            "runtime": {"shards": 7},
            "log": {"level": "error"},
        }
    )
    done = reload_settings(Settings(), wanted)
    assert done.applied == ("limits.max_age", "detect.threshold", "log.level")
    assert done.needs_restart == (
        "limits.unknown_devices",
        "detect.second_stage.models",
        "runtime.shards",
    )
    assert done.settings.limits.max_age == 5
    assert done.settings.limits.unknown_devices == "reject"
    assert done.settings.runtime.shards == Settings().runtime.shards
    again = reload_settings(done.settings, wanted)
    assert again.applied == ()
