"""Setup of InfluxDB 1.x: two databases, their retention, and a continuous query.

1.x names the results the other way round: `mean_temperature`, where the 2.x task writes
`temperature_mean`; and it aggregates the `_score` fields as well.
"""

import re
from collections.abc import AsyncIterator
from typing import Any

from greenlang_iot.model.errors import SinkError
from greenlang_iot.sinks.influx_change import (
    WINDOWS_RECOMPUTED,
    Change,
    InfluxSetup,
    checked,
    duration,
)

_POLICY = "autogen"
_QUERY = "greenlang_iot_downsampling"


class InfluxSetup1(InfluxSetup):
    """InfluxDB 1.x, through `/query`; the user must be an admin where users are checked."""

    async def downsampling(self) -> str:
        await self._http.open()
        there = await self._continuous_query()
        return f"the continuous query is {'present' if there else 'missing'}"

    async def _differences(self) -> AsyncIterator[Change]:
        settings = self._settings
        for name, retention in (
            (settings.bucket, settings.retention),
            (settings.aggregated_bucket, settings.aggregated_retention),
        ):
            change = await self._database(name, duration(retention))
            if change:
                yield change
        wanted = self._continuous_query_text()
        current = await self._continuous_query()
        if current is None or _plain(current) != _plain(wanted):
            yield Change(
                f"continuous query {_QUERY}",
                "missing" if current is None else "another text",
                f"every {duration(settings.aggregated_every)}",
                lambda: self._replace_query(wanted, current is not None),
            )

    async def _database(self, name: str, keep: str) -> Change | None:
        databases = {row[0] for row in await self._query("SHOW DATABASES")}
        if name not in databases:
            create = f"CREATE DATABASE {_quoted(name)} WITH DURATION {keep} NAME {_POLICY}"
            return Change(f"database {name}", "missing", f"kept {keep}", lambda: self._run(create))
        rows = await self._query(f"SHOW RETENTION POLICIES ON {_quoted(name)}")
        policies = {row[0]: row[1] for row in rows}
        if _seconds(policies.get(_POLICY, "")) == _seconds(keep):
            return None
        verb = "ALTER" if _POLICY in policies else "CREATE"
        copies = "" if _POLICY in policies else " REPLICATION 1"
        change = (
            f"{verb} RETENTION POLICY {_POLICY} ON {_quoted(name)} DURATION {keep}{copies} DEFAULT"
        )
        return Change(
            f"database {name}",
            f"kept {policies.get(_POLICY, 'under another policy')}",
            f"kept {keep}",
            lambda: self._run(change),
        )

    def _continuous_query_text(self) -> str:
        settings = self._settings
        window = duration(settings.aggregated_every)
        again = duration(WINDOWS_RECOMPUTED * settings.aggregated_every)
        source, target, measurement = (
            _quoted(name)
            for name in (settings.bucket, settings.aggregated_bucket, settings.measurement)
        )
        return " ".join(
            (
                f"CREATE CONTINUOUS QUERY {_QUERY} ON {source} RESAMPLE FOR {again} BEGIN",
                "SELECT mean(*), min(*), max(*), count(*)",
                f"INTO {target}.{_POLICY}.{measurement}",
                f"FROM {source}.{_POLICY}.{measurement}",
                f"GROUP BY time({window}), * END",
            )
        )

    async def _continuous_query(self) -> str | None:
        answer = await self._answer("SHOW CONTINUOUS QUERIES")
        for series in answer:
            if series["name"] == self._settings.bucket:
                for name, text in series.get("values", []):
                    if name == _QUERY:
                        return str(text)
        return None

    async def _replace_query(self, text: str, there: bool) -> None:
        if there:
            await self._run(f"DROP CONTINUOUS QUERY {_QUERY} ON {_quoted(self._settings.bucket)}")
        await self._run(text)

    async def _run(self, statement: str) -> None:
        await self._answer(statement)

    async def _query(self, statement: str) -> list[list[str]]:
        return [row for series in await self._answer(statement) for row in series.get("values", [])]

    async def _answer(self, statement: str) -> list[dict[str, Any]]:
        answer = checked(await self._http.request("POST", "/query", params={"q": statement}))
        (result,) = answer.json()["results"]
        if "error" in result:
            raise SinkError(
                f"InfluxDB refused {statement!r}: {result['error']}",
                reason="refused_statement",
                retryable=False,
                down=True,
            )
        return list(result.get("series", []))


def _quoted(name: str) -> str:
    """An identifier of InfluxQL."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    """A statement without quotes and case, for comparison: the server rewrites both."""
    return re.sub(r'"', "", text).lower()


_PART = re.compile(r"(\d+)([dhms])")
_SIZE = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}


def _seconds(text: str) -> int | None:
    """Seconds in `720h0m0s` or `30d`; None for an empty text."""
    return sum(int(n) * _SIZE[unit] for n, unit in _PART.findall(text)) if text else None
