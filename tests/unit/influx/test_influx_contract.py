"""InfluxDB 2.7's answers as a contract: the stand-in keeps it, and so does the real server.

The real one is used when INFLUXDB2_URL and INFLUXDB2_TOKEN (an operator token) are set; the tests make
an organisation and buckets of their own there, and remove them.
"""

import asyncio
import csv
import gzip
import io
import json
import os
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

import aiohttp
import pytest
from pydantic import SecretStr
from tests.fakes.influxdb2 import InfluxDB2

from greenlang_iot.model.errors import SinkError
from greenlang_iot.settings.model import InfluxSettings
from greenlang_iot.sinks.influx import InfluxSender
from greenlang_iot.sinks.influx_setup import influx_setup
from greenlang_iot.sinks.influx_setup2 import InfluxSetup2, flux_task, task_name

OLD = 1_000
NOW = time.time_ns() // 10**9 * 10**9


@dataclass
class Target:
    """One of the two servers, with an organisation and two buckets of the test's own."""

    url: str
    token: str
    org: str
    http: aiohttp.ClientSession
    stand_in: InfluxDB2 | None

    def settings(self, **changes: object) -> InfluxSettings:
        base = {"url": self.url, "token": SecretStr(self.token), "org": self.org}
        return InfluxSettings(**{**base, "aggregated_bucket": "agg", "retention": 3600, **changes})

    async def write(
        self, body: bytes, *, bucket: str = "iot_data", org: str | None = None, **more: str
    ) -> tuple[int, dict[str, str]]:
        params = {
            "org": org or self.org,
            "bucket": bucket,
            "precision": more.get("precision", "ns"),
        }
        headers = {"Authorization": f"Token {more.get('token', self.token)}"}
        if "encoding" in more:
            headers["Content-Encoding"] = more["encoding"]
        async with self.http.post(
            f"{self.url}/api/v2/write", params=params, data=body, headers=headers
        ) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text else {}

    async def points(self, bucket: str = "iot_data") -> dict[tuple[str, str, int], object]:
        """(tags as text, field, time) → value of measurement m or telemetry."""
        if self.stand_in is not None:
            return {
                (",".join(f"{k}={v}" for k, v in sorted(p["tags"].items())), f, p["time"]): value
                for p in self.stand_in.points(bucket)
                for f, value in p["fields"].items()
            }
        flux = f'from(bucket: "{bucket}") |> range(start: 0, stop: 2200-01-01T00:00:00Z)'
        async with self.http.post(
            f"{self.url}/api/v2/query",
            params={"org": self.org},
            json={"query": flux, "dialect": {"annotations": ["datatype"]}},
            headers={"Authorization": f"Token {self.token}"},
        ) as answer:
            assert answer.status == 200, await answer.text()
            return _points(await answer.text())


def _points(text: str) -> dict[tuple[str, str, int], object]:
    """Points of an annotated CSV answer."""
    found: dict[tuple[str, str, int], object] = {}
    for table in text.replace("\r\n", "\n").split("\n\n"):
        rows = list(csv.reader(io.StringIO(table.strip("\n"))))
        if len(rows) < 3:
            continue
        kinds, names = rows[0], rows[1]
        for row in rows[2:]:
            cells = dict(zip(names, row, strict=True))
            kind = dict(zip(names, kinds, strict=True))["_value"]
            value: object = cells["_value"]
            if kind in ("double", "long"):
                value = float(cells["_value"]) if kind == "double" else int(cells["_value"])
            tags = ",".join(
                f"{k}={v}"
                for k, v in sorted(cells.items())
                if not k.startswith("_") and k not in ("", "result", "table")
            )
            found[tags, cells["_field"], _nanoseconds(cells["_time"])] = value
    return found


def _nanoseconds(text: str) -> int:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 10**9 + int(fraction.ljust(9, "0") or 0)


REAL = bool(os.environ.get("INFLUXDB2_URL") and os.environ.get("INFLUXDB2_TOKEN"))


@pytest.fixture(params=["stand-in", "real"] if REAL else ["stand-in"])
async def target(request: pytest.FixtureRequest) -> AsyncIterator[Target]:
    async with aiohttp.ClientSession() as http:
        if request.param == "stand-in":
            async with InfluxDB2(org="", buckets=()) as server:
                yield await _prepared(Target(server.url, server.token, "mine", http, server))
            return
        url, token = os.environ["INFLUXDB2_URL"], os.environ["INFLUXDB2_TOKEN"]
        made = Target(url, token, f"contract-{uuid.uuid4().hex[:8]}", http, None)
        yield await _prepared(made)
        await _remove(made)


async def _prepared(target: Target) -> Target:
    setup = influx_setup(target.settings())
    await setup.apply()
    await setup.close()
    return target


async def _remove(target: Target) -> None:
    headers = {"Authorization": f"Token {target.token}"}
    async with target.http.get(
        f"{target.url}/api/v2/orgs", params={"org": target.org}, headers=headers
    ) as answer:
        (org,) = (await answer.json())["orgs"]
    async with target.http.delete(f"{target.url}/api/v2/orgs/{org['id']}", headers=headers) as gone:
        assert gone.status == 204


@pytest.mark.parametrize(
    ("body", "written"),
    [
        (b"", {}),
        (b"# a comment\n\n", {}),
        (b"m,a=b v=1,v=2 4000000000000000000\n", {("a=b", "v", 4 * 10**18): 2.0}),
        (b"m,a=b v=-0 4000000000000000000\n", {("a=b", "v", 4 * 10**18): -0.0}),
        (b"m,a=b v=1E5 4000000000000000000\n", {("a=b", "v", 4 * 10**18): 1e5}),
        (b"m,a=b v=1e-7 4000000000000000000\n", {("a=b", "v", 4 * 10**18): 1e-7}),
        (b"m,a=b v=1e+5 4000000000000000000\n", {("a=b", "v", 4 * 10**18): 1e5}),
        (
            b"m,a=b v=123456789012345678901234567890 4000000000000000000\n",
            {("a=b", "v", 4 * 10**18): 1.2345678901234568e29},
        ),
        (
            rb"m,a=x\ y\,z\=1 t\ \,\=m=1 4000000000000000000" + b"\n",
            {("a=x y,z=1", "t ,=m", 4 * 10**18): 1.0},
        ),
        ("m,a=日本 v=1 4000000000000000000\n".encode(), {("a=日本", "v", 4 * 10**18): 1.0}),
    ],
)
async def test_good_bodies(target: Target, body: bytes, written: dict[object, object]) -> None:
    assert await target.write(body) == (204, {})
    assert await target.points() == written


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        ("m,a=c", "missing fields"),
        ("m,a=c w 2001", "invalid field format"),
        ("m,a=c v= 2001", "missing field value"),
        ("m,a=c v=1x 2001", "invalid number"),
        ("m,a=c v=NaN 2001", "invalid number"),
        ("m,a=c v=abc 2001", "invalid boolean"),
        ("m,a=c v=1e400 2001", "invalid float"),
        ("m,a= v=1 2001", "missing tag value"),
        ("m,a=c,a=d v=1 2001", "duplicate tags"),
        ("m,a=c,time=1 v=1 7", 'cannot use reserved tag key "time"'),
        ("m,a=c v=1 20x", "bad timestamp"),
        ("m,a=c v=1 5001\r", "bad timestamp"),
        (
            "m,a=b v=1 9223372036854775807",
            "time outside range -9223372036854775806 - 9223372036854775806",
        ),
    ],
)
async def test_a_malformed_line_is_named_and_nothing_is_written(
    target: Target, line: str, ending: str
) -> None:
    status, document = await target.write(f"m,a=b v=1 {NOW}\n{line}\n".encode())
    assert (status, document["code"]) == (400, "invalid")
    assert document["message"] == f"unable to parse '{line}': {ending}"
    assert await target.points() == {}


async def test_several_malformed_lines_are_joined_by_newlines(target: Target) -> None:
    """Also a line of 70 kB is echoed whole."""
    long = "m,a=" + "x" * 70_000 + " v"
    _, document = await target.write(f"m v\nm,a=b v=1 {NOW}\n{long} 5\n".encode())
    assert document["message"] == (
        f"unable to parse 'm v': invalid field format\n"
        f"unable to parse '{long} 5': max key length exceeded: 70004 > 65535"
    )


async def test_a_type_conflict_drops_its_point_whole(target: Target) -> None:
    await target.write(f"m,a=b v=1i {NOW}\n".encode())
    status, document = await target.write(
        f"m,a=b v=2.5,w=1 {NOW + 1}\nm,a=b w=3 {NOW + 2}\n".encode()
    )
    assert (status, document["code"]) == (422, "unprocessable entity")
    assert document["message"] == (
        "failure writing points to database: partial write: field type conflict: input field "
        '"v" on measurement "m" is type float, already exists as type integer dropped=1'
    )
    assert await target.points() == {("a=b", "v", NOW): 1, ("a=b", "w", NOW + 2): 3.0}


async def test_points_past_retention_are_dropped(target: Target) -> None:
    status, document = await target.write(
        f"m,a=b v=1 {OLD}\nm,a=b v=2 {NOW}\nm,a=b v=3 {OLD + 1}\n".encode()
    )
    assert (status, document["code"]) == (422, "unprocessable entity")
    assert "dropped 2 points outside retention policy of duration 1h0m0s" in document["message"]
    assert " dropped=2 for database: " in document["message"]
    assert await target.points() == {("a=b", "v", NOW): 2.0}


async def test_the_name_time_is_no_field(target: Target) -> None:
    status, document = await target.write(
        f"m,a=b time=1 {NOW}\nm,a=b v=3,time=1 {NOW + 1}".encode()
    )
    assert status == 422
    assert document["message"].endswith(
        'invalid field name: input field "time" on measurement "m" is invalid dropped=1'
    )
    assert await target.points() == {("a=b", "v", NOW + 1): 3.0}


async def test_what_is_missing_or_forbidden(target: Target) -> None:
    assert await target.write(b"m v=1 1", bucket="nosuch") == (
        404,
        {"code": "not found", "message": 'bucket "nosuch" not found'},
    )
    assert await target.write(b"m v=1 1", org="nosuch") == (
        404,
        {"code": "not found", "message": 'organization name "nosuch" not found'},
    )
    assert await target.write(b"m v=1 1", token="bad") == (
        401,
        {"code": "unauthorized", "message": "unauthorized access"},
    )
    assert (await target.write(b"m v=1 1", precision="xx"))[0] == 400


async def test_nanoseconds_written_as_milliseconds_are_refused(target: Target) -> None:
    status, document = await target.write(f"m v=1 {NOW}".encode(), precision="ms")
    assert status == 400
    assert "time outside range" in document["message"]


async def test_truncated_gzip_is_a_500(target: Target) -> None:
    packed = gzip.compress(b"m v=1 1")[:15]
    assert await target.write(packed, encoding="gzip") == (
        500,
        {"code": "internal error", "message": "unable to read data: unexpected EOF"},
    )


async def test_the_sender_separates_every_kind_of_bad_line(target: Target) -> None:
    await target.write(f"telemetry,device=x odd=1i {NOW}\n".encode())
    lines = [f"telemetry,device=d{i} v={i},v_score=0.5 {NOW}".encode() for i in range(60)]
    lines[5] = f"telemetry,device=d5 odd=2,w=1 {NOW}".encode()
    lines[6] = b"telemetry,device=d6 v=1 17"
    lines[40] = b"telemetry,device=d40 v= 17"
    lines[41] = f"telemetry,device=d41 time=1 {NOW}".encode()
    sender = InfluxSender(target.settings(gzip=True))
    await sender.open()
    outcome = await sender.send(b"\n".join(lines) + b"\n", 61)
    await sender.close()
    assert {item.body: item.readings for item in outcome.refused} == {
        lines[5]: 2,
        lines[6]: 1,
        lines[40]: 1,
        lines[41]: 1,
    }
    assert outcome.delivered == 56
    stored = {tags for tags, field, _ in await target.points() if field == "v"}
    assert stored == {f"device=d{i}" for i in range(60) if i not in (5, 6, 40, 41)}


async def test_setup_is_idempotent_and_repairs(target: Target) -> None:
    setup = influx_setup(target.settings())
    assert await setup.plan() == []
    assert await setup.downsampling() == "the downsampling task has not run yet"
    await setup.close()
    changed = influx_setup(target.settings(retention=7200, aggregated_every=60))
    planned = [(c.subject, c.current, c.wanted) for c in await changed.plan()]
    assert planned == [
        ("bucket iot_data", "kept 1h", "kept 2h"),
        (f"task {task_name(target.settings())}", "another script", "every 1m"),
    ]
    assert [c.subject for c in await changed.apply()] == [subject for subject, _, _ in planned]
    assert await changed.plan() == []
    await changed.close()


async def test_the_gateways_token_may_write_and_look_and_no_more(target: Target) -> None:
    setup = InfluxSetup2(target.settings())
    token = await setup.gateway_token()
    assert await setup.takes(token)
    assert not await setup.takes("another")
    await setup.close()
    body = f"m f=1 {NOW}".encode()
    assert (await target.write(body, token=token))[0] == 204
    assert (await target.write(body, token=token, bucket="agg"))[0] in (401, 403)
    own = InfluxSetup2(target.settings(token=SecretStr(token)))
    assert await own.plan() == []  # what doctor shows
    with pytest.raises(SinkError, match=r"InfluxDB answered 40[13]"):
        await own.gateway_token()
    await own.close()


async def test_setup_of_a_new_organisation() -> None:
    async with InfluxDB2(org="", buckets=()) as server:
        setup = influx_setup(InfluxSettings(url=server.url, token=SecretStr(server.token)))
        assert [c.subject for c in await setup.plan()] == [
            "organization greenlang",
            "bucket iot_data",
            "bucket iot_aggregated",
            "task greenlang-iot iot_data to iot_aggregated",
        ]
        assert len(await setup.apply()) == 4
        assert await setup.plan() == []
        await setup.close()


@pytest.mark.parametrize("version", ["2", "1"])
async def test_setup_says_that_something_else_answers(version: str) -> None:
    async def empty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with await asyncio.start_server(empty, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        token = SecretStr("t") if version == "2" else None
        setup = influx_setup(
            InfluxSettings(url=f"http://127.0.0.1:{port}", version=version, token=token)
        )
        with pytest.raises(SinkError, match="what answers is no InfluxDB: HTTP 204"):
            await setup.plan()
        await setup.close()


def test_the_task_reads_whole_windows_that_are_over() -> None:
    flux = flux_task(InfluxSettings())
    assert "every: 5m, offset: 1m}" in flux
    assert "range(start: -30m)" in flux
    assert 'createEmpty: false, timeSrc: "_start"' in flux


@pytest.mark.skipif(not REAL, reason="a real InfluxDB 2.7 needs INFLUXDB2_URL and INFLUXDB2_TOKEN")
@pytest.mark.parametrize("target", ["real"], indirect=True)
async def test_the_task_keeps_mean_min_max_and_count(target: Target) -> None:
    """Runs the Flux task for real: 2 s windows, 6 of them, then what it wrote."""
    settings = target.settings(aggregated_every=2)
    setup = influx_setup(settings)
    await setup.apply()
    begin = time.time_ns() // (2 * 10**9) * 2 * 10**9
    body = "".join(
        f"telemetry,device=d{d} v={v},w={v},v_score=0.5 {begin + i * 10**8}\n"
        for d in (1, 2)
        for i, v in enumerate((1.0, 2.0, 6.0))
    )
    assert (await target.write(body.encode()))[0] == 204
    deadline = time.monotonic() + 20
    told = ""
    while not told.endswith(": success") and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
        found = await target.points("agg")
        told = await setup.downsampling() if found else ""
    await setup.close()
    assert found == {
        (f"device=d{d}", f"{field}_{name}", begin): value
        for d in (1, 2)
        for field in ("v", "w")
        for name, value in (("mean", 3.0), ("min", 1.0), ("max", 6.0), ("count", 3.0))
    }
    assert told.endswith(": success")
