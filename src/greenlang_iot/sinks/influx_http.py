"""HTTP towards InfluxDB: sessions, credentials, and what can go wrong on the way."""

import base64
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from greenlang_iot.model.errors import SinkError
from greenlang_iot.model.pieces import Body
from greenlang_iot.mqtt.tls import handshake_words, ssl_context
from greenlang_iot.mqtt.words import system_words
from greenlang_iot.settings.model import InfluxSettings, TlsSettings

LONGEST_ANSWER = 16_777_216
"""Bytes of one answer; a list of thousands of buckets has two million."""
_SLICE = 262_144
"""Bytes given to the transport at once, so that a large body does not hold up the loop."""


@dataclass(slots=True, frozen=True)
class Answer:
    """What InfluxDB said: headers case-insensitive, `message` in its own words (2.x and 1.x)."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The document. SinkError where the body is none: something else answers at that address."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            shown = self.body[:100].decode(errors="replace")
            raise SinkError(
                f"what answers is no InfluxDB: HTTP {self.status} with {shown!r} instead of JSON",
                reason="answer",
                retryable=False,
            ) from error

    @property
    def error(self) -> str | None:
        """The message of InfluxDB's own error document; None if it is not one."""
        try:
            document = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(document, dict):
            return None
        message = document.get("message", document.get("error"))
        return message if isinstance(message, str) else None

    @property
    def message(self) -> str:
        return self.error or self.body[:500].decode(errors="replace") or f"HTTP {self.status}"


class InfluxHttp:
    """A few connections to one InfluxDB. Every failure on the way is a SinkError."""

    def __init__(self, settings: InfluxSettings, *, connections: int) -> None:
        self._settings = settings
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None
        self._login = b""  # what no answer may show

    async def open(self) -> None:
        """Make the session and see that something answers at the URL."""
        if self._session is None:
            settings = self._settings
            headers = _credentials(settings)
            self._login = headers.get("Authorization", "").partition(" ")[2].encode()
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._connections, ssl=_tls(settings)),
                timeout=aiohttp.ClientTimeout(total=settings.timeout),
                headers=headers,
            )
        try:
            await self.request("GET", "/ping")
        except SinkError:
            await self.close()
            raise

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request and its whole answer, whatever the status. Raises SinkError."""
        assert self._session is not None, "open() comes first"
        sent = dict(headers or {})
        data: Body | AsyncIterator[memoryview] | None = body
        if body is not None and (len(body) > _SLICE or not isinstance(body, bytes)):
            sent["Content-Length"] = str(len(body))
            data = _slices(body)
        try:
            async with self._session.request(
                method,
                self._settings.url.rstrip("/") + path,
                params=params,
                data=data,
                headers=sent,
                allow_redirects=False,
            ) as response:
                whole = await self._whole(response)
                if self._login and not response.ok:
                    # some proxies echo the request, and commands print what was answered
                    whole = whole.replace(self._login, b"***")
                return Answer(response.status, response.headers, whole)
        except TimeoutError as error:
            raise SinkError(
                f"InfluxDB at {self._settings.url} did not answer within {self._settings.timeout:g} s",
                reason="timeout",
            ) from error
        except aiohttp.ClientSSLError as error:
            cause = (
                error.certificate_error
                if isinstance(error, aiohttp.ClientConnectorCertificateError)
                else error.os_error
            )
            why = handshake_words(cause)[1] if isinstance(cause, ssl.SSLError) else str(cause)
            raise SinkError(
                f"no connection to InfluxDB at {self._settings.url}: {why}",
                reason="tls",
                down=True,
            ) from error
        except aiohttp.ClientConnectorError as error:
            raise SinkError(
                f"InfluxDB at {self._settings.url} cannot be reached: {system_words(error.os_error)}",
                reason="refused",
                down=True,
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise SinkError(
                f"the connection to InfluxDB at {self._settings.url} broke: {error!r}",
                reason="reset",
            ) from error

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for part in response.content.iter_any():
            body += part
            if len(body) > LONGEST_ANSWER:
                response.close()
                raise SinkError(
                    f"what answers at {self._settings.url} is no InfluxDB: "
                    f"it sends more than {LONGEST_ANSWER:,} bytes",
                    reason="answer",
                    down=True,
                )
        return bytes(body)


def _tls(settings: InfluxSettings) -> ssl.SSLContext | bool:
    """True where plain HTTP is spoken: reading the system's CAs takes 0.05 s."""
    if settings.tls is None and settings.url.startswith("http:"):
        return True
    return ssl_context(settings.tls or TlsSettings())


def _credentials(settings: InfluxSettings) -> dict[str, str]:
    if settings.version == "2":
        if settings.token is None:
            return {}
        return {"Authorization": f"Token {settings.token.get_secret_value()}"}
    if settings.username is None:
        return {}
    password = settings.password.get_secret_value() if settings.password else ""
    pair = base64.b64encode(f"{settings.username}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


async def _slices(body: Body) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(view), _SLICE):
        yield view[start : start + _SLICE]
