"""From a shard's outbox to MQTT, InfluxDB and the lake, with targets away and back."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiomqtt
import orjson
import pytest
from tests.fakes.influxdb2 import InfluxDB2
from tests.fakes.mqtt_client import RawClient

from greenlang_iot.model.outcomes import Transition
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime.courier import Courier
from greenlang_iot.runtime.folders import alerts_folder, lake_folder, outbox_folder
from greenlang_iot.settings.load import load
from greenlang_iot.settings.model import Settings
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.sinks.alert_store import AlertStore
from greenlang_iot.sinks.lake_query import LakeReader
from greenlang_iot.sinks.outbox import Outbox

SECOND = 1_000_000_000
START = 1_795_000_000 * SECOND


def transition(number: int, state: str, alert: str = "a1") -> Transition:
    return Transition(
        alert_id=alert,
        number=number,
        state=state,
        rule="spike",
        severity="critical",
        org="acme",
        site="north",
        device="d1",
        metric=f"temperature_{alert}",
        opened_ns=START,
        at_ns=START + number * SECOND,
        value=95.0,
        expected=21.0,
        band=2.0,
        score=0.9999,
        detector="spike",
        summary="temperature of d1 read 95 Cel",
    )


def settings(folder: Path, broker: int, influx: InfluxDB2) -> Settings:
    return load(
        None,
        {},
        {
            "data_dir": str(folder),
            "mqtt.brokers[0].port": broker,
            "sinks.influxdb.enabled": True,
            "sinks.influxdb.url": influx.url,
            "sinks.influxdb.token": influx.token,
        },
    ).settings


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


async def test_every_target_gets_every_transition_once_it_is_there(tmp_path: Path) -> None:
    broker = Broker()
    port = await broker.start()
    async with InfluxDB2() as influx:
        given = settings(tmp_path, port, influx)
        await influx.stop()  # away at first; the gateway must start all the same
        counters = Counters.local()
        told: list[str] = []
        store = AlertStore(alerts_folder(given), given.alerts)
        courier = Courier(given, counters, store, lambda item: told.append(item["state"]))
        running = asyncio.ensure_future(courier.run())
        outbox = Outbox(outbox_folder(given) / "shard-0", 1 << 20)
        await outbox.durable(outbox.append([transition(1, "open"), transition(1, "open", "a2")]))
        await outbox.durable(outbox.append([transition(2, "resolved")]))

        def delivered(target: str) -> float:
            return counters.get(cell("alerts_delivered", target=target))

        await until(lambda: delivered("mqtt") == 3 and delivered("lake") == 3)
        assert told == ["open", "open", "resolved"]
        assert counters.get(cell("alerts_open", severity="critical")) == 1
        assert not running.done()
        assert counters.get(cell("alerts_open", severity="info")) == 0
        await until(lambda: counters.get(cell("control_up")) == 1)
        await until(lambda: counters.get(cell("alerts_failed", target="influxdb")) > 0)
        await influx.start()
        await until(lambda: delivered("influxdb") == 3)

        points = [p for p in influx.points() if p["measurement"] == "alerts"]
        found = {(p["fields"]["alert_id"], p["tags"]["state"]) for p in points}
        assert found == {("a1", "open"), ("a2", "open"), ("a1", "resolved")}
        rows = LakeReader(lake_folder(given)).query(
            "SELECT transition_id FROM alerts ORDER BY transition_id"
        )
        assert rows.column(0).to_pylist() == ["a1-1", "a1-2", "a2-1"]
        async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe("greenlang/acme/+/+/alert/#")
            async with asyncio.timeout(20):
                message = await anext(aiter(client.messages))
        # only the alert that is still open is retained
        assert orjson.loads(message.payload)["alert_id"] == "a2"

        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()
        await outbox.close()
    await broker.stop()


async def test_another_gateway_of_the_same_name_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alerts cannot go to MQTT any more, and nobody but this connection knows why."""
    broker = Broker()
    port = await broker.start()
    given = load(None, {}, {"data_dir": str(tmp_path), "mqtt.brokers[0].port": port}).settings
    counters = Counters.local()
    store = AlertStore(alerts_folder(given), given.alerts)
    running = asyncio.ensure_future(Courier(given, counters, store).run())
    await until(lambda: counters.get(cell("control_up")) == 1)
    await RawClient.connected(port, "gateway-control")
    said = ""

    def is_said() -> bool:
        nonlocal said
        said += "".join(capsys.readouterr())
        return "give every gateway its own `instance`" in said

    await until(is_said)
    await until(lambda: counters.get(cell("control_up")) == 0)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.close()
    await broker.stop()


async def test_what_was_not_delivered_comes_again_after_a_restart(tmp_path: Path) -> None:
    broker = Broker()
    port = await broker.start()
    async with InfluxDB2() as influx:
        given = settings(tmp_path, port, influx)
        await influx.stop()
        outbox = Outbox(outbox_folder(given) / "shard-0", 1 << 20)
        await outbox.durable(outbox.append([transition(1, "open")]))
        first = Counters.local()
        store = AlertStore(alerts_folder(given), given.alerts)
        running = asyncio.ensure_future(Courier(given, first, store).run())
        await until(lambda: first.get(cell("alerts_failed", target="influxdb")) > 0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()

        await influx.start()
        second = Counters.local()
        store = AlertStore(alerts_folder(given), given.alerts)
        running = asyncio.ensure_future(Courier(given, second, store).run())
        await until(lambda: second.get(cell("alerts_delivered", target="influxdb")) == 1)
        assert [p["fields"]["alert_id"] for p in influx.points()] == ["a1"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await store.close()
        await outbox.close()
    await broker.stop()
