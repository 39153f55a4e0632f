"""The console's HTTP API: read only, JSON. Who may ask is decided by the admin server."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import orjson
from aiohttp import web

from greenlang_iot import __version__
from greenlang_iot.console.assets import HEADERS, Assets
from greenlang_iot.console.band import bands, series_of
from greenlang_iot.console.events import Events
from greenlang_iot.console.fleet import STATES, Fleet, Wanted
from greenlang_iot.console.history import MAX_POINTS, History, Judge
from greenlang_iot.console.letters import newest_letters
from greenlang_iot.console.overview import Overview
from greenlang_iot.console.questions import Answer, Shards
from greenlang_iot.console.watch import Watch, point_json
from greenlang_iot.model.batches import F32
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import InputError
from greenlang_iot.observe.admin import searched
from greenlang_iot.observe.counters import Counters
from greenlang_iot.settings.model import Settings

MAX_PAGE: Final = 200
MAX_TEXT: Final = 256
"""Characters of one value of a query."""
MAX_MINUTES: Final = 1_440
FLEET_EVERY: Final = 5.0
"""Seconds between two looks at the whole fleet while a page is open."""


class Parent(Protocol):
    """The running gateway; a reload replaces its settings and registry."""

    settings: Settings
    directory: Directory
    shards: dict[int, Counters]

    @property
    def reasons(self) -> list[str]:
        """Why it is not ready, one sentence each."""
        ...

    @property
    def uptime(self) -> float:
        """Seconds."""
        ...


class Console:
    """Pages, API and event stream. lake: its folder, None where it is off; letters: dead letters."""

    def __init__(
        self,
        parent: Parent,
        counters: Counters,
        shards: Shards,
        *,
        lake: Path | None,
        letters: Path,
    ) -> None:
        self._parent = parent
        self._letters = letters
        self._alert_changes = 0
        self._overview = Overview(parent.shards, counters)
        self._fleet = Fleet(lambda: parent.directory, shards, lambda: len(parent.shards))
        self._watch = Watch(shards)
        self._history = None if lake is None else History(lake)
        self._events = Events(self.overview, self._fleet, self._watch)

    def add_routes(self, app: web.Application) -> None:
        """For the admin server."""
        Assets().add_routes(app)
        app.router.add_routes(
            [
                web.get("/api/v1/overview", _answered(self._get_overview)),
                web.get("/api/v1/sites", _answered(self._get_sites)),
                web.get("/api/v1/devices", _answered(self._get_devices)),
                web.get("/api/v1/devices/{id}", _answered(self._get_device)),
                web.get("/api/v1/devices/{id}/series", _answered(self._get_series)),
                web.get("/api/v1/dead-letters", _answered(self._get_letters)),
                web.get("/api/v1/events", self._events.serve, allow_head=False),
            ]
        )

    def alerts_changed(self, transitions: int) -> None:
        """Pages that show alerts ask for them again."""
        self._alert_changes += transitions

    def late(self, answer: Answer) -> None:
        """What a shard answered after its time was up."""
        self._watch.late(answer)

    async def run(self) -> None:
        """Once a second until cancelled: sample, watch, tell. Then every stream ends."""
        looked, due = 0.0, time.monotonic()
        try:
            while True:
                self._overview.sample(time.monotonic(), time.time())
                await self._watch.poll()
                if self._events.heard and time.monotonic() - looked > FLEET_EVERY:
                    looked = time.monotonic()
                    await self._fleet.refresh()
                self._events.tick()
                # a second later, and never two at once: a rate is over a whole second
                due = max(due + 1.0, time.monotonic() + 0.5)
                await asyncio.sleep(due - time.monotonic())
        finally:
            self._events.close()
            if self._history is not None:
                self._history.close()

    def overview(self) -> dict[str, Any]:
        """The overview without its history."""
        parent = self._parent
        return {
            "instance": parent.settings.instance,
            "version": __version__,
            "uptime": round(parent.uptime),
            "ready": not parent.reasons,
            "reasons": parent.reasons,
            "devices": parent.directory.n_devices,
            "series": parent.directory.n_series,
            "fleet": self._fleet.counts(),
            "alert_changes": self._alert_changes,
            **self._overview.document(parent.settings),
        }

    # ---- handlers -----------------------------------------------------------------------------------

    async def _get_overview(self, request: web.Request) -> dict[str, Any]:
        _query(request)
        return {**self.overview(), "history": self._overview.history()}

    async def _get_sites(self, request: web.Request) -> dict[str, Any]:
        _query(request)
        return await self._fleet.sites()

    async def _get_devices(self, request: web.Request) -> dict[str, Any]:
        given = _query(request, "q", "site", "type", "state", "limit", "cursor")
        state = given.get("state", "")
        if state and state not in STATES:
            raise InputError(f"state: one of {', '.join(STATES)}, not {state!r}.")
        wanted = Wanted(
            searched(given.get("q", "")), given.get("site", ""), given.get("type", ""), state
        )
        limit = _integer(given, "limit", 50, MAX_PAGE)
        return await self._fleet.search(wanted, limit, given.get("cursor", ""))

    async def _get_device(self, request: web.Request) -> dict[str, Any]:
        _query(request)
        name = request.match_info["id"]
        found = await self._fleet.device(name)
        named = self._fleet.named(name)
        if found is None or named is None:
            raise _NotFound(f"There is no device {name!r}.")
        await self._watch.look(named)
        rejects = await asyncio.to_thread(newest_letters, self._letters, 5, device=name)
        return {**found, "dead_letters": rejects}

    async def _get_series(self, request: web.Request) -> dict[str, Any]:
        """Points of one metric, oldest first: the lake's, then those seen while somebody looked."""
        given = _query(request, "metric", "minutes")
        name, metric = request.match_info["id"], given.get("metric", "")
        if not metric:
            raise InputError("metric: say which one.")
        minutes = _integer(given, "minutes", 15, MAX_MINUTES)
        named = self._fleet.named(name)
        if named is None:
            raise _NotFound(f"There is no device {name!r}.")
        await self._watch.look(named)
        since_ns = time.time_ns() - minutes * 60_000_000_000
        stored: list[list[Any]] = []
        note = "There is no lake: the picture begins when you look."
        if self._history is not None:
            judge = self._judge(named[0], metric)
            stored, note = await self._history.series(name, metric, since_ns, judge)
        thinned = bool(stored and note)
        newest_ns = max((int(point[0] * 1e9) for point in stored), default=0) if thinned else 0
        points = {point[0]: point for point in stored}
        for point in self._watch.points(name, metric):
            if point[0] > max(newest_ns, since_ns - 1):
                points[point[0] / 1e9] = point_json(point)
        return {
            "device": name,
            "metric": metric,
            "points": [points[ts] for ts in sorted(points)][-MAX_POINTS:],
            "note": note,
            "thinned": thinned,
        }

    def _judge(self, entry: int, metric: str) -> Judge:
        registry, settings = self._parent.directory, self._parent.settings.detect
        series = series_of(registry, entry, metric)

        def judge(ts_ns: Sequence[int], value: Sequence[float]) -> tuple[F32, F32]:
            if series is None:
                unknown = np.full(len(ts_ns), np.nan, np.float32)
                return unknown, unknown
            return bands(registry, series, settings, ts_ns, value)

        return judge

    async def _get_letters(self, request: web.Request) -> dict[str, Any]:
        given = _query(request, "reason", "device", "limit")
        limit = _integer(given, "limit", 20, MAX_PAGE)
        if self._parent.settings.sinks.dead_letter.target == "kafka":
            topic = self._parent.settings.sinks.kafka.deadletter_topic
            return {"letters": [], "note": f"Dead letters go to the Kafka topic {topic}."}
        found = await asyncio.to_thread(
            newest_letters,
            self._letters,
            limit,
            reason=given.get("reason", ""),
            device=given.get("device", ""),
        )
        return {"letters": found, "note": ""}


class _NotFound(InputError):
    """What a path names is not there."""


def _answered(
    handler: Callable[[web.Request], Awaitable[dict[str, Any]]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """The handler's document as JSON, or one sentence of what is wrong."""

    async def answer(request: web.Request) -> web.Response:
        try:
            document, status = await handler(request), 200
        except InputError as error:
            document, status = {"error": str(error)}, 404 if isinstance(error, _NotFound) else 400
        return web.Response(
            body=orjson.dumps(document, default=str),
            status=status,
            content_type="application/json",
            headers={**HEADERS, "Cache-Control": "no-store"},
        )

    return answer


def _query(request: web.Request, *known: str) -> dict[str, str]:
    """The query's values by name. Raises InputError."""
    given: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            raise InputError(f"{name[:MAX_TEXT]!r} means nothing here.")
        if name in given:
            raise InputError(f"{name}: give it once.")
        if len(value) > MAX_TEXT:
            raise InputError(f"{name}: at most {MAX_TEXT} characters.")
        given[name] = value
    return given


def _integer(given: dict[str, str], name: str, default: int, most: int) -> int:
    text = given.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= most:
        raise InputError(f"{name}: a whole number from 1 to {most:,}, not {text!r}.")
    return int(text)
