"""Alerts and silences over HTTP: what is open, who looks after it, what nobody wants to be told of.

    GET    /api/v1/alerts?state=&site=&device=&severity=&rule=&q=&limit=&cursor=
    GET    /api/v1/alerts/ID                 with its transitions and members
    POST   /api/v1/alerts/ID/ack             {"by", "comment"}
    GET    /api/v1/silences
    POST   /api/v1/silences                  {"match", "reason", "until" | "duration", "starts", "by"}
    DELETE /api/v1/silences/ID

Who may ask is decided in `access.py`; what changes something is in the audit log. Mistakes are 400 with
`{"error", "problems"}`, an unknown id is 404, what the alert's state forbids is 409.
"""

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
import structlog
from aiohttp import web

from greenlang_iot.alerts.book import Document, NotPossible, listed
from greenlang_iot.alerts.silences import Silence, new_silence
from greenlang_iot.model.errors import InputError
from greenlang_iot.model.severity import SEVERITIES
from greenlang_iot.observe.admin import json_response, searched
from greenlang_iot.observe.audit import Audit
from greenlang_iot.observe.catalog import STATES
from greenlang_iot.sinks.alert_store import AlertStore
from greenlang_iot.spool.log import SpoolFull

LIMIT: Final = 100
MOST: Final = 1_000
"""Alerts in one answer."""
LONGEST: Final = 366 * 86_400
"""Seconds a silence may last by `duration`."""
TEXT_MAX: Final = 1_000

_FILTERS: Final = ("state", "site", "device", "severity", "rule")
_SEARCHED: Final = ("alert_id", "site", "device", "metric", "rule", "summary")

log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AlertApi:
    """Routes over the store; `add_routes` fits `AdminServer`."""

    def __init__(self, store: AlertStore, audit: Audit) -> None:
        self._store = store
        self._audit = audit

    def add_routes(self, app: web.Application) -> None:
        router = app.router
        router.add_get("/api/v1/alerts", _answered(self._list))
        router.add_get("/api/v1/alerts/{id}", _answered(self._show))
        router.add_post("/api/v1/alerts/{id}/ack", _answered(self._acknowledge))
        router.add_get("/api/v1/silences", _answered(self._silences))
        router.add_post("/api/v1/silences", _answered(self._silence))
        router.add_delete("/api/v1/silences/{id}", _answered(self._unsilence))

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        known = {*_FILTERS, "q", "limit", "cursor"}
        if unknown := sorted(set(query) - known):
            raise InputError(
                f"there is no parameter {unknown[0]}; known: {', '.join(sorted(known))}"
            )
        limit = query.get("limit", str(LIMIT))
        if not (limit.isdecimal() and len(limit) < 10 and 1 <= int(limit) <= MOST):
            raise InputError(f"limit is a whole number from 1 to {MOST}")
        filters = {name: set(query[name].split(",")) for name in _FILTERS if query.get(name)}
        for name, values in (("state", STATES), ("severity", SEVERITIES)):
            if wrong := sorted(filters.get(name, set()).difference(values)):
                raise InputError(f"there is no {name} {wrong[0]!r}; known: {', '.join(values)}")
        words = searched(query.get("q", "")).casefold().split()

        def wanted(document: Document) -> bool:
            if any(document[name] not in values for name, values in filters.items()):
                return False
            text = " ".join(str(document[name]) for name in _SEARCHED).casefold() if words else ""
            return all(word in text for word in words)

        page, more, total = listed(self._store.book, wanted, int(limit), query.get("cursor", ""))
        return json_response({"alerts": page, "next": more or None, "total": total})

    async def _show(self, request: web.Request) -> web.Response:
        book, alert_id = self._store.book, request.match_info["id"]
        alert = book.alerts.get(alert_id)
        if alert is None:
            raise NotPossible(f"there is no alert {alert_id}", missing=True)
        transitions = [*alert.history, {k: v for k, v in alert.last.items() if k != "members"}]
        more = {"transitions": transitions, "members": book.members(alert_id)}
        return json_response(alert.last | more)

    async def _acknowledge(self, request: web.Request) -> web.Response:
        body = await _body(request, {"by": str, "comment": str})
        by, comment = _text(body, "by"), _text(body, "comment")
        alert = await self._store.acknowledge(request.match_info["id"], by, comment)
        await self._record(request, "acknowledge", alert_id=alert["alert_id"], by=by)
        return json_response(alert)

    async def _silences(self, request: web.Request) -> web.Response:
        silences = sorted(self._store.book.silences.values(), key=lambda s: s.created_ns)
        return json_response({"silences": [s.as_dict() for s in silences]})

    async def _silence(self, request: web.Request) -> web.Response:
        body = await _body(
            request,
            {
                "match": dict,
                "reason": str,
                "until": str,
                "duration": (int, float),
                "starts": str,
                "by": str,
            },
        )
        if ("until" in body) == ("duration" in body):
            raise InputError("give either until (ISO 8601) or duration (seconds)")
        match = body.get("match", {})
        if not all(isinstance(pattern, str) for pattern in match.values()):
            raise InputError("match: patterns are texts")

        if not 0 < body.get("duration", 1) <= LONGEST:
            raise InputError(f"duration is a number of seconds above 0, at most {LONGEST}")

        def make(now_ns: int) -> Silence:
            starts = _moment(body, "starts") if "starts" in body else now_ns
            if "until" in body:
                until = _moment(body, "until")
            else:
                until = max(now_ns, starts) + int(body["duration"] * 1e9)
            return new_silence(
                match, _text(body, "reason"), _text(body, "by"), now_ns, starts, until
            )

        made = (await self._store.silence(make)).as_dict()
        await self._record(request, "silence", silence=made)
        return json_response(made, 201)

    async def _unsilence(self, request: web.Request) -> web.Response:
        silence_id = request.match_info["id"]
        await self._store.unsilence(silence_id)
        await self._record(request, "unsilence", silence_id=silence_id)
        return json_response({"ended": silence_id})

    async def _record(self, request: web.Request, action: str, **details: Any) -> None:
        """It is done, and durable, whether or not the audit log can be written."""
        actor = f"admin token from {request.remote}"
        try:
            await asyncio.to_thread(self._audit.record, action, actor, "done", **details)
        except OSError as error:
            log.error("the audit log was not written", action=action, actor=actor, why=str(error))


def _answered(handler: Callable[[web.Request], Awaitable[web.Response]]) -> Handler:
    """What a handler raises, as an answer."""

    async def serve(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except InputError as error:
            return json_response({"error": str(error), "problems": list(error.problems)}, 400)
        except NotPossible as error:
            return json_response({"error": str(error)}, 404 if error.missing else 409)
        except SpoolFull as error:
            return json_response({"error": f"no room for it on disk: {error}"}, 503)

    return serve


async def _body(request: web.Request, known: dict[str, Any]) -> dict[str, Any]:
    """The JSON object of a request; an empty body is an empty object. Raises InputError."""
    try:
        body = orjson.loads(await request.read() or b"{}")
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InputError("the body is a JSON object")
    for name, value in body.items():
        if name not in known:
            raise InputError(f"there is no {name}; known: {', '.join(sorted(known))}")
        if not isinstance(value, known[name]) or isinstance(value, bool):
            raise InputError(f"{name} is of the wrong type")
    return body


def _text(body: dict[str, Any], name: str) -> str:
    text: str = body.get(name, "").strip()
    if len(text) > TEXT_MAX:
        raise InputError(f"{name} has more than {TEXT_MAX} characters")
    return text


def _moment(body: dict[str, Any], name: str) -> int:
    """ISO 8601 → ns; without an offset it is UTC. Raises InputError."""
    try:
        moment = dt.datetime.fromisoformat(body[name])
    except ValueError as error:
        raise InputError(f"{name} is not a time such as 2026-03-01T12:00:00Z") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1_000
