"""The operator's HTTP endpoint, in the parent: metrics, health, readiness, status, reload.

Who may ask for what is decided in `access.py`, for every route alike. Reading changes nothing.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.mqtt.tls import server_context
from greenlang_iot.observe.access import Asked, Tokens, has_token, is_direct, refusal
from greenlang_iot.observe.exporter import CONTENT_TYPE
from greenlang_iot.settings.model import AdminSettings

MAX_BODY = 65_536
MAX_HEADER = 8_190
MAX_HEADERS = 64
MAX_SEARCH = 256
MAX_WORDS = 8
HEAD_WITHIN = 10.0
"""Seconds for a TLS handshake, and for the head or the body of a request."""
IDLE = 75.0
"""Seconds that a connection may go without a request, or without taking its answer."""


@dataclass(slots=True, frozen=True)
class Status:
    """What the gateway says of itself at one moment.

    reasons: why it is not ready, one sentence each; `ready` is exactly "no reasons".
    document: the body of /status, plain JSON types.
    """

    reasons: list[str] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return not self.reasons


SHUTDOWN_WITHIN = 2.0
"""Seconds that an answer may still take when the gateway stops."""

AddRoutes = Callable[[web.Application], None]
Reload = Callable[[str], Awaitable[tuple[bool, dict[str, Any]]]]
"""Given who asks, for the audit log: (whether it was done, what to tell)."""


class AdminServer:
    """Serves /metrics, /healthz, /readyz and /status, and POST /-/reload.

    metrics: the exposition text (`Exporter.generate`). status: called once per request.
    refused: told the reason of every request or connection that is refused, for a counter.
    more: called at start, each adds routes; what they serve is guarded like the rest.
    """

    def __init__(
        self,
        settings: AdminSettings,
        metrics: Callable[[], bytes],
        status: Callable[[], Status],
        tokens: Tokens,
        reload: Reload | None = None,
        refused: Callable[[str], None] = lambda reason: None,
        more: Sequence[AddRoutes] = (),
    ) -> None:
        self._more = more
        self._settings = settings
        self._metrics = metrics
        self._status = status
        self._tokens = tokens
        self._reload = reload
        self._refused = refused
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; returns the bound port.

        GatewayError where the address is taken or not ours, InputError for bad TLS files.
        """
        tls = self._settings.tls
        context = None if tls is None else server_context(tls)
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY)
        app.on_response_prepare.append(_headers)
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_get("/readyz", self._serve_ready)
        app.router.add_get("/status", self._serve_status)
        app.router.add_post("/-/reload", self._serve_reload)
        for add_routes in self._more:
            add_routes(app)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=SHUTDOWN_WITHIN)
        await self._runner.setup()
        self._server = await self._listen(self._runner.server, context)
        return int(self._server.sockets[0].getsockname()[1])

    async def _listen(
        self, manager: web.Server | None, context: ssl.SSLContext | None
    ) -> asyncio.Server:
        assert manager is not None, "the runner was set up"
        host, port = self._settings.host, self._settings.port

        try:
            return await asyncio.get_running_loop().create_server(
                lambda: _Connection(manager, self._settings.max_connections, self._refused),
                host,
                port,
                ssl=context,
                reuse_address=True,
                ssl_handshake_timeout=None if context is None else HEAD_WITHIN,
            )
        except OSError as error:
            await self.stop()
            raise GatewayError(
                f"The admin endpoint cannot listen on {host}:{port} ({error.strerror}): "
                "choose another admin.port, or 0 for any free one."
            ) from error

    async def stop(self) -> None:
        """Close the listener and its connections; idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Every request, known route or not: refused, or with its whole body handed on."""
        asked = _asked(request)
        if isinstance(request.protocol, _Connection):
            request.protocol.begin(has_token(asked, self._tokens))
        refused = refusal(asked, self._tokens)
        if refused is not None:
            self._refused(refused.reason)
            answer = json_response({"error": refused.sentence}, refused.status)
            if refused.status == 401:
                answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        if request.body_exists:
            try:
                async with asyncio.timeout(HEAD_WITHIN):
                    await request.read()
            except TimeoutError:
                self._refused("too_slow")
                return json_response(
                    {"error": f"the body did not come within {HEAD_WITHIN:g} s"}, 408
                )
        return await handler(request)

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def _serve_health(self, request: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def _serve_ready(self, request: web.Request) -> web.Response:
        status = self._status()
        document: dict[str, Any] = {"ready": status.ready}
        if is_direct(_asked(request)):
            document["reasons"] = status.reasons
        return json_response(document, 200 if status.ready else 503)

    async def _serve_status(self, request: web.Request) -> web.Response:
        status = self._status()
        return json_response({"ready": status.ready, "reasons": status.reasons, **status.document})

    async def _serve_reload(self, request: web.Request) -> web.Response:
        if self._reload is None:
            return json_response({"error": "nothing can be reloaded here"}, 404)
        done, document = await self._reload(f"admin token from {request.remote}")
        return json_response({"reloaded": done, **document}, 200 if done else 422)


class _Connection(web.RequestHandler):
    """One connection: aiohttp's, with an end to waiting for a request or for a slow reader.

    Where there are too many, the one that is there longest and showed no token makes room: whoever may only
    ask whether the gateway is alive cannot keep others, or a probe, from asking it.
    """

    def __init__(self, manager: web.Server, most: int, refused: Callable[[str], None]) -> None:
        self._server = manager
        self._most = most
        self._refused = refused
        self._loop = asyncio.get_running_loop()
        super().__init__(
            manager,
            loop=self._loop,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
            max_headers=MAX_HEADERS,
            keepalive_timeout=IDLE,
            lingering_time=1.0,
            auto_decompress=False,
        )
        self._deadline: asyncio.TimerHandle | None = None
        self._known = False  # it showed a token

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait(HEAD_WITHIN)
        if len(self._server.connections) > self._most:
            self._refused("too_many_connections")
            others = (c for c in self._server.connections if isinstance(c, _Connection))
            next((c for c in others if not (c._known or c is self)), self)._cut()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def begin(self, known: bool = False) -> None:
        """A request's head is there; the next one, and this one's answer, have IDLE seconds.

        known: it showed a token.
        """
        self._known = self._known or known
        self._wait(IDLE)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP is the other side's mistake: counted, or it could fill the log."""
        if status >= 500:
            return super().handle_error(request, status, exc, message)
        self._refused("bad_request")
        answer = web.Response(status=status, text=message)
        _own(answer)
        answer.force_close()
        return answer

    def _wait(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self._cut)

    def _cut(self) -> None:
        if self.transport is not None:
            self.transport.abort()


def _asked(request: web.Request) -> Asked:
    # the socket's own word, not request.remote: nothing that a header could have set
    peer = request.transport.get_extra_info("peername") if request.transport else None
    return Asked(
        request.method, request.path, peer[0] if peer else "", request.secure, request.headers
    )


async def _headers(request: web.Request, response: web.StreamResponse) -> None:
    _own(response)


def _own(response: web.StreamResponse) -> None:
    response.headers["Server"] = "greenlang-iot"
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"


def goes_on(request: web.Request) -> None:
    """An answer without an end, whose reader takes what it is sent: it has IDLE seconds more."""
    if isinstance(request.protocol, _Connection):
        request.protocol.begin()


def searched(text: str) -> str:
    """What a person looks for. InputError where it is more: each word is looked for in everything there is."""
    if len(text) > MAX_SEARCH:
        raise InputError(f"q: at most {MAX_SEARCH} characters.")
    if len(text.split()) > MAX_WORDS:
        raise InputError(f"q: at most {MAX_WORDS} words.")
    return text


def json_response(document: dict[str, Any], status: int = 200) -> web.Response:
    """Indented, for people with curl, too."""
    body = orjson.dumps(
        document, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    )
    return web.Response(body=body, status=status, content_type="application/json")
