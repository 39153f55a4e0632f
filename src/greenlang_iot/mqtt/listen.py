"""Listen to a broker for a while, beside the data plane: for discovery, over aiomqtt."""

import asyncio
from collections.abc import Callable, Sequence

import aiomqtt

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.mqtt.client import Client, client_options, client_words
from greenlang_iot.settings.model import BrokerSettings

Received = Callable[[str, bytes], None]
"""(topic, payload)"""


async def listen(
    broker: BrokerSettings, filters: Sequence[str], seconds: float, received: Received
) -> None:
    """Tell `received` every message of the filters for so long. Raises GatewayError.

    QoS 0 and a clean session of its own: the broker keeps nothing for us, and no other client's
    messages are taken away.
    """
    where = f"{broker.host}:{broker.port}"
    try:
        async with Client(**client_options(broker)) as client:
            granted = await client.subscribe([(topic_filter, 0) for topic_filter in filters])
            codes = granted if isinstance(granted, tuple | list) else ()
            for topic_filter, code in zip(filters, codes, strict=False):
                if getattr(code, "is_failure", code == 128):
                    raise GatewayError(
                        f"the broker at {where} does not let us subscribe to {topic_filter}: {code}"
                    )
            try:
                async with asyncio.timeout(seconds):
                    async for message in client.messages:
                        if isinstance(message.payload, bytes):
                            received(str(message.topic), message.payload)
            except TimeoutError:
                return
    except aiomqtt.MqttError as error:
        why = client_words(error, broker.host)
        raise GatewayError(f"cannot listen to the broker at {where}: {why}") from error
