"""The operator's HTTP endpoint, in the parent: metrics, health, readiness, status, reload.

All but reload is read only and open to whoever can connect; reload wants the admin token.
"""

import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.observe.exporter import CONTENT_TYPE
from greenlang_iot.settings.model import AdminSettings


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

Reload = Callable[[], Awaitable[tuple[bool, dict[str, Any]]]]


class AdminServer:
    """Serves /metrics, /healthz, /readyz and /status, and POST /-/reload.

    metrics: the exposition text (`Exporter.generate`). status: called once per request.
    reload: (whether it was done, what to tell); wanted with `Authorization: Bearer token`.
    routes: whatever else is served, the console.
    """

    def __init__(
        self,
        settings: AdminSettings,
        metrics: Callable[[], bytes],
        status: Callable[[], Status],
        reload: Reload | None = None,
        token: str = "",
        routes: Sequence[web.RouteDef] = (),
    ) -> None:
        self._settings = settings
        self._reload = reload
        self._token = token.encode()
        self._routes = routes
        self._metrics = metrics
        self._status = status
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; returns the bound port. GatewayError where the address is taken or not ours."""
        app = web.Application()
        app.router.add_get("/metrics", self._serve_metrics)
        app.router.add_get("/healthz", self._serve_health)
        app.router.add_get("/readyz", self._serve_ready)
        app.router.add_get("/status", self._serve_status)
        app.router.add_post("/-/reload", self._serve_reload)
        app.router.add_routes(self._routes)
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_WITHIN
        )
        await runner.setup()
        host, port = self._settings.host, self._settings.port
        try:
            await web.TCPSite(runner, host, port, reuse_address=True).start()
        except OSError as error:
            await runner.cleanup()
            raise GatewayError(
                f"The admin endpoint cannot listen on {host}:{port} ({error.strerror}): "
                "choose another admin.port, or 0 for any free one."
            ) from error
        self._runner = runner
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Close the listener and its connections; idempotent."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def _serve_health(self, request: web.Request) -> web.Response:
        return _json({"status": "alive"})

    async def _serve_ready(self, request: web.Request) -> web.Response:
        status = self._status()
        return _json(
            {"ready": status.ready, "reasons": status.reasons}, 200 if status.ready else 503
        )

    async def _serve_status(self, request: web.Request) -> web.Response:
        status = self._status()
        return _json({"ready": status.ready, "reasons": status.reasons, **status.document})

    async def _serve_reload(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        wanted = b"Bearer " + self._token
        if not self._token or not hmac.compare_digest(given, wanted):
            answer = _json({"error": "POST /-/reload wants the admin token"}, 401)
            answer.headers["WWW-Authenticate"] = "Bearer"
            return answer
        if self._reload is None:
            return _json({"error": "nothing can be reloaded here"}, 404)
        done, document = await self._reload()
        return _json({"reloaded": done, **document}, 200 if done else 422)


def _json(document: dict[str, Any], status: int = 200) -> web.Response:
    body = orjson.dumps(
        document, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    )
    return web.Response(body=body, status=status, content_type="application/json")
