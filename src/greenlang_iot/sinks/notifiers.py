"""Telling people of alerts: Alertmanager (API v2), webhooks, the log.

Not told: what is pending, silenced, flapping (unless `flapping` is set), below the notifier's severity, and
members of an incident, for which the incident speaks. Whoever was told of an alert is told of its end, too.
"""

import asyncio
import datetime as dt
import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import aiohttp
import orjson
import structlog

from greenlang_iot.alerts.book import FLAPPING, SILENCED, Book, Document, is_notified
from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.model.severity import SEVERITIES
from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.mqtt.words import system_words
from greenlang_iot.settings.model import NotifierSettings, TlsSettings
from greenlang_iot.settings.template import render

AT_ONCE: Final = 500
"""Alerts in one request to Alertmanager."""
LABELS: Final = ("severity", "org", "site", "type", "device", "metric")
_TRANSIENT: Final = (408, 425, 429)

log = structlog.get_logger(__name__)


class Notifier(Protocol):
    """deliver: raises SinkError. run: what it does beside that, until cancelled."""

    async def deliver(self, items: list[Document]) -> None: ...
    async def run(self) -> None: ...
    async def close(self) -> None: ...


class Told:
    """Which alerts somebody was told of and not of their end."""

    def __init__(self, settings: NotifierSettings, book: Book, instance: str) -> None:
        self.settings = settings
        self.instance = instance
        self._book = book
        self._told: set[str] = set()
        for alert_id, alert in book.alerts.items():
            if alert.live and any(self._is_wanted(d) for d in (*alert.history, alert.last)):
                self._told.add(alert_id)

    def news(self, item: Document) -> bool:
        """Whether this transition is told. An opening that has joined an incident since is not."""
        alert_id = item["alert_id"]
        if item["state"] == "resolved":
            known = alert_id in self._told
            self._told.discard(alert_id)
            return known
        now = self._book.alerts.get(alert_id)
        if now is not None and now.last.get("group") and not item.get("group"):
            return False
        if not self._is_wanted(item):
            return False
        self._told.add(alert_id)
        return True

    def firing(self) -> list[Document]:
        """What is open and told, as it is now."""
        found = [self._book.alerts[i].last for i in self._told if i in self._book.alerts]
        return [d for d in found if self._is_wanted(d)]

    def _is_wanted(self, item: Document) -> bool:
        return (
            item["state"] in ("open", "acknowledged")
            and is_notified(item)
            and SEVERITIES.index(item["severity"]) >= SEVERITIES.index(self.settings.severity)
            and (self.settings.flapping or FLAPPING not in item["flags"])
        )


class LogNotifier:
    """One line of the gateway's log per transition."""

    def __init__(self, told: Told) -> None:
        self._told = told

    async def deliver(self, items: list[Document]) -> None:
        for item in items:
            if self._told.news(item):
                say = log.info if item["state"] == "resolved" else log.warning
                shown = ("state", "severity", "rule", "site", "device", "metric", "alert_id")
                say(item["summary"], **{k: item[k] for k in shown if item[k]})

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        return


class _Http:
    """POST, with answers as SinkErrors."""

    def __init__(self, settings: NotifierSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> None:
        if self._session is None:
            try:
                tls = ssl_context(self._settings.tls or TlsSettings())
            except InputError as error:  # a certificate is being replaced, or was taken away
                why = f"notifier {self._settings.name}: {error}"
                raise SinkError(why, reason="tls", down=True) from error
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=tls),
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout),
            )
        name = self._settings.name
        try:
            headers = {"Content-Type": "application/json", **headers}
            async with self._session.post(
                url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                text = (await answer.content.read(512)).decode(errors="replace")
                if self._settings.kind == "webhook":
                    text = _without(text, answer.url.raw_path_qs, answer.url.raw_path)
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(
                error, aiohttp.ClientSSLError
            ):
                why = f"{error.host}:{error.port}: {system_words(error.os_error)}"
            else:
                why = str(error) or "no answer in time"
            raise SinkError(f"notifier {name}: {why}", reason="unreachable") from error
        if answer.status >= 300:
            retryable = answer.status >= 500 or answer.status in _TRANSIENT
            raise SinkError(
                f"notifier {name} answered {answer.status}: {text}",
                reason=f"http_{answer.status}",
                retryable=retryable,
                down=answer.status in (401, 403, 404),
            )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _without(text: str, *paths: str) -> str:
    """What a page says of an address it does not know: the path of a webhook is often its password."""
    for named in paths:
        text = text.replace(named, "***") if len(named) > 1 else text
    return text


class WebhookNotifier:
    """One POST per transition.

    Idempotency-Key: the transition id. With a secret also X-Greenlang-Timestamp (seconds) and
    X-Greenlang-Signature, `sha256=` and the hex HMAC-SHA256 of `timestamp.body`.
    """

    def __init__(self, told: Told, clock: Callable[[], float] = time.time) -> None:
        self._told = told
        self._settings = told.settings
        self._http = _Http(told.settings)
        self._clock = clock
        self._undone: set[str] = set()  # transitions that were news, and failed

    async def deliver(self, items: list[Document]) -> None:
        for item in items:
            key = item["transition_id"]
            if key not in self._undone and not self._told.news(item):
                continue
            self._undone.add(key)
            try:
                await self._send(key, item)
            except SinkError as error:
                if error.retryable or error.down:
                    raise
                self._undone.discard(key)  # it will not come again
                raise
            self._undone.discard(key)

    async def _send(self, key: str, item: Document) -> None:
        template = self._settings.template
        body = orjson.dumps(item) if template is None else render(template, item)
        headers = {"Idempotency-Key": key}
        if self._settings.secret is not None:
            stamp = str(int(self._clock()))
            secret = self._settings.secret.get_secret_value().encode()
            signed = hmac.new(secret, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
            headers["X-Greenlang-Timestamp"] = stamp
            headers["X-Greenlang-Signature"] = f"sha256={signed}"
        await self._http.post(self._settings.url, body, headers)

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        await self._http.close()


class AlertmanagerNotifier:
    """POST /api/v2/alerts, at every transition and again every `resend` seconds while it is open.

    An alert that is not sent again within four times that ends there by itself (`endsAt`).
    """

    def __init__(self, told: Told, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._told = told
        self._settings = told.settings
        self._url = f"{told.settings.url.rstrip('/')}/api/v2/alerts"
        self._http = _Http(told.settings)
        self._clock_ns = clock_ns
        self._undone: dict[str, Document] = {}  # newest news of each alert, until it is sent

    async def deliver(self, items: list[Document]) -> None:
        for item in items:
            known = item["alert_id"] in self._undone
            if self._told.news(item) or (known and item["state"] == "resolved"):
                self._undone[item["alert_id"]] = item
            elif SILENCED in item["flags"]:
                self._undone.pop(item["alert_id"], None)
        news = {
            i["alert_id"]: self._undone[i["alert_id"]]
            for i in items
            if i["alert_id"] in self._undone
        }
        if not news:
            return
        try:
            await self._send(list(news.values()))
        except SinkError as error:
            if error.retryable or error.down or len(items) > 1:
                raise
            del self._undone[items[0]["alert_id"]]  # it will not come again
            raise
        for alert_id in news:
            del self._undone[alert_id]

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resend)
            firing = self._told.firing()
            try:
                for start in range(0, len(firing), AT_ONCE):
                    await self._send(firing[start : start + AT_ONCE])
            except SinkError as error:
                log.warning("alerts are not resent", notifier=self._settings.name, why=str(error))

    async def _send(self, items: list[Document]) -> None:
        await self._http.post(self._url, orjson.dumps([self._alert(i) for i in items]), {})

    def _alert(self, item: Document) -> dict[str, Any]:
        now_ns = self._clock_ns()
        ends = item["at"] if item["state"] == "resolved" else now_ns + self._lasts_ns()
        labels = {k: str(v) for k, v in item.get("labels", {}).items()}
        labels |= {k: str(item[k]) for k in LABELS if item.get(k)}
        labels |= {"alertname": item["rule"], "instance": self._told.instance}
        annotations = {"summary": item["summary"], "alert_id": item["alert_id"]}
        annotations |= {
            name: str(item[member])
            for name, member in (("runbook_url", "runbook"), ("acknowledged_by", "by"))
            if item.get(member)
        }
        alert = {
            "labels": labels,
            "annotations": annotations,
            "startsAt": _rfc3339(min(item["opened"], now_ns)),
            "endsAt": _rfc3339(ends),
        }
        if self._settings.console_url:
            base = self._settings.console_url.rstrip("/")
            alert["generatorURL"] = f"{base}/#/alerts/{item['alert_id']}"
        return alert

    def _lasts_ns(self) -> int:
        return int(4 * self._settings.resend * 1e9)

    async def close(self) -> None:
        await self._http.close()


def make_notifier(settings: NotifierSettings, book: Book, instance: str) -> Notifier:
    """The notifier of one entry of alerts.notifiers."""
    told = Told(settings, book, instance)
    if settings.kind == "webhook":
        return WebhookNotifier(told)
    if settings.kind == "alertmanager":
        return AlertmanagerNotifier(told)
    return LogNotifier(told)


def _rfc3339(ns: int) -> str:
    moment = dt.datetime.fromtimestamp(ns / 1e9, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
