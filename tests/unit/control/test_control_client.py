"""What aiomqtt leaves behind when a connection ends under it."""

from greenlang_iot.mqtt.client import Client
from greenlang_iot.simulate.broker import Broker


async def test_a_lost_connection_that_nobody_waits_for_is_not_reported_by_asyncio() -> None:
    """asyncio reports a future whose exception nobody looked at, on stderr, when it goes away."""
    broker = Broker()
    await broker.start()
    async with Client("127.0.0.1", port=broker.port) as client:
        lost = client._disconnected
        client._on_disconnect(client._client, None, None, 128)  # as paho calls it
        assert lost.done()
        assert not lost._log_traceback
        assert lost.exception() is not None
    await broker.stop()
