"""What aiomqtt leaves behind when a connection ends under it."""

from greenlang_iot.mqtt.client import Client


async def test_a_lost_connection_that_nobody_waits_for_is_not_reported_by_asyncio() -> None:
    """asyncio reports a future whose exception nobody looked at, on stderr, when it goes away."""
    client = Client("127.0.0.1")
    client._connected.set_result(None)
    client._on_disconnect(client._client, None, None, 128)  # as paho calls it
    assert client._disconnected.done()
    assert not client._disconnected._log_traceback
    assert client._disconnected.exception() is not None
