"""What aiomqtt leaves behind when a connection ends under it."""

import asyncio

import mqtt5
import pytest
from tests.fakes.mqtt_broker import CONNECT, SUBSCRIBE, fake_broker
from tests.fakes.mqtt_client import RawClient

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.mqtt.client import Client
from greenlang_iot.mqtt.listen import listen
from greenlang_iot.settings.model import BrokerSettings
from greenlang_iot.simulate.broker import Broker


async def test_a_lost_connection_that_nobody_waits_for_is_not_reported_by_asyncio() -> None:
    """asyncio reports a future whose exception nobody looked at, on stderr, when it goes away."""
    client = Client("127.0.0.1")
    client._connected.set_result(None)
    client._on_disconnect(client._client, None, None, 128)  # as paho calls it
    assert client._disconnected.done()
    assert not client._disconnected._log_traceback
    assert client._disconnected.exception() is not None


async def test_the_broker_is_told_the_largest_packet_and_drops_what_is_larger() -> None:
    broker = Broker()
    await broker.start()
    heard: list[tuple[str, bytes]] = []
    enough = asyncio.Event()

    def received(topic: str, payload: bytes) -> None:
        heard.append((topic, payload))
        enough.set()

    settings = BrokerSettings(port=broker.port, maximum_packet_size=1_000)
    listening = asyncio.create_task(listen(settings, ["a/#"], 30, received))
    sender = await RawClient.connected(broker.port, "sender")
    while not heard:  # until it has subscribed
        sender.send(
            mqtt5.PublishPacket("a/large", bytes(1_000)), mqtt5.PublishPacket("a/small", b"x")
        )
        await sender.silent()
        await asyncio.sleep(0.001)
    await enough.wait()
    listening.cancel()
    await asyncio.wait({listening})
    await broker.stop()
    assert {topic for topic, _ in heard} == {"a/small"}


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_of_a_larger_packet_nothing_is_read(protocol: str) -> None:
    """A broker that was not told (3.1.1), or does not care."""
    settings = BrokerSettings.model_validate({"protocol": protocol, "maximum_packet_size": 1_000})
    async with fake_broker() as broker:
        settings = settings.model_copy(update={"port": broker.port})
        listening = asyncio.create_task(listen(settings, ["a/#"], 30, lambda topic, payload: None))
        peer = await broker.peer()
        await peer.expect(CONNECT)
        properties = b"\x00" if protocol == "5" else b""
        peer.send(b"\x20", bytes([2 + len(properties)]), b"\x00\x00", properties)
        asked = await peer.expect(SUBSCRIBE)
        peer.send(b"\x90", bytes([3 + len(properties)]), asked[2:4], properties, b"\x00")
        peer.send(b"\x30\xff\xff\xff\x7f")  # 256 MB are to follow
        with pytest.raises(GatewayError, match=r": it sent a packet of more than 1000 bytes"):
            await listening
