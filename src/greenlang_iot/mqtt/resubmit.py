"""Publish messages again, each at QoS 1, and say of each whether the broker took it."""

from collections import deque
from collections.abc import AsyncIterator, Iterable

import aiomqtt

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.mqtt.client import Client, client_options, client_words
from greenlang_iot.settings.model import BrokerSettings

UNHEARD = "nobody subscribes to it: start the gateway first"


async def resubmit(
    broker: BrokerSettings, messages: Iterable[tuple[str, bytes]]
) -> AsyncIterator[str | None]:
    """Per message, in order: None when the broker acknowledged it, else why not.

    Raises GatewayError where the connection cannot be made or breaks.
    """
    waiting = deque(messages)
    refused = True
    try:
        while waiting and refused:  # some brokers end the connection after a refusal
            refused = False
            async with Client(**client_options(broker)) as client:
                while waiting and not refused:
                    refusal = await _publish(client, *waiting.popleft())
                    refused = client.refusal is not None
                    yield refusal
    except aiomqtt.MqttError as error:
        where = f"{broker.host}:{broker.port}"
        why = client_words(error, broker.host)
        raise GatewayError(f"publishing to the broker at {where} failed: {why}") from error


async def _publish(client: Client, topic: str, payload: bytes) -> str | None:
    client.refusal, client.unheard = None, False
    try:
        await client.publish(topic, payload, qos=1)
    except ValueError as error:  # paho refuses the topic before it is sent
        return f"the topic cannot be published to: {error}"
    return client.refusal or (UNHEARD if client.unheard else None)
