"""One client id at one broker: connects, reconnects with jitter, hands the frames over."""

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from greenlang_iot.model.batches import U16
from greenlang_iot.model.errors import InputError, MqttError
from greenlang_iot.model.protocols import ConnectionHandler
from greenlang_iot.mqtt import words
from greenlang_iot.mqtt.linger import Linger
from greenlang_iot.mqtt.link import Link
from greenlang_iot.mqtt.session import Session
from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.settings.model import BatchSettings, BrokerSettings, TlsSettings

RETRY_FIRST = 0.1
RETRY_CAP = 4.0
"""Seconds; between them decorrelated jitter: uniform(first, 3 × the last wait)."""

T = TypeVar("T")

_log = structlog.get_logger("mqtt")


class Connection:
    """One client id at one broker; connects again by itself.

    filters: topic filters to subscribe at `qos` (0 or 1). next_number gives the number of each
    successful connection. At most `broker.receive_maximum` messages are with the handler and not
    acknowledged; then reading waits, whatever the broker does.

    linger: shared by the connections of a shard, so that what they receive is flushed together;
    without it, one of its own.
    retire: the client id is of no use any more: unsubscribe `filters`, let the handler have what
    the broker still queued, and when all of it is acknowledged, nothing came for `quiet` seconds
    and the broker answers, end the session at the broker; then `run()` returns.
    """

    def __init__(
        self,
        broker: BrokerSettings,
        client_id: str,
        filters: Sequence[str],
        qos: int,
        batch: BatchSettings,
        handler: ConnectionHandler,
        next_number: Callable[[], int],
        *,
        linger: Linger | None = None,
        retire: bool = False,
        quiet: float = 2.0,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._handler = handler
        self._linger = linger or Linger(batch.linger)
        self._retire = retire
        self._quiet = quiet
        self._session = Session(
            broker, client_id, filters, qos, batch.max_bytes, next_number, retire=retire
        )
        self._failure: MqttError | None = None
        self._files_were_good = False
        self._link: Link | None = None
        self._paused = False
        self._closing = asyncio.Event()
        self._finished = asyncio.Event()
        self._finished.set()
        self._log = _log.bind(broker=broker.name, client_id=client_id)

    @property
    def number(self) -> int:
        """Number of the current connection; 0 without one."""
        return self._session.connection

    @property
    def problem(self) -> MqttError | None:
        """Why the last attempt failed; None when it is connected, or was not tried yet."""
        return self._failure

    @property
    def limits(self) -> list[str]:
        """Sentences about what the broker did not grant as asked, refused topic filters first."""
        return self._session.problems

    @property
    def unacknowledged(self) -> int:
        """Messages with the handler that were not acknowledged on this connection."""
        return self._session.framer.unacknowledged if self._session.connection else 0

    def acknowledge(self, connection: int, packet_ids: U16) -> None:
        """PUBACK these packets (ids are copied, none may be 0), if `connection` is still current."""
        if self._link is not None and connection == self._session.connection != 0:
            self._link.acknowledge(packet_ids)

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message at QoS 0; without a connection it is not sent."""
        if self._link is not None and self._session.connection:
            self._link.publish(topic, payload)

    def pause(self) -> None:
        """Read nothing more and hand nothing over until `resume()`; PINGREQ still goes out."""
        self._paused = True
        if self._link is not None:
            self._link.pause()

    def resume(self) -> None:
        """Go on after `pause()`."""
        self._paused = False
        if self._link is not None:
            self._link.resume()

    async def run(self) -> None:
        """Stay connected until `close()`, or until the retired session is gone.

        Raises MqttError (not retryable) where connecting again cannot help, for example when the
        session was taken over; InputError for TLS files that are wrong from the start; and whatever
        the handler raised.
        """
        self._finished.clear()
        try:
            await self._stay_connected()
        finally:
            if self._link is not None:
                self._link.abort()
                self._link = None
            self._finished.set()

    async def close(self) -> None:
        """Send pending PUBACKs, disconnect (the broker keeps the session); returns with `run()`.

        What was received and not handed over yet never will be; at QoS 1 the broker sends it again.
        """
        self._closing.set()
        if self._link is not None:
            self._link.goodbye()
        await self._finished.wait()

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        wait = RETRY_FIRST
        while not self._closing.is_set():
            started = loop.time()
            try:
                await self._live()
                return
            except MqttError as error:
                self._tell(error)
                if not error.retryable:
                    raise
            if loop.time() - started > RETRY_CAP:
                wait = RETRY_FIRST  # it lasted a while: no pattern of failures
            wait = min(RETRY_CAP, random.uniform(RETRY_FIRST, 3 * wait))
            await self._unless_closing(asyncio.sleep(wait))

    async def _live(self) -> None:
        """One network connection from connect to close; returns where no other shall follow."""
        link = await self._unless_closing(self._open())
        if link is None:
            return
        await link.ready
        if not link.closed.done():
            self._failure = None
            session = self._session
            self._log.info("connected", number=self.number, session_present=session.session_present)
            for problem in session.problems:
                self._log.warning("connected_with_limits", problem=problem)
        if self._retire and await self._drained(link):
            await self._end_session(link)
            return
        error = await link.closed
        if error is not None:
            raise error

    async def _open(self, *, clean: bool = False) -> Link:
        """A network connection whose CONNECT was answered. MqttError says why there is none."""
        broker = self._broker
        context = self._context(broker.tls) if broker.tls is not None else None
        if broker.tls is not None and not broker.tls.verify:
            self._log.warning("tls_not_verified", advice="any certificate is accepted: tests only")
        link = Link(self._session, self._handler, self._linger, self._use, clean=clean)
        try:
            async with asyncio.timeout(broker.connect_timeout):
                await asyncio.get_running_loop().create_connection(
                    lambda: link, broker.host, broker.port, ssl=context
                )
                await asyncio.shield(link.accepted)
        except OSError as error:
            if self._link is link:
                link.abort()
            tls = context is not None
            raise words.no_connection(broker.host, broker.port, error, tls=tls) from error
        except asyncio.CancelledError:
            if self._link is link:
                link.abort()
            raise
        return link

    def _context(self, tls: TlsSettings) -> ssl.SSLContext:
        """Read for every connection, so that files may be replaced while the gateway runs."""
        try:
            return ssl_context(tls)
        except InputError as error:
            if not self._files_were_good:
                raise
            raise MqttError(str(error), reason="tls_files") from error  # being replaced just now

    def _use(self, link: Link) -> None:
        """From now on acknowledgements go there: frames may come before `_open` goes on."""
        self._link = link
        self._files_were_good = True
        if self._paused:
            link.pause()

    async def _drained(self, link: Link) -> bool:
        """Wait until nothing came for `quiet` seconds and all is acknowledged; False: it closed.

        A broker that stands still for as long sends nothing either, and what it has queued would be
        lost with its session: it has to answer a PINGREQ after that time, and to send nothing before.
        """
        loop = asyncio.get_running_loop()
        asked: int | None = None
        while not link.closed.done():
            left = link.quiet_since + self._quiet - loop.time()
            if left > 0 or self.unacknowledged:
                asked = None
            elif asked is None:
                asked = link.ping()
            elif link.answered(asked):
                return True
            await asyncio.wait({link.closed}, timeout=max(left, self._quiet / 8))
        return False

    async def _end_session(self, link: Link) -> None:
        link.goodbye(forget=True)
        await link.closed
        if self._broker.protocol == "3.1.1":
            # That version has no session expiry: a clean session in its place ends the old one.
            last = await self._unless_closing(self._open(clean=True))
            if last is not None:
                last.goodbye()
                await last.closed

    async def _unless_closing(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of `work`, or None, with `work` cancelled, when `close()` is called first."""
        task = asyncio.ensure_future(work)
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({task, closing}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            closing.cancel()
            await asyncio.wait({task, closing})

    def _tell(self, error: MqttError) -> None:
        """Log a failure once, not at every attempt."""
        if self._failure is None or str(self._failure) != str(error):
            self._log.warning("not_connected", reason=error.reason, problem=str(error))
        self._failure = error
