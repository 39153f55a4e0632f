"""The connections of a shard: which stand, whose acknowledgement is whose, and those of an earlier layout."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from greenlang_iot.acks.ledger import Ledger
from greenlang_iot.model.batches import U16, FrameBatch, Publication
from greenlang_iot.model.errors import InputError, MqttError
from greenlang_iot.mqtt.linger import Linger
from greenlang_iot.mqtt.transport import Connection
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime.earlier_layouts import mark_drained
from greenlang_iot.runtime.gauges import ShardGauges
from greenlang_iot.runtime.layout import ConnectionPlan
from greenlang_iot.runtime.spec import ShardSpec

log = structlog.get_logger(__name__)
LOOK_EVERY = 0.1
"""Seconds between two looks at the other shards, before an earlier layout is drained."""


class Connections:
    """The connections of the plan and, while they last, those that are retired; a `ConnectionHandler` that gives what comes to `process`."""

    def __init__(
        self,
        spec: ShardSpec,
        counters: Counters,
        gauges: ShardGauges,
        ledger: Ledger,
        process: Callable[[FrameBatch], None],
    ) -> None:
        self._spec = spec
        self._counters = counters
        self._gauges = gauges
        self._ledger = ledger
        self._process = process
        self._up: set[int] = set()  # numbers of connections that are subscribed
        self._owners: dict[int, Connection] = {}  # by connection number, from the first ack on
        self._numbers = 0
        self._linger = Linger(spec.settings.batch.linger)
        self._closing = False
        self.paused = False
        self.own = [self._make(item) for item in spec.plan.connections]
        """Those of the plan, in its order."""
        self.all = [*self.own]
        """And those that are being retired."""

    def _make(self, item: ConnectionPlan, *, retire: bool = False) -> Connection:
        settings = self._spec.settings
        return Connection(
            settings.mqtt.brokers[item.broker],
            item.client_id,
            item.filters,
            settings.mqtt.qos,
            settings.batch,
            self,
            self._next_number,
            linger=self._linger,
            retire=retire,
        )

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # ---- what the pipeline calls --------------------------------------------------------------------

    def acknowledge(self, connection: int, packet_ids: U16) -> None:
        """Messages that came on the connection with this number are settled."""
        owner = self._owners.get(connection)
        if owner is None:
            # Messages of a kept session come, and may settle, before the subscription stands.
            owner = next((c for c in self.all if c.number == connection), None)
            if owner is None:
                self._counters.add(cell("acks_stale"), len(packet_ids))
                return
            self._owners[connection] = owner
        owner.acknowledge(connection, packet_ids)

    def publish(self, connection: int, publications: Sequence[Publication]) -> None:
        """At QoS 0, where the messages that ask for it came from."""
        for owner in self.all:
            if owner.number == connection:
                for item in publications:
                    owner.publish(item.topic, item.payload)

    # ---- what connections call ----------------------------------------------------------------------

    def on_frames(self, frames: FrameBatch) -> None:
        self._process(frames)

    def on_connected(self, connection: int, session_present: bool) -> None:
        self._up.add(connection)
        self._counters.add(cell("connects"))
        self._gauge()

    def on_disconnected(self, connection: int, reason: str) -> None:
        self._up.discard(connection)
        self._owners.pop(connection, None)
        self._ledger.disconnected(connection)
        self._counters.add(cell("disconnects", reason=reason))
        self._gauge()

    def _gauge(self) -> None:
        self._gauges.connections(self._subscribed, self.paused)

    # ---- life ---------------------------------------------------------------------------------------

    def lives(self) -> list[Coroutine[Any, Any, None]]:
        """To be run: each connection of the plan, and what retires the others."""
        return [*(self._run(connection) for connection in self.own), self._retire()]

    async def _run(self, connection: Connection) -> None:
        """A connection that cannot help itself stays away and is said; the others go on."""
        try:
            await connection.run()
        except (MqttError, InputError) as error:
            log.error(
                "a connection is given up; the gateway is not ready without it", why=str(error)
            )

    @property
    def all_up(self) -> bool:
        """All of the plan are subscribed."""
        return self._subscribed >= len(self._spec.plan.connections)

    @property
    def _subscribed(self) -> int:
        return sum(connection.number in self._up for connection in self.own)

    def pause(self, *, over: bool) -> None:
        """Nothing more is read while a bound is reached."""
        self.paused = over
        for connection in self.all:
            connection.pause() if over else connection.resume()
        self._gauge()

    def stop(self) -> None:
        """Nothing more is read: the drain begins."""
        self._closing = True
        for connection in self.all:
            connection.pause()

    async def close(self) -> None:
        """Acknowledge what is settled, and say goodbye."""
        await asyncio.gather(*(connection.close() for connection in self.all))

    # ---- an earlier layout --------------------------------------------------------------------------

    async def _retire(self) -> None:
        """Drain the client ids of an earlier layout, after every shard's subscriptions stand: what
        such an id has subscribed may be another shard's now, and until then nobody else's.

        All at once: until it is unsubscribed, the broker gives each of them what it gives us.
        """
        while self._spec.retired and not (self.all_up and self._peers_up()):
            await asyncio.sleep(LOOK_EVERY)
        if self._closing:
            return  # the drain has begun: the next start retires them
        await asyncio.gather(*(self._retire_one(item) for item in self._spec.retired))

    async def _retire_one(self, item: ConnectionPlan) -> None:
        connection = self._make(item, retire=True)
        if self.paused:
            connection.pause()
        self.all.append(connection)
        try:
            await connection.run()
        except (MqttError, InputError) as error:
            why = "a client id of an earlier layout is not drained; the next start tries again"
            log.error(why, client_id=item.client_id, why=str(error))
            return
        finally:
            self.all.remove(connection)
        if not self._closing:  # else it was closed, not drained
            log.info("retired a client id of an earlier layout", client_id=item.client_id)
            mark_drained(self._spec.settings.data_dir, item.client_id)

    def _peers_up(self) -> bool:
        up = cell("connections_up")
        return all(Counters.open(path).get(up) >= wanted for path, wanted in self._spec.peers)
