"""The shipped Mosquitto configuration: rights per device, and queues that lose nothing."""

import asyncio
import ssl
import time
from collections.abc import Iterator

import aiomqtt
import pytest
from tests.services import mosquitto_server
from tests.services.mosquitto_server import USERS, Mosquitto

from greenlang_iot.model.errors import MqttError
from greenlang_iot.simulate.manifest import Message
from greenlang_iot.simulate.publisher import Publisher, Target

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        mosquitto_server.missing() is not None, reason=str(mosquitto_server.missing())
    ),
]
TELEMETRY = "greenlang/acme/plant-a/{}/telemetry"


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    server = Mosquitto(tmp_path_factory.mktemp("mosquitto"))
    yield server
    server.stop()


def context(server: Mosquitto) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(server.ca_file))


def target(server: Mosquitto, user: str, password: str | None = None) -> Target:
    return Target(
        "127.0.0.1", server.port, context(server), user, password or USERS[user], f"test-{user}"
    )


def client(server: Mosquitto, user: str, name: str = "reader") -> aiomqtt.Client:
    """A client with a session that outlives its connections."""
    return aiomqtt.Client(
        "127.0.0.1",
        server.port,
        username=user,
        password=USERS[user],
        tls_context=context(server),
        protocol=aiomqtt.ProtocolVersion.V311,
        identifier=f"{name}-{user}",
        clean_session=False,
    )


class Records:
    def __init__(self) -> None:
        self.confirmed: set[str] = set()
        self.count = 0

    def __call__(self, message: Message, confirmed: bool) -> None:
        self.count += confirmed
        if confirmed:
            self.confirmed.add(message.topic)


async def test_a_device_may_only_publish_as_itself(mosquitto: Mosquitto) -> None:
    """`operator` stands for a device of that name; `simulator` may speak for every device."""
    own, foreign = TELEMETRY.format("operator"), TELEMETRY.format("em-main-a")
    messages = [Message(0.0, topic, b"x", []) for topic in (own, foreign)]
    async with client(mosquitto, "gateway", "acl") as gateway:
        await gateway.subscribe("greenlang/+/+/+/telemetry", qos=1)
        device, simulator = Records(), Records()
        progress = await Publisher(target(mosquitto, "operator"), device).run(messages)
        await Publisher(target(mosquitto, "simulator"), simulator).run(messages)
    assert device.confirmed == {own}
    assert progress.refused == 1
    assert simulator.confirmed == {own, foreign}


async def test_a_wrong_password_is_refused_in_words(mosquitto: Mosquitto) -> None:
    with pytest.raises(MqttError, match="refused the connection: "):
        await Publisher(target(mosquitto, "gateway", "wrong"), Records()).run([])


async def test_the_queue_of_an_absent_gateway_loses_nothing(mosquitto: Mosquitto) -> None:
    """The broker's defaults keep 1,000 messages of an absent client; 20,000 must survive here."""
    count = 20_000
    async with client(mosquitto, "gateway") as gateway:
        await gateway.subscribe("greenlang/+/+/+/telemetry", qos=1)
    records = Records()
    messages = (Message(0.0, TELEMETRY.format(f"d{i % 50}"), b"%d" % i, []) for i in range(count))
    start = time.perf_counter()
    progress = await Publisher(target(mosquitto, "simulator"), records, connections=4).run(messages)
    rate = count / (time.perf_counter() - start)
    print(f"published {rate:,.0f} msg/s at QoS 1 over TLS")
    assert (progress.acknowledged, progress.unheard, records.count) == (count, 0, count)

    seen: set[int] = set()
    async with client(mosquitto, "gateway") as gateway, asyncio.timeout(60):
        async for message in gateway.messages:
            seen.add(int(bytes(message.payload)))  # type: ignore[arg-type]
            if len(seen) == count:
                break
    assert len(seen) == count
