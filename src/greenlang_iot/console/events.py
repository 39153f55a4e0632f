"""Server-sent events: once a second what changed, to whoever listens. No queue: who is slow, misses some."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import orjson
from aiohttp import web

from greenlang_iot.console.assets import HEADERS
from greenlang_iot.console.fleet import Fleet
from greenlang_iot.console.watch import Watch
from greenlang_iot.observe.admin import goes_on

MAX_LISTENERS: Final = 64
RETRY_MS: Final = 1_000


class Events:
    """`serve` is the handler, `tick` says that a second is over."""

    def __init__(self, overview: Callable[[], dict[str, Any]], fleet: Fleet, watch: Watch) -> None:
        self._overview = overview
        self._fleet = fleet
        self._watch = watch
        self._second = asyncio.Event()
        self._said = b""
        self._listeners = 0
        self._closed = False

    @property
    def heard(self) -> bool:
        """Does anybody listen?"""
        return self._listeners > 0

    def tick(self) -> None:
        """Say how it stands now to everybody who waits."""
        if self.heard:
            self._said = _event("overview", self._overview())
        over, self._second = self._second, asyncio.Event()
        over.set()

    def close(self) -> None:
        """End every stream; pages come back by themselves to whoever listens then."""
        self._closed = True
        self._second.set()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """`?device=ID` adds that device's state and new readings."""
        if self._listeners >= MAX_LISTENERS:
            return web.json_response(
                {"error": f"{MAX_LISTENERS} pages are open: close one."}, status=503
            )
        response = web.StreamResponse(
            headers={**HEADERS, "Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        device, number = request.query.get("device", ""), 0
        self._listeners += 1
        try:
            await response.write(f"retry: {RETRY_MS}\n\n".encode())
            # else the first page shows no numbers until the next look
            if self._fleet.counts() is None:
                await self._fleet.refresh()
            await response.write(_event("overview", self._overview()))
            while not self._closed:
                await self._second.wait()
                parts = self._said
                if device and (named := self._fleet.named(device)) is not None:
                    await self._watch.look(named)
                    number, document = self._watch.since(device, number)
                    parts += _event("device", {"id": device, **document})
                await response.write(parts)
                goes_on(request)
        except ConnectionError:
            pass  # the page was closed
        finally:
            self._listeners -= 1
        return response


def _event(name: str, document: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps(document, default=str))
