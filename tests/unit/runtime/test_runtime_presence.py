"""Presence over a broker: retained status messages, a broker that goes and comes back."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.fakes.directory import directory
from tests.fakes.mqtt_client import RawClient

from greenlang_iot.alerts.presence import Presence
from greenlang_iot.runtime import presence as presence_module
from greenlang_iot.runtime.presence import PresenceWatch
from greenlang_iot.settings.load import load
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.sinks.alert_store import AlertStore


async def test_offline_is_an_alert_at_once(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(presence_module, "BACKOFF_MAX", 0.05)
    broker = Broker()
    port = await broker.start()
    overrides = {"data_dir": str(tmp_path), "mqtt.brokers[0].port": port}
    settings = load(None, {}, overrides | {"alerts.presence": "warning"}).settings
    store = AlertStore(tmp_path / "alerts", settings.alerts)
    states: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def heard(published) -> None:  # type: ignore[no-untyped-def]
        for t in published.transitions:
            states.put_nowait((t["device"], t["state"]))

    store.listen(heard)
    client = await RawClient.connected(port, "device")
    await client.publish("greenlang/acme/site-0/d000/status", b"offline", retain=True)
    fleet = directory(2, sites=1)
    watch = asyncio.ensure_future(PresenceWatch(settings, store, lambda: fleet).run())
    async with asyncio.timeout(20):
        assert await states.get() == ("d000", "open")
        await client.publish("greenlang/acme/site-0/d001/status", b"offline", retain=True)
        assert await states.get() == ("d001", "open")
        await client.publish("greenlang/acme/site-0/d000/status", b"online", retain=True)
        assert await states.get() == ("d000", "resolved")
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await store.close()
    await broker.stop()


async def test_a_certificate_that_is_not_there_is_a_broker_that_is_away(tmp_path: Path) -> None:
    """It is read anew for every connection, and what a connection raised ended the gateway."""
    tls = {"mqtt.brokers[0].tls.ca_file": str(tmp_path / "ca.crt"), "mqtt.brokers[0].port": 1}
    overrides = {"data_dir": str(tmp_path), "alerts.presence": "warning"}
    settings = load(None, {}, overrides | tls).settings
    store = AlertStore(tmp_path / "alerts", settings.alerts)
    fleet = directory(2, sites=1)
    with capture_logs() as said:
        watch = asyncio.ensure_future(PresenceWatch(settings, store, lambda: fleet).run())
        async with asyncio.timeout(30):
            while not said and not watch.done():
                await asyncio.sleep(0.001)
    assert not watch.done()
    assert "ca.crt cannot be read: No such file" in said[0]["why"]
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await store.close()


async def test_a_device_that_floods_its_status_costs_its_newest_one_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change is synced to disk; what came meanwhile waited in memory, without bound."""
    overrides = {"data_dir": str(tmp_path), "alerts.presence": "warning"}
    store = AlertStore(tmp_path / "alerts", (settings := load(None, {}, overrides).settings).alerts)
    taken: list[tuple[str, str]] = []
    slow = asyncio.Event()

    async def take(transitions: list[dict[str, Any]]) -> None:
        taken.extend((t["device"], t["state"]) for t in transitions)
        await slow.wait()

    monkeypatch.setattr(store, "take", take)
    fleet = directory(2, sites=1)
    watch = PresenceWatch(settings, store, lambda: fleet)
    presence = Presence(store.book, fleet, "warning")
    telling = asyncio.ensure_future(watch._tell_changes(presence))
    topic = "greenlang/acme/site-0/d00%d/status"
    watch._note(presence, topic % 0, b"offline")
    while not taken:
        await asyncio.sleep(0)
    for _ in range(1_000):
        watch._note(presence, topic % 0, b"online")
        watch._note(presence, topic % 1, b"online")
        watch._note(presence, topic % 1, b"offline")
        watch._note(presence, "greenlang/acme/site-0/nobody/status", b"offline")
        watch._note(presence, "greenlang/acme/site-0/d001/status/more", b"offline")
    assert len(watch._news) == 2
    slow.set()
    while watch._news or len(taken) < 3:
        await asyncio.sleep(0)
    assert taken == [("d000", "open"), ("d000", "resolved"), ("d001", "open")]
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    await store.close()
