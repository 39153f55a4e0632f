"""A small MQTT 5 broker on one event loop: for the demo, the tests and the bench.

QoS 0 and 1, wildcards, retained messages, last will, persistent sessions, `$share`, TLS. It never
drops a QoS 1 message: beyond a bound it withholds PUBACKs from the publishers. State lives in
memory and ends with the process; there is no access control beyond user and password. MQTT 3.1.1,
QoS 2 and subscription identifiers are refused. A message's expiry interval is passed on unchanged.
"""

import asyncio
import contextlib
import ssl

from greenlang_iot.simulate.broker_connection import Connection, Connections
from greenlang_iot.simulate.broker_router import BrokerOptions, Reason, Router

_SWEEP_EVERY = 1.0
"""Seconds between two looks for clients that are silent."""
_STOP_WAIT = 2.0
"""Seconds that clients have to close, at the end."""


class Broker:
    """`await start()`, then clients may connect to `host`:`port`; `await stop()` ends it."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: ssl.SSLContext | None = None,
        options: BrokerOptions | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._options = options or BrokerOptions()
        self._router = Router(self._options)
        self.counters = self._router.counters
        self._connections = Connections()
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle

    async def start(self) -> int:
        """Listen; returns the port (`port=0`: any free one). OSError where that fails."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._router, self._connections, loop.time),
            self.host,
            self.port,
            ssl=self._tls,
            ssl_handshake_timeout=self._options.connect_timeout if self._tls else None,
            ssl_shutdown_timeout=_STOP_WAIT if self._tls else None,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        self._sweep = loop.call_later(_SWEEP_EVERY, self._disconnect_silent, loop)
        return self.port

    async def stop(self) -> None:
        """Tell every client, close, forget all sessions; idempotent."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self._connections.open):
            connection.disconnect(Reason.SERVER_SHUTTING_DOWN, "the broker is shutting down")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connections.none_left.wait(), _STOP_WAIT)
        for connection in list(self._connections.open):
            connection.abort()
        self._router.close()
        self._sweep.cancel()
        await self._server.wait_closed()
        self._server = None

    def _disconnect_silent(self, loop: asyncio.AbstractEventLoop) -> None:
        """Keep-alive, clients that never connect, sockets that do not close."""
        now = loop.time()
        for connection in list(self._connections.open):
            idle = now - connection.last_seen
            if connection.session is None:
                if idle > self._options.connect_timeout:
                    connection.abort()
            elif connection.keep_alive and idle > 1.5 * connection.keep_alive:
                connection.disconnect(Reason.KEEP_ALIVE_TIMEOUT, "nothing heard in 1.5 keep-alives")
        self._sweep = loop.call_later(_SWEEP_EVERY, self._disconnect_silent, loop)
