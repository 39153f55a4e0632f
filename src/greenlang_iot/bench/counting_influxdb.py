"""A counting InfluxDB: takes writes, checks every line, answers 204.

`python -m greenlang_iot.bench.counting_influxdb DEVICES START_MS`: prints its port; a line on stdin
prints its counts. Bodies of two requests may come in either order, so `disordered` is no mistake here.
"""

import asyncio
import sys

import cramjam
import numpy as np
import uvloop

from greenlang_iot.bench.inbox import Inbox, spared
from greenlang_iot.bench.tally import Delay, Tally, answer_stdin
from greenlang_iot.model.batches import U8

_OK = b"HTTP/1.1 204 No Content\r\nX-Influxdb-Version: counting\r\n\r\n"
_HEAD = 65_536
"""Bytes that a request's head may have."""
_END = b"\r\n\r\n"
_ALERTS = b"alerts,"
_CHUNKED = b"transfer-encoding: chunked"


class Writes(Inbox):
    """One connection: HTTP/1.1 with a Content-Length, or in chunks. The answer goes out before the body is
    looked at."""

    lines = 0
    others = 0
    requests = 0
    nbytes = 0

    def __init__(self, tally: Tally | None) -> None:
        super().__init__()
        self._tally = tally
        self._need = 0  # bytes of the request that has begun, as soon as they are known

    def take(self, data: U8, n: int) -> int:
        done = 0
        while n - done >= max(self._need, 1):
            head = data[done : done + min(n - done, _HEAD)].tobytes()
            end = head.find(_END)
            if end < 0:
                break
            head = head[:end].lower()
            first = done + end + 4
            if _CHUNKED in head:
                whole = _joined(data[first:n].tobytes())
                if whole is None:
                    break
                body, size = whole
                stop = first + size
            else:
                at = head.find(b"content-length:")
                length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
                stop, body = first + length, b""
                self._need = stop - done
                if n < stop:
                    break
            done, self._need = stop, 0
            self.answer(_OK, Delay.seconds)
            if head.startswith(b"post"):
                gzip = b"content-encoding: gzip" in head
                if gzip:
                    body = bytes(cramjam.gzip.decompress(body or data[first:stop].tobytes()))
                if body or gzip:
                    self._count(spared(body), len(body))
                else:
                    self._count(data[first:], stop - first)
        return done

    def _count(self, data: U8, size: int) -> None:
        Writes.requests += 1
        Writes.nbytes += size
        if self._tally is None:
            lines = int(np.count_nonzero(data[:size] == ord("\n")))
            if data[: len(_ALERTS)].tobytes() == _ALERTS:  # they come in bodies of their own
                Writes.others += lines
            else:
                Writes.lines += lines
            return
        lines, others = self._tally.lines(data, size)
        Writes.lines += lines
        Writes.others += others


def _joined(data: bytes) -> tuple[bytes, int] | None:
    """The chunks that data begins with as one body, and their size; None: they are not all there."""
    parts: list[bytes] = []
    at = 0
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].split(b";")[0], 16)
        at = line + 2 + size + 2
        if len(data) < at:
            return None
        if size == 0:
            return b"".join(parts), at
        parts.append(data[line + 2 : at - 2])
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
