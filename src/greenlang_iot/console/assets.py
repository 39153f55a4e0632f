"""The console's files: read once from the package, served from memory, under a strict policy."""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from aiohttp import web

CONTENT_TYPES: Final = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
"""Scripts and styles are our own files; no text can become HTML, whatever a library would do."""

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Assets:
    """Every file of `static/`, by its path."""

    def __init__(self) -> None:
        self._files = dict(_walk(files("greenlang_iot.console") / "static", ""))

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/", self._serve)
        app.router.add_get("/console/{path:.*}", self._serve)

    async def _serve(self, request: web.Request) -> web.Response:
        path = request.match_info.get("path") or "index.html"
        found = self._files.get(path)
        if found is None:
            return web.Response(status=404, text="There is no such file.\n", headers=HEADERS)
        body, content_type, etag = found
        headers = {**HEADERS, "ETag": etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, tuple[bytes, str, str]]]:
    found = []
    for item in folder.iterdir():
        name = prefix + item.name
        content_type = CONTENT_TYPES.get("." + item.name.rpartition(".")[2])
        if item.is_dir():
            found += _walk(item, name + "/")
        elif content_type is not None:
            body = item.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
            found.append((name, (body, content_type, etag)))
    return found
