"""The stand-in for InfluxDB 2.x in a thread of its own, for tests that are not asyncio."""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any

from tests.fakes.influxdb2 import Fault, InfluxDB2
from tests.faults.readers import Identity, identities


class StandIn:
    """One server; `fault` scripts what the next writes meet."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = InfluxDB2()
        self._call(self._server.start())
        self.url = self._server.url
        self.token = self._server.token

    def reset(self) -> None:
        """An empty bucket and no faults."""
        self._call(self._reset())

    def fault(self, *faults: Fault) -> None:
        """Each is used up by one write; they are there when this returns."""
        self._call(self._add(faults))

    def heal(self) -> None:
        """Forget the faults that were not used up."""
        self._loop.call_soon_threadsafe(self._server.faults.clear)

    def change_token(self, token: str) -> None:
        """From now on this is the right one."""
        self._server.token = token

    def slow(self, seconds: float) -> None:
        """Every write takes so long; several go side by side."""
        self._server.delay = seconds

    def limit_body(self, size: int) -> None:
        """Larger bodies are answered with 413; 0: no limit."""
        self._server.max_body = size

    @property
    def faults_left(self) -> int:
        return len(self._server.faults)

    @property
    def answers(self) -> list[int]:
        """Status of every write since `reset`."""
        return [status for status, _ in self._server.writes]

    def stop(self) -> None:
        self._call(self._server.stop())

    def start(self) -> None:
        self._call(self._server.start())

    def points(self) -> list[dict[str, Any]]:
        """Every point of every measurement: measurement, tags, fields, time."""
        return self._server.points()

    def identities(self) -> Iterator[Identity]:
        for point in self.points():
            if point["measurement"] == "telemetry":
                yield from identities(point["tags"]["device"], point["fields"], point["time"])

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _add(self, faults: Iterable[Fault]) -> None:
        self._server.faults.extend(faults)

    async def _reset(self) -> None:
        self._server.faults.clear()
        self._server.buckets.clear()
        self._server.add_bucket("iot_data")
        self._server.writes.clear()
        self._server.max_body = 0
        self._server.delay = 0.0
        self._server.token = self.token

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)
