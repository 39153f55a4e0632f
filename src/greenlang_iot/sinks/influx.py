"""The InfluxDB sink: one body of line protocol at a time to the write API of 2.x or 1.x."""

import asyncio
import time
import zlib
from collections import deque
from urllib.parse import urlencode

from greenlang_iot.encode.escapes import readings_in
from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.model.outcomes import Outcome, Refused
from greenlang_iot.model.pieces import Body, Pieces
from greenlang_iot.settings.model import InfluxSettings
from greenlang_iot.sinks.influx_answers import Verdict, halves, judge, sort_out
from greenlang_iot.sinks.influx_http import Answer, InfluxHttp

_ANSWER_KEPT = 1_000
"""Characters of InfluxDB's answer that a refused line keeps (it may echo whole lines)."""


class InfluxSender:
    """A Sender. A line counts as delivered only when a body that holds it was answered with 204.

    What InfluxDB refuses is separated from the rest by sending parts again, which is idempotent. After
    `max_refusals` refused parts of one body, what is still undecided is refused as a whole (some of it
    may be written): bounded, and no line is lost.
    """

    def __init__(self, settings: InfluxSettings) -> None:
        self._settings = settings
        self._http = InfluxHttp(settings, connections=settings.in_flight)
        self._body_limit = 0  # bytes a proxy takes at once, learnt from 413; 0 = no limit known
        if settings.version == "2":
            path = "/api/v2/write"
            params = {"org": settings.org, "bucket": settings.bucket, "precision": "ns"}
        else:
            path, params = "/write", {"db": settings.bucket, "precision": "ns"}
        self._path = f"{path}?{urlencode(params)}"

    async def open(self) -> None:
        try:
            await self._http.open()
        except InputError as error:  # a certificate is being replaced, or was taken away
            raise SinkError(str(error), reason="tls", down=True) from error

    async def close(self) -> None:
        await self._http.close()

    async def send(self, body: Body | Pieces, rows: int) -> Outcome:
        """Write one chunk; `timeout` bounds each request. Raises SinkError."""
        refused: list[Refused] = []
        refusals = 0
        waiting = deque(self._cut(bytes(body) if isinstance(body, Pieces) else body))
        while waiting:
            part = waiting.popleft()
            answer = await self._write(part)
            verdict = judge(answer, time.time())
            if verdict is Verdict.DONE:
                continue
            refusals += 1
            lines = [line for line in bytes(part).split(b"\n") if line]
            guilty, again = self._decide(verdict, answer, lines, len(part), refusals)
            refused += [
                Refused(line, words[:_ANSWER_KEPT], readings_in(line)) for line, words in guilty
            ]
            waiting.extendleft(b"\n".join(piece) + b"\n" for piece in reversed(again))
        return Outcome(rows - sum(item.readings for item in refused), refused)

    def _decide(
        self, verdict: Verdict, answer: Answer, lines: list[bytes], size: int, refusals: int
    ) -> tuple[list[tuple[bytes, str]], list[list[bytes]]]:
        """The refused lines with InfluxDB's words, and the parts to send again."""
        if refusals > self._settings.max_refusals:
            words = (
                f"undecided after {refusals - 1} refused parts (may be written): {answer.message}"
            )
            return [(line, words) for line in lines], []
        if verdict is Verdict.TOO_LARGE:
            if len(lines) == 1:
                return [(lines[0], answer.message)], []
            self._body_limit = size // 2
            return [], halves(lines)
        return sort_out(answer.message, lines)

    def _cut(self, body: Body) -> list[Body]:
        """The body in parts of whole lines, none larger than what a proxy took so far."""
        limit = self._body_limit
        if not limit or len(body) <= limit:
            return [body]
        body = bytes(body)
        parts: list[Body] = []
        start = 0
        while start < len(body):
            end = body.rfind(b"\n", start, start + limit) + 1
            if end <= start:  # a line larger than the limit goes alone
                end = body.find(b"\n", start) + 1 or len(body)
            parts.append(body[start:end])
            start = end
        return parts

    async def _write(self, part: Body) -> Answer:
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if self._settings.gzip:
            part = await asyncio.to_thread(zlib.compress, part, 1, 31)  # 31: with a gzip header
            headers["Content-Encoding"] = "gzip"
        return await self._http.request("POST", self._path, body=part, headers=headers)
