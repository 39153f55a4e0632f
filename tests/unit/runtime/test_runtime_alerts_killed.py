"""Alerts of the gateway as its users run it, killed in between: by id, everywhere, with what people said of them."""

import asyncio
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import mqtt5
import orjson
import pytest
from tests.fakes.mqtt_client import RawClient
from tests.fakes.ports import free_port
from tests.services.gateway_process import GatewayProcess

from greenlang_iot.simulate.broker import Broker
from greenlang_iot.sinks.lake_query import LakeReader

DEVICES = [f"m{n}" for n in range(4)]
RULES = """version: 1
rules:
  - name: too-much
    match: {metric: power}
    range: {above: 900, clear: 500}
    severity: critical
    labels: {team: grid}
    group: {devices: 3, window: 10m}
"""


class Site:
    def __init__(self, folder: Path, broker: Broker) -> None:
        self.port = broker.port
        self.folder = folder
        types = {"meter": {"metrics": {"power": {"unit": "W", "range": [0, 1000]}}}}
        devices = [{"id": name, "org": "o", "site": "s", "type": "meter"} for name in DEVICES]
        registry = folder / "registry.json"
        registry.write_bytes(orjson.dumps({"version": 1, "types": types, "devices": devices}))
        (folder / "rules.yaml").write_text(RULES)
        settings = {
            "data_dir": str(folder / "data"),
            "mqtt": {"brokers": [{"host": "127.0.0.1", "port": broker.port}], "discovery": False},
            "alerts": {"rules_file": str(folder / "rules.yaml")},
            "detect": {"enabled": False},
            "admin": {"port": free_port()},
            "runtime": {"shards": 1},
        }
        self.gateway = GatewayProcess(folder, settings, registry)

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        token = (self.folder / "data" / "admin-token").read_text().strip()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.gateway.port}/api/v1/{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def states(self) -> dict[tuple[str, str], str]:
        """(device, "" for the incident; rule) → state, of every alert that the API knows."""
        found = self.ask("GET", "alerts")["alerts"]
        return {(a["device"], a["rule"]): a["state"] for a in found}

    def in_lake(self) -> dict[str, list[tuple[int, str]]]:
        """Alert id → (number, state) of its transitions, in order."""
        table = LakeReader(self.folder / "data" / "lake").query(
            "SELECT alert_id, number, state FROM alerts ORDER BY alert_id, number"
        )
        found: dict[str, list[tuple[int, str]]] = {}
        for row in table.to_pylist():
            found.setdefault(row["alert_id"], []).append((row["number"], row["state"]))
        return found


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[Site, RawClient]]:
    broker = Broker()
    await broker.start()
    site = Site(tmp_path, broker)
    try:
        await asyncio.to_thread(site.gateway.wait_ready)
        yield site, await RawClient.connected(broker.port, "device")
    finally:
        await asyncio.to_thread(site.gateway.end)
        await broker.stop()


async def retained(port: int) -> int:
    """Alerts that a new subscriber gets at once."""
    probe = await RawClient.connected(port, "probe")
    await probe.subscribe("greenlang/+/+/+/alert/#")
    probe.send(mqtt5.PingReqPacket())
    alerts = 0
    while isinstance(await probe.receive(), mqtt5.PublishPacket):
        alerts += 1
    return alerts


async def test_alerts_reconcile_by_id_over_a_kill(running: tuple[Site, RawClient]) -> None:
    site, client = running

    async def publish(power: float, *devices: str) -> None:
        for device in devices:
            body = orjson.dumps({"ts": time.time_ns(), "metric": "power", "value": power})
            await client.publish(f"greenlang/o/s/{device}/telemetry", body)

    await publish(950.0, *DEVICES[:3])
    incident = ("", "too-much")
    await until(lambda: incident in site.states(), "three meters are one incident")
    found = await asyncio.to_thread(site.ask, "GET", "alerts?limit=100")
    ids = {a["device"]: a["alert_id"] for a in found["alerts"]}
    assert await asyncio.to_thread(
        site.ask, "POST", f"alerts/{ids['m0']}/ack", {"by": "kim", "comment": "on it"}
    )
    silence = {"match": {"device": "m1"}, "reason": "works", "duration": 3600, "by": "kim"}
    made = await asyncio.to_thread(site.ask, "POST", "silences", silence)

    await asyncio.to_thread(site.gateway.kill_all)
    await publish(970.0, DEVICES[3])  # the broker keeps it
    await asyncio.to_thread(site.gateway.start)
    await asyncio.to_thread(site.gateway.wait_ready)

    # what people said is still there, and alerts are the same ones
    await until(lambda: site.states().get(("m3", "too-much")) == "open", "the fourth meter")
    shown = await asyncio.to_thread(site.ask, "GET", f"alerts/{ids['m0']}")
    assert (shown["state"], shown["by"], shown["labels"]) == (
        "acknowledged",
        "kim",
        {"team": "grid"},
    )
    shown = await asyncio.to_thread(site.ask, "GET", f"alerts/{ids['m1']}")
    assert (shown["state"], shown["flags"], shown["group"]) == ("open", ["silenced"], ids[""])
    listed = await asyncio.to_thread(site.ask, "GET", "silences")
    assert listed["silences"] == [made]

    await publish(100.0, *DEVICES)
    await until(lambda: set(site.states().values()) == {"resolved"}, "everything is over")
    book = await asyncio.to_thread(site.ask, "GET", "alerts?limit=100")
    assert {a["alert_id"] for a in book["alerts"]} >= set(ids.values())
    assert len(book["alerts"]) == 5
    numbers = {a["alert_id"]: a["number"] for a in book["alerts"]}
    await until(
        lambda: {k: v[-1][0] for k, v in site.in_lake().items()} == numbers, "the lake has all"
    )
    for history in (await asyncio.to_thread(site.in_lake)).values():
        assert [number for number, _ in history] == list(range(1, len(history) + 1))
        assert [state for _, state in history].count("resolved") == 1

    # over MQTT, which is told beside the lake, nothing is retained any more
    async with asyncio.timeout(60):
        while await retained(site.port):
            await asyncio.sleep(0.05)
