"""InfluxDB: reachable, token, organisation and bucket, retention, downsampling."""

import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Final

from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.runtime.doctor.finding import Finding
from greenlang_iot.settings.model import InfluxSettings
from greenlang_iot.sinks.influx_change import other_version
from greenlang_iot.sinks.influx_http import Answer, InfluxHttp
from greenlang_iot.sinks.influx_setup import influx_setup

CLOCK_APART: Final = 5.0
"""Seconds between this machine's clock and InfluxDB's that are worth a warning."""
_SETUP = "run `greenlang-iot setup`"


async def influxdb(settings: InfluxSettings) -> AsyncIterator[Finding]:
    """Each check only where the one before it let us through; writes nothing."""
    http = InfluxHttp(settings, connections=1)
    try:
        await http.open()
        ping = await http.request("GET", "/ping")
    except (SinkError, InputError) as error:
        advice = "start InfluxDB, or correct sinks.influxdb.url"
        if isinstance(error, InputError) or error.reason == "tls":
            advice = "correct sinks.influxdb.tls (ca_file), or the certificate"
        await http.close()
        yield Finding("influxdb", "failed", str(error), advice)
        return
    try:
        version = ping.headers.get("X-Influxdb-Version", "unknown version")
        yield Finding("influxdb", "ok", f"{settings.url} answers ({version})")
        if clocks := _clocks(ping):
            yield clocks
        if there := other_version(ping, settings):
            said = f"the server is {there}, the settings say {settings.version}"
            advice = f'set sinks.influxdb.version to "{there[0]}"'
            yield Finding("influxdb: version", "failed", said, advice)
            return
        if settings.version == "2":
            rights = await _write_rights(http, settings)
            yield rights
            if rights.state == "failed":
                return
    except SinkError as error:
        yield Finding("influxdb: write", "failed", str(error), "look into InfluxDB's log")
        return
    finally:
        await http.close()
    async for finding in _management(settings):
        yield finding


def _clocks(ping: Answer) -> Finding | None:
    date = ping.headers.get("Date")
    if date is None:
        return None
    apart = time.time() - parsedate_to_datetime(date).timestamp()
    if abs(apart) <= CLOCK_APART:
        return Finding("influxdb: clock", "ok", "agrees with this machine's")
    return Finding(
        "influxdb: clock",
        "warning",
        f"this machine's clock is {apart:+.0f} s apart from InfluxDB's",
        "synchronise both clocks (NTP)",
    )


async def _write_rights(http: InfluxHttp, settings: InfluxSettings) -> Finding:
    """An empty write is checked for rights, organisation and bucket, and writes nothing."""
    subject = f"influxdb: write to {settings.org}/{settings.bucket}"
    params = {"org": settings.org, "bucket": settings.bucket, "precision": "ns"}
    answer = await http.request("POST", "/api/v2/write", params=params, body=b"")
    if answer.status < 300:
        return Finding(subject, "ok", "granted")
    advice = {
        401: "the token is unknown: set GREENLANG_IOT__SINKS__INFLUXDB__TOKEN or token_file",
        403: f"the token may not write: make one with write access to {settings.bucket}",
        404: f"{_SETUP} with a token that may manage the organisation, or correct org and bucket",
    }.get(answer.status, "look into InfluxDB's log")
    return Finding(subject, "failed", f"{answer.status}: {answer.message}", advice)


async def _management(settings: InfluxSettings) -> AsyncIterator[Finding]:
    """Buckets, retention and downsampling, as far as this login may look at them."""
    setup = influx_setup(settings)
    try:
        changes = await setup.plan()
        if any(change.subject == f"organization {settings.org}" for change in changes):
            # a write was granted, so it is there: InfluxDB shows a token only what it may read
            yield _unseen("InfluxDB shows it no organisation")
            return
        for change in changes:
            places = (f"bucket {settings.bucket}", f"database {settings.bucket}")
            nowhere = change.current == "missing" and change.subject in places
            yield Finding(
                f"influxdb: {change.subject}",
                "failed" if nowhere else "warning",
                f"{change.current}; the settings say {change.wanted}",
                _SETUP,
            )
        if not changes:
            yield Finding("influxdb: buckets and retention", "ok", "as the settings say")
        said = await setup.downsampling()
        good = said.endswith(("success", "is present")) or "not run yet" in said
        yield Finding(
            "influxdb: downsampling",
            "ok" if good else "warning",
            said,
            "" if good else f"{_SETUP}; then look at the task's runs in InfluxDB",
        )
    except SinkError as error:
        yield _unseen(str(error))
    finally:
        await setup.close()


def _unseen(why: str) -> Finding:
    return Finding(
        "influxdb: buckets and tasks",
        "skipped",
        f"this login may not look at them ({why})",
        "run doctor once with a login that may manage the organisation",
    )
