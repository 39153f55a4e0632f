import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mqtt5
import pytest
from tests.fakes.alerts import SPIKE
from tests.fakes.mqtt_client import RawClient

from greenlang_iot.model.errors import MqttError
from greenlang_iot.mqtt.control import ControlPlane, alert_topic
from greenlang_iot.settings.model import BrokerSettings
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.simulate.broker_router import BrokerOptions
from greenlang_iot.simulate.ca import loopback, server_context


@contextlib.asynccontextmanager
async def running(plane: ControlPlane) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(plane.run())
    try:
        await asyncio.wait_for(plane.wait_connected(), 30)
        yield task
    finally:
        await plane.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, MqttError):
            await task


@pytest.fixture
async def broker() -> AsyncIterator[Broker]:
    broker = Broker()
    await broker.start()
    yield broker
    await broker.stop()


def plane_at(broker: Broker) -> ControlPlane:
    return ControlPlane(BrokerSettings(host="127.0.0.1", port=broker.port), "gw")


async def watcher(broker: Broker, *filters: str) -> RawClient:
    client = await RawClient.connected(broker.port, "watcher")
    await client.subscribe(*filters)
    return client


async def received(client: RawClient) -> tuple[str, dict[str, object] | None]:
    packet = await client.expect(mqtt5.PublishPacket)
    if packet.packet_id is not None:
        client.send(mqtt5.PubAckPacket(packet.packet_id))
    return packet.topic, json.loads(packet.payload) if packet.payload else None


async def test_status_is_online_then_offline(broker: Broker) -> None:
    client = await watcher(broker, "greenlang/_gateway/#")
    plane = plane_at(broker)
    async with running(plane) as task:
        topic, body = await received(client)
        assert topic == "greenlang/_gateway/gw/status"
        assert body is not None
        assert (body["status"], body["instance"]) == ("online", "gw")
        await plane.close()
        _, body = await received(client)
        assert body == {"v": 1, "instance": "gw", "status": "offline"}
        await asyncio.wait_for(task, 30)
    assert not plane.connected
    late = await RawClient.connected(broker.port, "late")
    await late.subscribe("greenlang/_gateway/#")
    assert (await received(late))[1] == {"v": 1, "instance": "gw", "status": "offline"}


async def test_alerts_are_retained_while_open_and_emptied_at_the_end(broker: Broker) -> None:
    plane = plane_at(broker)
    topic = alert_topic(SPIKE)
    live = await watcher(broker, "greenlang/+/+/+/alert/#")
    async with running(plane):
        await plane.publish_alerts([replace(SPIKE, state="pending", number=0)])
        assert (await received(live))[1]["state"] == "pending"  # type: ignore[index]
        early = await RawClient.connected(broker.port, "early")
        await early.subscribe("greenlang/#")
        assert (await received(early))[0].startswith("greenlang/_gateway")
        await early.silent()

        await plane.publish_alerts([SPIKE])
        assert await received(live) == (topic, SPIKE.as_dict())
        late = await RawClient.connected(broker.port, "late")
        await late.subscribe(topic)
        assert await received(late) == (topic, SPIKE.as_dict())

        resolved = replace(SPIKE, state="resolved", number=2)
        await plane.publish_alerts([resolved])
        assert await received(live) == (topic, resolved.as_dict())
        assert await received(live) == (topic, None)
        after = await RawClient.connected(broker.port, "after")
        await after.subscribe(topic)
        await after.silent()


@pytest.mark.parametrize(
    ("change", "topic"),
    [
        ({}, "greenlang/acme/north/d1/alert/a1"),
        ({"device": ""}, "greenlang/acme/north/_/alert/a1"),
        ({"org": "", "site": "", "device": ""}, "greenlang/_/_/_/alert/a1"),
    ],
)
def test_alert_topics(change: dict[str, str], topic: str) -> None:
    assert alert_topic(replace(SPIKE, **change)) == topic  # type: ignore[arg-type]


async def test_many_alerts_share_round_trips_and_keep_their_order(broker: Broker) -> None:
    live = await watcher(broker, "greenlang/acme/#")
    plane = plane_at(broker)
    most = now = 0
    async with running(plane):
        assert plane._client is not None
        publish = plane._client.publish

        async def counted(*arguments: Any, **options: Any) -> None:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await publish(*arguments, **options)
            now -= 1

        plane._client.publish = counted  # type: ignore[method-assign]
        transitions = [
            replace(SPIKE, alert_id=f"a{n % 7}", number=n, state="resolved" if n > 20 else "open")
            for n in range(25)
        ]
        await plane.publish_alerts(transitions)
        bodies = [(await received(live))[1] for _ in range(29)]
    assert most == 10
    numbers = [body["number"] if body else None for body in bodies]
    assert numbers == [*range(21), 21, None, 22, None, 23, None, 24, None]


async def test_reconnects_and_raises_meanwhile() -> None:
    first = Broker()
    port = await first.start()
    plane = plane_at(first)
    async with running(plane):
        await first.stop()

        async def publish_until_it_fails() -> None:
            while True:
                await plane.publish_alerts([SPIKE])

        with pytest.raises(MqttError) as caught:
            await publish_until_it_fails()
        assert caught.value.retryable
        second = Broker(port=port)
        await second.start()
        await asyncio.wait_for(plane.wait_connected(), 30)
        await plane.publish_alerts([SPIKE])
        client = await watcher(second, "greenlang/+/+/+/alert/#")
        assert await received(client) == (alert_topic(SPIKE), SPIKE.as_dict())
        await plane.close()
        await second.stop()


async def test_the_last_will_says_offline_when_the_connection_is_cut(broker: Broker) -> None:
    plane = plane_at(broker)
    async with running(plane):
        client = await watcher(broker, "greenlang/_gateway/#")
        assert (await received(client))[1]["status"] == "online"  # type: ignore[index]
        # another client with the same id makes the broker send the will
        await RawClient.connected(broker.port, "gw-control")
        assert (await received(client))[1]["status"] == "offline"  # type: ignore[index]


async def test_taken_over_stops_and_says_so(broker: Broker) -> None:
    plane = plane_at(broker)
    async with running(plane) as task:
        await RawClient.connected(broker.port, "gw-control")
        with pytest.raises(MqttError, match="its own `instance`") as caught:
            await asyncio.wait_for(task, 30)
        assert not caught.value.retryable


async def test_over_tls_with_user_and_password(tmp_path: Path) -> None:
    ca_file, identity = loopback(tmp_path)
    options = BrokerOptions(users={"u": "p"})
    broker = Broker(tls=server_context(identity), options=options)
    await broker.start()
    settings = BrokerSettings.model_validate(
        {
            "host": "localhost",
            "port": broker.port,
            "tls": {"ca_file": ca_file},
            "username": "u",
            "password": "p",
        }
    )
    plane = ControlPlane(settings, "gw")
    async with running(plane):
        await plane.publish_alerts([SPIKE])
    unverified = settings.model_copy(
        update={"tls": settings.tls.model_copy(update={"ca_file": None, "verify": False})}  # type: ignore[union-attr]
    )
    async with running(ControlPlane(unverified, "gw")):
        pass
    await broker.stop()


async def test_a_refused_message_is_an_error() -> None:
    """A broker whose ACL forbids alerts answers with a PUBACK that is no success."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = b""
        while data := await reader.read(4_096):
            buffer += data
            with contextlib.suppress(IndexError):
                while True:
                    packet, used = mqtt5.read(memoryview(buffer))
                    buffer = buffer[used:]
                    if isinstance(packet, mqtt5.ConnectPacket):
                        writer.write(mqtt5.ConnAckPacket().write())
                    elif isinstance(packet, mqtt5.PublishPacket):
                        allowed = packet.topic.endswith("/status")
                        code = mqtt5.PubAckReasonCode
                        reason = code.SUCCESS if allowed else code.NOT_AUTHORIZED
                        answer = mqtt5.PubAckPacket(packet.packet_id or 0, reason_code=reason)
                        writer.write(answer.write())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    plane = ControlPlane(BrokerSettings(port=port), "gw")
    async with running(plane):
        with pytest.raises(MqttError, match="refused a message to greenlang/acme") as caught:
            await plane.publish_alerts([SPIKE])
        assert caught.value.reason == "publish_refused"
    server.close()
