"""Setup of InfluxDB 2.x: organisation, buckets with retention, and the Flux task for downsampling."""

from collections.abc import AsyncIterator
from typing import Any

import orjson
from pydantic import SecretStr

from greenlang_iot.model.errors import SinkError
from greenlang_iot.settings.model import InfluxSettings
from greenlang_iot.sinks.influx_change import (
    WINDOWS_RECOMPUTED,
    Change,
    InfluxSetup,
    checked,
    duration,
)
from greenlang_iot.sinks.influx_http import Answer, InfluxHttp


def flux_task(settings: InfluxSettings) -> str:
    """The Flux task that keeps mean, min, max and count of every metric per window.

    The range is a whole number of windows that ends at the scheduled time, so every window in it is
    complete; `offset` lets late points arrive first; in the union every value must be a float.
    """
    every = settings.aggregated_every
    window = duration(every)
    return f"""import "strings"

option task = {{name: "{task_name(settings)}", every: {window}, offset: {duration(max(1, every // 5))}}}

readings = () => from(bucket: {_quoted(settings.bucket)})
    |> range(start: -{duration(WINDOWS_RECOMPUTED * every)})
    |> filter(fn: (r) => r._measurement == {_quoted(settings.measurement)})
    |> filter(fn: (r) => not strings.hasSuffix(v: r._field, suffix: "_score"))

windows = (fn, name) => readings()
    |> aggregateWindow(every: {window}, fn: fn, createEmpty: false, timeSrc: "_start")
    |> toFloat()
    |> map(fn: (r) => ({{r with _field: r._field + "_" + name}}))

union(tables: [
    windows(fn: mean, name: "mean"),
    windows(fn: min, name: "min"),
    windows(fn: max, name: "max"),
    windows(fn: count, name: "count"),
])
    |> to(bucket: {_quoted(settings.aggregated_bucket)}, org: {_quoted(settings.org)})
"""


def task_name(settings: InfluxSettings) -> str:
    return f"greenlang-iot {settings.bucket} to {settings.aggregated_bucket}"


def _quoted(text: str) -> str:
    return orjson.dumps(text).decode().replace("${", "\\${")


class InfluxSetup2(InfluxSetup):
    """InfluxDB 2.x, through its management API; the token must be allowed to manage the org."""

    async def downsampling(self) -> str:
        """Whether the task is there and how its last run went, in words."""
        await self._http.open()
        task = await self._find("tasks", name=task_name(self._settings), org=self._settings.org)
        if task is None:
            return "the downsampling task is missing"
        last = task.get("lastRunStatus")
        if not last:
            return "the downsampling task has not run yet"
        told = f"the downsampling task's last run ({task.get('latestCompleted', '?')}): {last}"
        return f"{told}: {task['lastRunError']}" if task.get("lastRunError") else told

    async def _differences(self) -> AsyncIterator[Change]:
        settings = self._settings
        org = await self._find("orgs", org=settings.org)
        if org is None:
            yield Change(
                f"organization {settings.org}",
                "missing",
                "present",
                lambda: self._post("orgs", {"name": settings.org}),
            )
            org = await self._find("orgs", org=settings.org)
        org_id = org["id"] if org else ""
        for bucket, retention in (
            (settings.bucket, settings.retention),
            (settings.aggregated_bucket, settings.aggregated_retention),
        ):
            change = await self._bucket(org_id, bucket, int(retention))
            if change:
                yield change
        change = await self._task(org_id)
        if change:
            yield change

    async def _bucket(self, org_id: str, name: str, retention: int) -> Change | None:
        rules = [{"type": "expire", "everySeconds": retention}] if retention else []
        wanted = _kept(retention)
        found = await self._find("buckets", orgID=org_id, name=name) if org_id else None
        if found is None:
            document = {"orgID": org_id, "name": name, "retentionRules": rules}
            return Change(
                f"bucket {name}", "missing", wanted, lambda: self._post("buckets", document)
            )
        current = sum(rule["everySeconds"] for rule in found["retentionRules"])
        if current == retention:
            return None
        document = {"retentionRules": rules or [{"type": "expire", "everySeconds": 0}]}
        return Change(
            f"bucket {name}",
            _kept(current),
            wanted,
            lambda: self._patch("buckets", found["id"], document),
        )

    async def _task(self, org_id: str) -> Change | None:
        settings = self._settings
        flux = flux_task(settings)
        subject = f"task {task_name(settings)}"
        wanted = f"every {duration(settings.aggregated_every)}"
        found = (
            await self._find("tasks", orgID=org_id, name=task_name(settings)) if org_id else None
        )
        if found is None:
            document = {"orgID": org_id, "flux": flux, "status": "active"}
            return Change(subject, "missing", wanted, lambda: self._post("tasks", document))
        if found["flux"] == flux and found["status"] == "active":
            return None
        current = "inactive" if found["status"] != "active" else "another script"
        return Change(
            subject,
            current,
            wanted,
            lambda: self._patch("tasks", found["id"], {"flux": flux, "status": "active"}),
        )

    async def gateway_token(self) -> str:
        """A new token that may write to the bucket and look at what setup makes, and no more.

        Raises SinkError, also where the organisation or a bucket is missing.
        """
        await self._open()
        settings = self._settings
        org = _there(await self._find("orgs", org=settings.org), settings.org)
        rights = [_right("read", "orgs", id=org), _right("read", "tasks", orgID=org)]
        for name in (settings.bucket, settings.aggregated_bucket):
            bucket = _there(await self._find("buckets", orgID=org, name=name), name)
            rights.append(_right("read", "buckets", id=bucket, orgID=org))
            if name == settings.bucket:
                rights.append(_right("write", "buckets", id=bucket, orgID=org))
        document = {"orgID": org, "description": "greenlang-iot run", "permissions": rights}
        answer = await self._write("POST", "/api/v2/authorizations", document)
        token: str = answer.json()["token"]
        return token

    async def takes(self, token: str) -> bool:
        """Whether InfluxDB lets this token write to the bucket. Raises SinkError."""
        settings = self._settings.model_copy(update={"token": SecretStr(token)})
        http = InfluxHttp(settings, connections=1)
        await http.open()
        try:
            params = {"org": settings.org, "bucket": settings.bucket, "precision": "ns"}
            answer = await http.request("POST", "/api/v2/write", params=params, body=b"")
            return answer.status < 300
        finally:
            await http.close()

    async def _find(self, kind: str, **params: str) -> dict[str, Any] | None:
        """The one entity of that name, or None."""
        answer = await self._http.request("GET", f"/api/v2/{kind}", params=params)
        if answer.status == 404:
            return None
        found = checked(answer).json()[kind]
        return found[0] if found else None

    async def _post(self, kind: str, document: dict[str, Any]) -> None:
        await self._write("POST", f"/api/v2/{kind}", document)

    async def _patch(self, kind: str, ident: str, document: dict[str, Any]) -> None:
        await self._write("PATCH", f"/api/v2/{kind}/{ident}", document)

    async def _write(self, method: str, path: str, document: dict[str, Any]) -> Answer:
        return checked(
            await self._http.request(
                method,
                path,
                body=orjson.dumps(document),
                headers={"Content-Type": "application/json"},
            )
        )


def _there(found: dict[str, Any] | None, name: str) -> str:
    if found is None:
        raise SinkError(f"InfluxDB has no {name}: a token cannot be made for it", reason="missing")
    ident: str = found["id"]
    return ident


def _right(action: str, kind: str, **resource: str) -> dict[str, Any]:
    return {"action": action, "resource": {"type": kind, **resource}}


def _kept(retention: int) -> str:
    return f"kept {duration(retention)}" if retention else "kept for ever"
