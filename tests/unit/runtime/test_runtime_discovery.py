"""Discovery against the embedded broker: it reports, and ingests nothing."""

import asyncio
from pathlib import Path

import aiomqtt
import pytest
from structlog.testing import capture_logs
from tests.fakes.directory import directory

from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime.discovery import Discovery
from greenlang_iot.settings.model import BrokerSettings, MqttSettings, TlsSettings
from greenlang_iot.simulate.broker import Broker


async def test_unregistered_sites_are_reported_once() -> None:
    broker = Broker()
    port = await broker.start()
    settings = MqttSettings(brokers=[BrokerSettings(host="127.0.0.1", port=port)])
    counters = Counters.local()
    discovery = Discovery(settings, directory(4, sites=2), counters, watch=30.0)
    running = asyncio.ensure_future(discovery.run())
    async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        async with asyncio.timeout(30):
            while len(discovery.unregistered) < 2:
                for topic in (
                    "greenlang/acme/site-1/d001/telemetry",
                    "greenlang/acme/nowhere/d001/telemetry",
                    "greenlang/other/site-1/d001/telemetry",
                    "greenlang/acme/site-1/telemetry",
                ):
                    await client.publish(topic, b"{}", qos=1)
    assert discovery.unregistered == {("acme", "nowhere"), ("other", "site-1")}
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await broker.stop()


async def test_a_look_ends_and_is_counted() -> None:
    broker = Broker()
    port = await broker.start()
    settings = MqttSettings(brokers=[BrokerSettings(host="127.0.0.1", port=port)])
    counters = Counters.local()
    running = asyncio.ensure_future(Discovery(settings, directory(4), counters, watch=0.5).run())
    async with (
        aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client,
        asyncio.timeout(30),
    ):
        while counters.get(cell("unregistered_sites")) != 1:  # it is set when a look is over
            await client.publish("greenlang/acme/s77/d1/telemetry", b"{}")
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await broker.stop()


async def test_a_broker_that_is_away_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("greenlang_iot.runtime.discovery.EVERY", 0.0)
    looks: list[BrokerSettings] = []

    class Counted(Discovery):
        async def _look(self, broker: BrokerSettings) -> None:
            await super()._look(broker)
            looks.append(broker)

    settings = MqttSettings(brokers=[BrokerSettings(host="127.0.0.1", port=1)])
    discovery = Counted(settings, directory(4), Counters.local(), watch=0.05)
    running = asyncio.ensure_future(discovery.run())
    async with asyncio.timeout(30):
        while len(looks) < 2:
            assert not running.done()
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_certificate_that_is_not_there_is_no_failure(tmp_path: Path) -> None:
    """It is read anew for every look, and what a look raised ended the gateway."""
    tls = TlsSettings(ca_file=tmp_path / "ca.crt")
    broker = BrokerSettings(host="127.0.0.1", port=1, tls=tls)
    discovery = Discovery(MqttSettings(brokers=[broker]), directory(4), Counters.local())
    with capture_logs() as said:
        await asyncio.wait_for(discovery._look(broker), 30)
    assert "ca.crt cannot be read: No such file" in said[0]["why"]
