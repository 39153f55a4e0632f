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


Guard = Callable[[web.Request], web.Response | None]
"""The answer to a request that may not act, for want of the admin token; None where it may."""
AddRoutes = Callable[[web.Application, Guard], None]
Reload = Callable[[], Awaitable[tuple[bool, dict[str, Any]]]]


class AdminServer:
    """Serves /metrics, /healthz, /readyz and /status, and POST /-/reload.

    metrics: the exposition text (`Exporter.generate`). status: called once per request.
    reload: (whether it was done, what to tell); wanted with `Authorization: Bearer token`.
    more: called at start, each adds routes of its own.
    """

    def __init__(
        self,
        settings: AdminSettings,
        metrics: Callable[[], bytes],
        status: Callable[[], Status],
        reload: Reload | None = None,
        token: str = "",
        more: Sequence[AddRoutes] = (),
    ) -> None:
        self._more = more
        self._settings = settings
        self._reload = reload
        self._token = token.encode()
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
        for add_routes in self._more:
            add_routes(app, self.refusal)
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
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

    def refusal(self, request: web.Request) -> web.Response | None:
        """401 for a request without the admin token."""
        given = request.headers.get("Authorization", "").encode(errors="replace")
        wanted = b"Bearer " + self._token
        if self._token and hmac.compare_digest(given, wanted):
            return None
        what = f"{request.method} {request.path}"
        answer = json_response({"error": f"{what} wants the admin token"}, 401)
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    async def _serve_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def _serve_health(self, request: web.Request) -> web.Response:
        return json_response({"status": "alive"})

    async def _serve_ready(self, request: web.Request) -> web.Response:
        status = self._status()
        return json_response(
            {"ready": status.ready, "reasons": status.reasons}, 200 if status.ready else 503
        )

    async def _serve_status(self, request: web.Request) -> web.Response:
        status = self._status()
        return json_response({"ready": status.ready, "reasons": status.reasons, **status.document})

    async def _serve_reload(self, request: web.Request) -> web.Response:
        refusal = self.refusal(request)
        if refusal is not None:
            return refusal
        if self._reload is None:
            return json_response({"error": "nothing can be reloaded here"}, 404)
        done, document = await self._reload()
        return json_response({"reloaded": done, **document}, 200 if done else 422)


def json_response(document: dict[str, Any], status: int = 200) -> web.Response:
    """Indented JSON, for people with curl, too."""
    body = orjson.dumps(
        document, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    )
    return web.Response(body=body, status=status, content_type="application/json")
