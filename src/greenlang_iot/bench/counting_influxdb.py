"""A counting InfluxDB: takes writes, checks every line, answers 204.

`python -m greenlang_iot.bench.counting_influxdb DEVICES START_MS`: prints its port; a line on stdin
prints its counts. Bodies of two requests may come in either order, so `disordered` is no mistake here.
"""

import asyncio
import sys

import cramjam
import uvloop

from greenlang_iot.bench.tally import Delay, Tally, answer_stdin

_OK = b"HTTP/1.1 204 No Content\r\nX-Influxdb-Version: counting\r\n\r\n"
_END = b"\r\n\r\n"
_CHUNKED = b"transfer-encoding: chunked"


class Writes(asyncio.Protocol):
    """One connection: HTTP/1.1 with a Content-Length, or in chunks."""

    lines = 0
    others = 0
    requests = 0
    nbytes = 0

    def __init__(self, tally: Tally | None) -> None:
        self._tally = tally
        self._buffer = bytearray()
        self._need = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= self._need:
            end = self._buffer.find(_END, 0, 65_536)
            if end < 0:
                return
            head = bytes(self._buffer[:end]).lower()
            if _CHUNKED in head:
                whole = _joined(self._buffer, end + 4)
                if whole is None:
                    return
                body, stop = whole
            else:
                at = head.find(b"content-length:")
                length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
                stop = self._need = end + 4 + length
                if len(self._buffer) < stop:
                    return
                body = bytes(self._buffer[end + 4 : stop])
            del self._buffer[:stop]
            self._need = 0
            if head.startswith(b"post"):
                if b"content-encoding: gzip" in head:
                    body = bytes(cramjam.gzip.decompress(body))
                self._count(body)
            if Delay.seconds:
                asyncio.get_running_loop().call_later(Delay.seconds, self._transport.write, _OK)
            else:
                self._transport.write(_OK)

    def _count(self, body: bytes) -> None:
        Writes.requests += 1
        Writes.nbytes += len(body)
        if self._tally is None:
            Writes.lines += body.count(b"\n")
            return
        lines, others = self._tally.lines(body)
        Writes.lines += lines
        Writes.others += others


def _joined(data: bytearray, at: int) -> tuple[bytes, int] | None:
    """The chunks from `at` on as one body, and where the request ends; None: it is not all there."""
    parts: list[bytes] = []
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].split(b";")[0], 16)
        at = line + 2 + size + 2
        if len(data) < at:
            return None
        if size == 0:
            return b"".join(parts), at
        parts.append(bytes(data[line + 2 : at - 2]))
    return None


async def serve(tally: Tally | None) -> None:
    """Until the end of stdin. tally None: lines are counted and not looked at."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Writes(tally), "127.0.0.1", 0)

    def counts() -> dict[str, int]:
        own = {
            "lines": Writes.lines,
            "others": Writes.others,
            "requests": Writes.requests,
            "bytes": Writes.nbytes,
        }
        return own | (tally.counts() if tally else {})

    await answer_stdin(server.sockets[0].getsockname()[1], counts)


if __name__ == "__main__":
    uvloop.run(serve(Tally(int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 2 else None))
