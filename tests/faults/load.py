"""The steady load: the simulator's publisher in a thread, and what it published."""

import asyncio
import heapq
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.faults.proxy import Key

from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.settings.model import TlsSettings
from greenlang_iot.simulate.fleet import FleetOptions
from greenlang_iot.simulate.manifest import Message
from greenlang_iot.simulate.publisher import Publisher, Target
from greenlang_iot.simulate.scenario import scenario


class Load:
    """Publishes a seeded fleet; `sent` has every message that was ever handed to the broker.

    extra: messages in the order of `when` to publish beside it.
    """

    def __init__(
        self,
        port: int,
        ca_file: Path,
        password_file: Path,
        options: FleetOptions,
        extra: Iterable[Message] = (),
        connections: int = 2,
    ) -> None:
        self.sent: dict[Key, Message] = {}
        self.confirmed: set[Key] = set()
        self.topics: set[str] = set()
        """Of what was confirmed: one for each device that was heard."""
        self.error: BaseException | None = None
        self._patience = 90.0 + connections / 20
        target = Target(
            "127.0.0.1",
            port,
            ssl_context(TlsSettings(ca_file=ca_file)),
            "simulator",
            password_file.read_text(),
            f"load-{time.time_ns()}",
        )
        run = scenario(options, time.time_ns(), waterflow=False)
        messages = heapq.merge(run.messages, extra, key=lambda message: message.when)
        self.publisher = Publisher(
            target, self._record, connections=connections, drain_timeout=20.0
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(messages,), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """Publish nothing more, wait until everything is confirmed."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.publisher.stop)
        self._thread.join(self._patience)
        assert not self._thread.is_alive(), "the load did not end"
        if self.error is not None:
            raise self.error

    def _run(self, messages: Iterable[Message]) -> None:
        try:
            self._loop.run_until_complete(self._publish(messages))
        except BaseException as error:
            self.error = error
        finally:
            self._loop.close()

    async def _publish(self, messages: Iterable[Message]) -> None:
        await self.publisher.run(self._noted(messages))

    def _noted(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            self.sent[message.topic, message.payload] = message
            yield message

    def _record(self, message: Message, confirmed: bool) -> None:
        if confirmed:
            self.confirmed.add((message.topic, message.payload))
            self.topics.add(message.topic)
