"""Receiving for the counting sinks: requests are looked at where they were received, without a copy."""

import asyncio
import contextlib
import os
from abc import ABC, abstractmethod

import numpy as np

from greenlang_iot.model.batches import U8

SPARE = 256
"""Readable bytes behind what was received: the checking kernels look ahead."""
_ROOM = 1 << 20
"""Bytes that can be received at a time."""


def spared(content: bytes) -> U8:
    """A copy with SPARE bytes behind it."""
    data: U8 = np.frombuffer(content + bytes(SPARE), np.uint8)
    return data


class Inbox(asyncio.BufferedProtocol, ABC):
    """One connection; `take` is given all that is there and says how much of it is done with."""

    def __init__(self) -> None:
        self._data: U8 = np.zeros(4 * _ROOM + SPARE, np.uint8)
        self._first = self._end = 0

    @abstractmethod
    def take(self, data: U8, n: int) -> int:
        """Go through data[:n], which has SPARE bytes behind it; return how many are whole requests."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def answer(self, data: bytes, delay: float) -> None:
        """Send it now, not at the end of the loop's turn as `transport.write` does, or after `delay`."""
        if delay:
            # in order: timers of one length end as they began
            asyncio.get_running_loop().call_later(delay, self.transport.write, data)
            return
        sent = 0
        if not self.transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # full or closed: the transport knows what to do
                sent = os.write(self.transport.get_extra_info("socket").fileno(), data)
        if sent < len(data):
            self.transport.write(data[sent:])

    def get_buffer(self, sizehint: int) -> memoryview:
        if len(self._data) - SPARE - self._end < _ROOM:
            left = self._end - self._first
            data = self._data
            if left > len(data) // 4:
                self._data = np.zeros(2 * len(data), np.uint8)
            self._data[:left] = data[self._first : self._end]
            self._first, self._end = 0, left
        return self._data.data[self._end : len(self._data) - SPARE]

    def buffer_updated(self, nbytes: int) -> None:
        self._end += nbytes
        self._first += self.take(self._data[self._first :], self._end - self._first)
        if self._first == self._end:
            self._first = self._end = 0
