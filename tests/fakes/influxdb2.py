"""A strict stand-in for InfluxDB 2.7: its write API and the management calls that the setup uses.

It answers as InfluxDB 2.7.12 was seen to answer; the contract tests run against both. Faults are given
as a script: each is used up by one write.
"""

import asyncio
import gzip
import json
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.fakes.lineprotocol import ParseError, Point, parse

Value = float | int | bool | str
_SCALE = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


@dataclass(slots=True)
class Bucket:
    id: str
    name: str
    retention: int  # seconds, 0 = for ever
    rows: dict[tuple[str, int], Point] = field(default_factory=dict)
    types: dict[tuple[str, str], type] = field(default_factory=dict)


@dataclass(slots=True)
class Fault:
    """What happens to one write.

    status: answered instead of writing (with `body` and `headers`). hang: no answer, and the
    connection is cut when the server stops. reset: it is cut at once, after writing if `written`.
    """

    status: int = 0
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    reset: bool = False
    written: bool = False


def busy(status: int = 503, retry_after: str | None = None) -> Fault:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return Fault(status, {"code": "unavailable", "message": "busy"}, headers)


class InfluxDB2:
    """`async with InfluxDB2() as server:` listens on a free loopback port."""

    def __init__(self, *, org: str = "greenlang", buckets: tuple[str, ...] = ("iot_data",)) -> None:
        self.token = "token-of-the-stand-in"
        self.read_only_token = "token-that-may-only-read"
        self.rights: dict[str, list[dict[str, Any]]] = {}  # of tokens that were made
        self.orgs: dict[str, str] = {}
        self.buckets: dict[str, Bucket] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.faults: deque[Fault] = deque()
        self.max_body = (
            0  # bytes; a larger body is answered with 413, as a proxy does; 0 = no limit
        )
        self.delay = 0.0  # seconds that every write takes
        self.version = "v2.7.12"
        self.writes: list[tuple[int, int]] = []  # (status, bytes) of every write
        self.encodings: list[str] = []
        self.url = ""
        self._numbers = 0
        self.hanging = asyncio.Event()  # set when a write is kept waiting for ever
        self._stopping = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port = 0
        if org:
            self.add_org(org)
        for name in buckets:
            self.add_bucket(name)

    # ---- for tests ------------------------------------------------------------------------------

    def add_org(self, name: str) -> str:
        self.orgs[name] = self._number()
        return self.orgs[name]

    def add_bucket(self, name: str, retention: int = 0) -> Bucket:
        self.buckets[name] = Bucket(self._number(), name, retention)
        return self.buckets[name]

    def points(self, bucket: str = "iot_data") -> list[dict[str, Any]]:
        """Every point as {measurement, tags, fields, time}, in order of time."""
        rows = sorted(self.buckets[bucket].rows.items(), key=lambda row: (row[0][1], row[0][0]))
        return [
            {"measurement": p.measurement, "tags": p.tags, "fields": p.fields, "time": p.time}
            for _, p in rows
        ]

    def values(self, bucket: str = "iot_data") -> dict[tuple[str, str, int], Value]:
        """(device, field, time) → value, of every measurement."""
        return {
            (p["tags"].get("device", ""), name, p["time"]): value
            for p in self.points(bucket)
            for name, value in p["fields"].items()
        }

    async def start(self) -> None:
        """Listen (on the same port again after `stop`)."""
        self._stopping.clear()
        app = web.Application(client_max_size=2**30)
        app.add_routes(
            [
                web.get("/ping", self._ping),
                web.post("/api/v2/write", self._write),
                web.get("/api/v2/{kind:orgs|buckets|tasks}", self._list),
                web.post("/api/v2/{kind:orgs|buckets|tasks}", self._create),
                web.post("/api/v2/authorizations", self._authorize),
                web.patch("/api/v2/{kind:buckets|tasks}/{id}", self._update),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        self._stopping.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> "InfluxDB2":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _number(self) -> str:
        self._numbers += 1
        return f"{self._numbers:016x}"

    # ---- write ----------------------------------------------------------------------------------

    async def _ping(self, request: web.Request) -> web.Response:
        return web.Response(status=204, headers={"X-Influxdb-Version": self.version})

    async def _write(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.encodings.append(request.headers.get("Content-Encoding", "identity"))
        fault = self.faults.popleft() if self.faults else None
        if self.delay:
            await asyncio.sleep(self.delay)
        if fault is not None and fault.hang:
            self.hanging.set()
            await self._stopping.wait()
        if fault is not None and (fault.hang or fault.reset):
            if fault.written:
                self._answer_write(request, body)
            if request.transport is not None:  # else the client gave up before
                request.transport.abort()
            return web.Response()
        if fault is not None and fault.status:
            text = fault.body if isinstance(fault.body, str) else json.dumps(fault.body)
            answer = web.Response(status=fault.status, text=text, headers=fault.headers)
        else:
            answer = self._answer_write(request, body)
        self.writes.append((answer.status, len(body)))
        return answer

    def _answer_write(self, request: web.Request, body: bytes) -> web.Response:
        if self.max_body and len(body) > self.max_body:
            return web.Response(status=413, text="<html>Request Entity Too Large</html>")
        refusal = self._refuse(request, need_write=True)
        if refusal is not None:
            return refusal
        query = request.query
        if not query.get("bucket"):
            return _error(404, "not found", "bucket not found")
        precision = query.get("precision", "ns")
        if precision not in _SCALE:
            return _error(
                400, "invalid", "invalid precision; valid precision units are ns, us, ms, and s"
            )
        if not query.get("org"):
            return _error(400, "invalid", "Please provide either orgID or org")
        if query["org"] not in self.orgs:
            return _error(404, "not found", f'organization name "{query["org"]}" not found')
        bucket = self.buckets.get(query["bucket"])
        if bucket is None:
            return _error(404, "not found", f'bucket "{query["bucket"]}" not found')
        if request.headers.get("Content-Encoding") == "gzip":
            try:
                body = gzip.decompress(body)
            except (EOFError, zlib.error):
                return _error(500, "internal error", "unable to read data: unexpected EOF")
        return self._store(bucket, body, _SCALE[precision])

    def _store(self, bucket: Bucket, body: bytes, scale: int) -> web.Response:
        points, bad = [], []
        now = time.time_ns()
        for raw in body.split(b"\n"):
            line = raw.decode(errors="replace")
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                point = parse(line)
                stamp = now // scale * scale if point.time is None else point.time * scale
                if abs(stamp) > 9223372036854775806:
                    limits = "-9223372036854775806 - 9223372036854775806"
                    raise ParseError(f"time outside range {limits}")
            except ParseError as error:
                bad.append(f"unable to parse '{line}': {error}")
                continue
            points.append((point, stamp))
        if bad:
            return _error(400, "invalid", "\n".join(bad))
        bound = now - bucket.retention * 1_000_000_000 if bucket.retention else None
        old = [(p, t) for p, t in points if bound is not None and t < bound]
        conflicts = [
            words
            for p, t in points
            if (bound is None or t >= bound) and (words := _store_point(bucket, p, t))
        ]
        if conflicts:  # what is past retention is then not told
            return _partial(f"{conflicts[0]} dropped={len(conflicts)}")
        if old and bound is not None:
            return _partial(_past_retention(old, bound, bucket))
        return web.Response(status=204)

    def _refuse(self, request: web.Request, *, need_write: bool) -> web.Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Token ")
        if token == self.read_only_token and need_write:
            return _error(403, "forbidden", "insufficient permissions for write")
        if token in self.rights:
            return self._refuse_made(request, self.rights[token])
        if token not in (self.token, self.read_only_token):
            return _error(401, "unauthorized", "unauthorized access")
        return None

    def _refuse_made(
        self, request: web.Request, rights: list[dict[str, Any]]
    ) -> web.Response | None:
        """Reading is told apart by what is shown (`_list`), here by the kind alone."""
        if request.method == "GET":
            return None
        bucket = self.buckets.get(request.query.get("bucket", ""))
        wanted = {"action": "write", "type": "buckets", "id": bucket.id if bucket else ""}
        has = [{"action": r["action"], **r["resource"]} for r in rights]
        if request.path == "/api/v2/write" and any(wanted.items() <= h.items() for h in has):
            return None
        return _error(401, "unauthorized", f"write:{request.path} is unauthorized")

    async def _authorize(self, request: web.Request) -> web.Response:
        refusal = self._refuse(request, need_write=True)
        if refusal is not None:
            return refusal
        document = await request.json()
        token = f"made-{self._number()}"
        self.rights[token] = document["permissions"]
        return web.json_response(document | {"token": token, "status": "active"}, status=201)

    # ---- management -----------------------------------------------------------------------------

    async def _list(self, request: web.Request) -> web.Response:
        refusal = self._refuse(request, need_write=False)
        if refusal is not None:
            return refusal
        kind, query = request.match_info["kind"], request.query
        org = query.get("org")
        if org is not None and org not in self.orgs:
            return _error(404, "not found", f'organization name "{org}" not found')
        if kind == "orgs":
            found = [{"id": i, "name": n} for n, i in self.orgs.items() if org in (None, n)]
        elif kind == "buckets":
            found = [_bucket_document(b) for b in self.buckets.values()]
        else:
            found = list(self.tasks.values())
        rights = self.rights.get(request.headers["Authorization"].removeprefix("Token "))
        if rights is not None:  # a token sees what it may read; the rest is not there for it
            read = [r["resource"] for r in rights if r["action"] == "read"]
            seen = [r for r in read if r["type"] == kind]
            found = [f for f in found if any(r.get("id") in (None, f["id"]) for r in seen)]
        name = query.get("name")
        return web.json_response({kind: [f for f in found if name in (None, f["name"])]})

    async def _create(self, request: web.Request) -> web.Response:
        refusal = self._refuse(request, need_write=True)
        if refusal is not None:
            return refusal
        kind, document = request.match_info["kind"], await request.json()
        if kind == "orgs":
            return web.json_response(
                {"id": self.add_org(document["name"]), "name": document["name"]}, status=201
            )
        if document.get("orgID") not in self.orgs.values():
            return _error(404, "not found", "organization not found")
        if kind == "buckets":
            if document["name"] in self.buckets:
                message = f"bucket with name {document['name']} already exists"
                return _error(422, "conflict", message)
            bucket = self.add_bucket(document["name"], _retention(document))
            return web.json_response(_bucket_document(bucket), status=201)
        ident = self._number()
        self.tasks[ident] = {
            "id": ident,
            "orgID": document["orgID"],
            "name": _task_name(document["flux"]),
            "flux": document["flux"],
            "status": document.get("status", "active"),
        }
        return web.json_response(self.tasks[ident], status=201)

    async def _update(self, request: web.Request) -> web.Response:
        refusal = self._refuse(request, need_write=True)
        if refusal is not None:
            return refusal
        kind, ident, document = (
            request.match_info["kind"],
            request.match_info["id"],
            await request.json(),
        )
        if kind == "tasks" and ident in self.tasks:
            self.tasks[ident] |= document
            return web.json_response(self.tasks[ident])
        bucket = next((b for b in self.buckets.values() if b.id == ident), None)
        if kind == "buckets" and bucket is not None:
            bucket.retention = _retention(document)
            return web.json_response(_bucket_document(bucket))
        return _error(404, "not found", f"{kind[:-1]} not found")


def _store_point(bucket: Bucket, point: Point, stamp: int) -> str | None:
    """Write one point; InfluxDB's words where a field has another type than before."""
    fields = {name: value for name, value in point.fields.items() if name != "time"}
    if not fields:
        return f'invalid field name: input field "time" on measurement "{point.measurement}" is invalid'
    for name, value in fields.items():
        known = bucket.types.get((point.measurement, name), type(value))
        if known is not type(value):
            return (
                f'field type conflict: input field "{name}" on measurement "{point.measurement}" '
                f"is type {_type_name(type(value))}, already exists as type {_type_name(known)}"
            )
    for name, value in fields.items():
        bucket.types[point.measurement, name] = type(value)
    place = (point.series, stamp)
    before = bucket.rows[place].fields if place in bucket.rows else {}
    bucket.rows[place] = Point(point.measurement, point.tags, {**before, **fields}, stamp)
    return None


def _type_name(kind: type) -> str:
    return {float: "float", int: "integer", bool: "boolean", str: "string"}[kind]


def _past_retention(old: list[tuple[Point, int]], bound: int, bucket: Bucket) -> str:
    def told(point: Point, stamp: int) -> str:
        return (
            f"point {point.series} at {_rfc3339(stamp)} dropped because it violates a "
            f"Retention Policy Lower Bound at {_rfc3339(bound)}"
        )

    oldest, newest = min(old, key=lambda o: o[1]), max(old, key=lambda o: o[1])
    hours, rest = divmod(bucket.retention, 3600)
    return (
        f"dropped {len(old)} points outside retention policy of duration "
        f"{hours}h{rest // 60}m{rest % 60}s - oldest {told(*oldest)}, newest {told(*newest)} "
        f"dropped={len(old)} for database: {bucket.id} for retention policy: autogen"
    )


def _rfc3339(stamp: int) -> str:
    second, fraction = divmod(stamp, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits}Z" if digits else f"{text}Z"


def _partial(words: str) -> web.Response:
    message = f"failure writing points to database: partial write: {words}"
    return _error(422, "unprocessable entity", message)


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response(
        {"code": code, "message": message},
        status=status,
        headers={"X-Platform-Error-Code": code},
    )


def _retention(document: dict[str, Any]) -> int:
    return sum(rule["everySeconds"] for rule in document.get("retentionRules", []))


def _bucket_document(bucket: Bucket) -> dict[str, Any]:
    rules = [{"type": "expire", "everySeconds": bucket.retention}]
    return {"id": bucket.id, "name": bucket.name, "retentionRules": rules}


def _task_name(flux: str) -> str:
    return flux.split('name: "', 1)[1].split('"', 1)[0]
