"""The connections of a shard, without a broker: whose acknowledgement is whose, and an earlier layout."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from tests.fakes.directory import directory

from greenlang_iot.acks.ledger import Ledger
from greenlang_iot.model.batches import U16
from greenlang_iot.model.errors import MqttError
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime.connections import Connections
from greenlang_iot.runtime.gauges import ShardGauges
from greenlang_iot.runtime.layout import ConnectionPlan, ShardPlan
from greenlang_iot.runtime.spec import ShardSpec
from greenlang_iot.settings.model import Settings


def make(folder: Path, *retired: str, peers: tuple[tuple[Path, int], ...] = ()) -> Connections:
    counters = Counters.create(folder / "shard-0.counters")
    plans = tuple(ConnectionPlan(0, client_id, ("a/b",)) for client_id in retired)
    spec = ShardSpec(
        0,
        Settings(data_dir=folder),
        directory(2, ("m",)),
        ShardPlan(0, ()),
        folder / "shard-0.counters",
        plans,
        peers=peers,
    )
    return Connections(spec, counters, ShardGauges(counters), Ledger(), lambda frames: None)


async def test_a_client_id_that_cannot_be_retired_does_not_end_the_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = make(tmp_path, "old-1", "old-2")
    asked: list[str] = []

    class Refused:
        number = 0

        def __init__(self, plan: ConnectionPlan) -> None:
            self.plan = plan

        async def run(self) -> None:
            asked.append(self.plan.client_id)
            raise MqttError("session taken over", reason="session_taken_over", retryable=False)

    monkeypatch.setattr(connections, "_make", lambda plan, retire: Refused(plan))
    await asyncio.wait_for(connections._retire(), 30)
    assert asked == ["old-1", "old-2"]
    assert connections.all == []
    assert not (tmp_path / "run").exists()


async def test_a_client_id_is_not_retired_before_the_other_shards_have_subscribed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what it had subscribed for another shard would be nobody's for a moment."""
    other = Counters.create(tmp_path / "shard-1.counters")
    connections = make(tmp_path, "old", peers=((tmp_path / "shard-1.counters", 2),))
    asked: list[str] = []

    async def retire_one(plan: ConnectionPlan) -> None:
        asked.append(plan.client_id)

    monkeypatch.setattr(connections, "_retire_one", retire_one)
    for up in (0, 1):
        other.set(cell("connections_up"), up)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connections._retire(), 0.25)
        assert asked == []
    other.set(cell("connections_up"), 2)
    await asyncio.wait_for(connections._retire(), 30)
    assert asked == ["old"]


async def test_an_earlier_layout_is_left_alone_once_the_drain_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its session would give us now could not be acknowledged any more; the next start has it."""
    other = Counters.create(tmp_path / "shard-1.counters")
    connections = make(tmp_path, "old", peers=((tmp_path / "shard-1.counters", 1),))
    made: list[ConnectionPlan] = []
    monkeypatch.setattr(connections, "_make", lambda plan, retire: made.append(plan))
    retiring = asyncio.ensure_future(connections._retire())
    await asyncio.sleep(0)
    connections.stop()
    other.set(cell("connections_up"), 1)
    await asyncio.wait_for(retiring, 30)
    assert made == []


async def test_what_settles_before_the_subscription_stands_is_acknowledged_too(
    tmp_path: Path,
) -> None:
    """A broker that kept the session sends messages right after CONNACK, before the SUBACK."""

    class Connected:
        number = 5

        def __init__(self) -> None:
            self.acked: list[int] = []

        def acknowledge(self, connection: int, packet_ids: U16) -> None:
            assert connection == self.number
            self.acked += packet_ids.tolist()

    connections, connection = make(tmp_path), Connected()
    connections.all.append(connection)  # type: ignore[arg-type]
    connections.acknowledge(5, np.array([1, 2], np.uint16))
    connections.on_connected(5, True)
    connections.acknowledge(5, np.array([3], np.uint16))
    connections.on_disconnected(5, "connection_lost")
    connection.number = 6
    connections.acknowledge(5, np.array([4], np.uint16))
    assert connection.acked == [1, 2, 3]
