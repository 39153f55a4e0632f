"""A counting InfluxDB: takes writes, counts and checks lines, answers 204.

`python -m greenlang_iot.bench.counting_influxdb`: prints its port; a line on stdin prints its counts.
"""

import asyncio
import json
import sys
import time

import uvloop

_OK = b"HTTP/1.1 204 No Content\r\nX-Influxdb-Version: counting\r\n\r\n"
_PREFIX = b"telemetry,"


class Writes(asyncio.Protocol):
    """One connection: HTTP/1.1 with Content-Length."""

    lines = 0
    nbytes = 0
    requests = 0
    malformed = 0

    def __init__(self) -> None:
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            if head.startswith(b"post"):
                self._count(body)
            self._transport.write(_OK)

    def _count(self, body: bytes) -> None:
        lines = body.count(b"\n") + (not body.endswith(b"\n"))
        begun = body.count(b"\n" + _PREFIX) + body.startswith(_PREFIX)
        Writes.lines += lines
        Writes.malformed += lines - begun
        Writes.nbytes += len(body)
        Writes.requests += 1


async def serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Writes, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        counts = {
            "lines": Writes.lines,
            "malformed": Writes.malformed,
            "bytes": Writes.nbytes,
            "requests": Writes.requests,
            "cpu_s": time.process_time(),
        }
        print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    uvloop.run(serve())
