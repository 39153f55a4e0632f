"""One network connection: the session's bytes on a transport, its timers, and the handler's calls.

It receives straight into the session's receive buffer. Bytes are gone through when the buffer is
nearly full or when the shard's `Linger` is over, never per read: a run of PUBLISH packets costs one
kernel call. Meanwhile the operating system wakes nobody for a few bytes (SO_RCVLOWAT): a broker that writes
each packet by itself would have the loop turn for each.
"""

import asyncio
import contextlib
import fcntl
import socket
import sys
import termios
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from greenlang_iot.model.batches import U8, U16
from greenlang_iot.model.errors import MqttError
from greenlang_iot.model.protocols import ConnectionHandler
from greenlang_iot.mqtt.linger import Linger
from greenlang_iot.mqtt.session import Event, Session, State

CLOSE_WITHIN = 2.0
"""Seconds for the last bytes and the TLS goodbye; then the connection is cut."""
WORTH_READING = 65_536
"""Bytes for which a link is woken before its linger is over."""


class Link(asyncio.BufferedProtocol):
    """From connect to close of one transport.

    made: called with this link when it has its transport, before anything is received.
    accepted, ready: done at the CONNACK and at the last SUBACK, or when it ended before them.
    closed: what ended the connection: an MqttError, another error of the handler, or None after
    `goodbye()`.
    quiet_since: when the handler got the last frames (loop time).
    """

    def __init__(
        self,
        session: Session,
        handler: ConnectionHandler,
        linger: Linger,
        made: Callable[["Link"], None],
        *,
        clean: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.accepted: asyncio.Future[None] = loop.create_future()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[Exception | None] = loop.create_future()
        self.quiet_since = loop.time()
        self._loop = loop
        self._session = session
        self._handler = handler
        self._linger = linger
        self._made = made
        self._clean = clean
        self._paused = False  # by the shard
        self._blocked = False  # by the window
        self._received = 0.0  # monotonic time of the first bytes of this flush; 0: none yet
        self._reading = True
        self._socket: Any = None
        self._dozing = False
        self._ending = False
        self._error: Exception | None = None
        self._acks: list[U8] = []
        self._transport: asyncio.Transport
        self._tick_timer: asyncio.TimerHandle | None = None
        self._cut_timer: asyncio.TimerHandle | None = None

    # what the connection tells

    def acknowledge(self, packet_ids: U16) -> None:
        """Send PUBACKs, those of one loop iteration in one write."""
        if self._ending:
            return
        if not self._acks:
            self._loop.call_soon(self._send_acks)
        self._acks.append(self._session.acknowledge(packet_ids, self._loop.time()))

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message at QoS 0, soon."""
        if not self._ending:
            self._session.publish(topic, payload)
            self._loop.call_soon(self._send_soon)

    def ping(self) -> int:
        """Ask whether the broker has more to say; the number of the question, for `answered`."""
        self._send_acks()  # first: each may have the broker send what it has queued
        number = self._session.ping(self._loop.time())
        self._tick()  # sends it
        return number

    def answered(self, ping: int) -> bool:
        """Has the broker answered that question, and was all that it sent before gone through?"""
        return self._session.answered(ping)

    def pause(self) -> None:
        self._paused = True
        self._set_reading()

    def resume(self) -> None:
        self._paused = False
        self._received = 0.0
        # Reading goes on after what is there was gone through: the buffer may have no room now.
        self._loop.call_soon(self._process)

    def goodbye(self, *, forget: bool = False) -> None:
        """Send pending PUBACKs and DISCONNECT (`forget`: end the session too), then close."""
        if not self._ending:
            self._blocked = False  # nothing more is handed over
            self._send_acks()
            self._session.disconnect(forget=forget)
            self._close()

    def abort(self) -> None:
        """Cut the connection."""
        self._ending = True
        self._transport.abort()

    # what the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")
        self._session.connect(self._loop.time(), clean=self._clean)
        self._made(self)
        self._tick()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._session.framer.space()

    def buffer_updated(self, nbytes: int) -> None:
        session = self._session
        if self._ending:
            return  # the bytes are overwritten: the framer was reset
        session.received(nbytes, self._loop.time())
        first = not self._received
        if first:
            self._received = time.monotonic()
        if session.framer.nearly_full or session.state is not State.ACTIVE:
            self._process()
        else:
            self._linger.add(self._process, self._wake, self._came)
            if first:
                self._doze()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ending:
            self._process()  # the last bytes may be a DISCONNECT that says why
        self._linger.discard(self._process)
        for timer in (self._tick_timer, self._cut_timer):
            if timer is not None:
                timer.cancel()
        connection = self._session.connection
        lost = self._session.lost(exc)
        if not self._ending:
            self._error = lost
        self._ending = True
        for milestone in (self.accepted, self.ready):
            if not milestone.done():
                milestone.set_result(None)
        if not self.closed.done():
            self.closed.set_result(self._error)
        if connection:
            reason = getattr(self._error, "reason", "closed")
            self._handler.on_disconnected(connection, reason)

    # inside

    def _process(self) -> None:
        """Go through the received bytes: frames to the handler, answers to the broker."""
        self._linger.discard(self._process)
        self._wake()
        try:
            while self._going:
                try:
                    event = self._session.advance()
                finally:
                    self._deliver()  # also what came before a packet that ends the connection
                if event is Event.NEED_DATA:
                    self._session.framer.compact()
                    self._received = 0.0
                    break
                self._happened(event)
        except Exception as error:  # ours or the handler's: either way this connection ends
            self._end(error)
            return
        self._send_control()
        self._set_reading()

    @property
    def _going(self) -> bool:
        """Whether bytes are read and gone through; up to the CONNACK nothing holds them up."""
        if self._ending:
            return False
        return self._session.state is State.CONNECTING or not (self._paused or self._blocked)

    def _doze(self) -> None:
        """Until the linger is over the kernel need not tell of every few bytes that came."""
        if not self._dozing:
            self._dozing = self._tell_from(WORTH_READING)

    def _wake(self) -> bool:
        """Whether it dozed: what came meanwhile is read next."""
        if not self._dozing:
            return False
        self._dozing = False
        return self._tell_from(1)

    def _tell_from(self, nbytes: int) -> bool:
        """Have the kernel tell of received bytes once they are so many; False where it cannot."""
        if self._socket is None or self._transport.is_closing():
            return False
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, nbytes)
        except OSError:
            return False
        return True

    def _came(self) -> int:
        """Bytes to go through, with those that the kernel has still."""
        unread = 0
        if self._socket is not None and not self._transport.is_closing():
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, bytes(4))
                unread = int.from_bytes(answer, sys.byteorder)
        return self._session.framer.unframed + unread

    def _deliver(self) -> None:
        if self._session.framer.frames:
            self.quiet_since = self._loop.time()
            frames = self._session.take(time.time_ns())
            # What waited for the window or a pause counts from now: that was back pressure.
            frames.received = self._received or time.monotonic()
            self._handler.on_frames(frames)

    def _happened(self, event: Event) -> None:
        if event is Event.BLOCKED:
            # not where the window was full of what came again only
            self._blocked = self._session.framer.window_full
        elif event is Event.ACCEPTED:
            self.accepted.set_result(None)
            self._tick()  # the broker may have shortened the keep-alive
        elif event is Event.READY:
            self.quiet_since = self._loop.time()
            self.ready.set_result(None)
            session = self._session
            self._handler.on_connected(session.connection, session.session_present)

    def _send_acks(self) -> None:
        if self._ending or not self._acks:
            return
        acks = self._acks[0] if len(self._acks) == 1 else np.concatenate(self._acks)
        self._acks = []
        self._transport.write(acks.data)
        if self._blocked:
            self._blocked = False
            self._received = 0.0
            self._process()

    def _send_control(self) -> None:
        out = self._session.outgoing(self._loop.time())
        if out:
            self._transport.write(out)

    def _send_soon(self) -> None:
        if not self._ending:
            self._send_control()

    def _set_reading(self) -> None:
        on = self._going
        if on != self._reading and not self._ending:
            self._reading = on
            self._session.reading(on, self._loop.time())
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _tick(self) -> None:
        if self._ending:
            return
        if self._tick_timer is not None:
            self._tick_timer.cancel()
        try:
            at = self._session.tick(self._loop.time())
        except MqttError as error:
            self._end(error)
            return
        self._send_control()
        self._tick_timer = self._loop.call_at(at, self._tick)

    def _end(self, error: Exception) -> None:
        self._error = error
        if isinstance(error, MqttError):
            self._session.disconnect(error=error)
        self._close()

    def _close(self) -> None:
        self._send_control()
        self._ending = True
        self._session.framer.reset()  # what still arrives has room and is dropped
        self._wake()
        self._transport.close()
        self._cut_timer = self._loop.call_later(CLOSE_WITHIN, self._transport.abort)
