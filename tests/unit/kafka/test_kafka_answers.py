"""What answers in Kafka's place, and is none or a hostile one."""

import asyncio
import contextlib
import struct

import pytest

from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks.kafka_client import LONGEST_ANSWER, sink_error, why_unreachable


@pytest.mark.parametrize(
    "answer", [struct.pack(">i", LONGEST_ANSWER + 1), struct.pack(">i", -1), b"HTTP/1.1 400"]
)
async def test_an_answer_of_any_size_is_not_gathered_in_memory(answer: bytes) -> None:
    """aiokafka waits for as many bytes as it is told, 2 GiB at most."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(100)
            writer.write(answer)
            await reader.read()  # until the other side closes
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}", timeout=60)
    async with asyncio.timeout(10):
        error = await why_unreachable(settings)
    server.close()
    assert error is not None
    said = sink_error(error, "no connection to Kafka")
    assert (said.reason, said.down) == ("no_brokers", True)
    assert "is no Kafka" in str(said)
