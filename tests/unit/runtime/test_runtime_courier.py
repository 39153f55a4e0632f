"""The courier: every transition to every target, whatever is away, full or says no."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.alerts import opened
from tests.fakes.influxdb2 import InfluxDB2

from greenlang_iot.alerts.book import Book
from greenlang_iot.model.errors import SinkError
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime import alert_targets
from greenlang_iot.runtime import courier as courier_module
from greenlang_iot.runtime.alert_targets import Deliver, Target
from greenlang_iot.runtime.courier import Courier, remind
from greenlang_iot.settings.model import Settings
from greenlang_iot.sinks.alert_store import AlertStore
from greenlang_iot.sinks.outbox import Outbox, OutboxReader, known_alerts
from greenlang_iot.spool.files import OsFiles
from greenlang_iot.spool.log import SpoolFull

Close = Callable[[], Awaitable[None]]


async def closes() -> None:
    return


class Desk:
    """A courier with one target, and an outbox of one shard."""

    def __init__(
        self, folder: Path, deliver: Deliver, monkeypatch: pytest.MonkeyPatch, **alerts: object
    ) -> None:
        monkeypatch.setattr(courier_module, "POLL_EVERY", 0.001)
        monkeypatch.setattr(alert_targets, "BACKOFF_MAX", 0.001)
        settings = Settings.model_validate(
            {
                "data_dir": folder,
                "alerts": {"mqtt": False, **alerts},
                "sinks": {"lake": {"enabled": False}},
            }
        )
        self.counters = Counters.create(folder / "counters")
        self.store = AlertStore(folder / "alerts", settings.alerts)
        self.courier = Courier(settings, self.counters, self.store)
        self.folder = folder / "outbox" / "shard-0"
        self.outbox = Outbox(self.folder, 1 << 20)
        self.add("kafka", deliver)
        self.task = asyncio.ensure_future(self.courier.run())

    def add(self, name: str, deliver: Deliver, close: Close = closes) -> None:
        self.courier._targets.append(Target(name, deliver, close, self.counters))

    async def put(self, *numbers: int) -> None:
        for number in numbers:
            await self.outbox.durable(self.outbox.append([opened(number)]))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                if self.task.done():
                    await self.task
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.outbox.close()
        await self.store.close()


async def test_a_target_that_is_full_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[str] = []
    failures = iter([SpoolFull("full"), SinkError("away", reason="away", down=True), OSError()])

    async def deliver(items: list[dict[str, Any]]) -> None:
        failure = next(failures, None)
        if failure is not None:
            raise failure
        got.extend(item["alert_id"] for item in items)

    desk = Desk(tmp_path, deliver, monkeypatch)
    await desk.put(1, 2, 3)
    await desk.until(lambda: set(got) == {"alert-1", "alert-2", "alert-3"})
    await desk.close()


async def test_one_refused_alert_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[str] = []

    async def deliver(items: list[dict[str, Any]]) -> None:
        if any(item["alert_id"] == "alert-2" for item in items):
            raise SinkError("too large", reason="refused", retryable=False)
        got.extend(item["alert_id"] for item in items)

    desk = Desk(tmp_path, deliver, monkeypatch)
    await desk.put(1, 2, 3)
    await desk.until(lambda: "alert-3" in got)
    assert sorted(got) == ["alert-1", "alert-3"]
    assert desk.counters.get(cell("alerts_failed", target="kafka")) == 1
    await desk.until(lambda: OutboxReader(desk.folder).poll() == [])
    await desk.close()


async def test_a_full_disk_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []

    async def deliver(items: list[dict[str, Any]]) -> None:
        got.extend(item["alert_id"] for item in items)

    genuine, full = OutboxReader.delivered, [True]

    def delivered(self: OutboxReader) -> None:
        if full[0] and self.given:
            raise OSError(28, "No space left on device")
        genuine(self)

    monkeypatch.setattr(OutboxReader, "delivered", delivered)
    desk = Desk(tmp_path, deliver, monkeypatch)
    await desk.put(1)
    await desk.until(lambda: got == ["alert-1"])
    await asyncio.sleep(0.02)  # many polls, each failing
    full[0] = False
    await desk.put(2)
    await desk.until(lambda: got == ["alert-1", "alert-2"])
    await desk.until(lambda: OutboxReader(desk.folder).poll() == [])
    await desk.close()


async def test_a_full_journal_is_emptied_and_nothing_of_a_storm_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target that is away keeps the journal full; when it is back all goes on by itself."""
    monkeypatch.setattr(courier_module, "RELEASE_EVERY", 0.001)
    got: list[str] = []
    back = asyncio.Event()

    async def deliver(items: list[dict[str, Any]]) -> None:
        if not back.is_set():
            raise SinkError("away", reason="away", down=True)
        got.extend(item["alert_id"] for item in items)

    desk = Desk(tmp_path, deliver, monkeypatch, outbox_max_bytes=300_000, group_devices=0)
    everybody = [opened(n) for n in range(3_000)]
    for first in range(0, 3_000, 1_000):
        desk.outbox.append(everybody[first : first + 1_000])
    await desk.until(lambda: desk.courier._failing)
    back.set()
    await desk.until(lambda: len(got) == 3_000)
    assert sorted(got) == sorted(t.alert_id for t in everybody)
    await desk.until(lambda: OutboxReader(desk.folder).poll() == [])
    await desk.close()


class SlowSync:
    """While it is `held`, every sync of the outbox that somebody else writes waits in its thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        genuine = OsFiles.sync_path

        def sync_path(files: OsFiles, path: Path) -> None:
            self.begun.set()
            assert self.go_on.wait(30), "the loop stood still"
            genuine(files, path)

        monkeypatch.setattr(OsFiles, "sync_path", sync_path)


async def test_the_loop_goes_on_while_the_disk_syncs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Health, the console and the watch over shards are on this loop."""
    got: list[str] = []

    async def deliver(items: list[dict[str, Any]]) -> None:
        got.extend(item["alert_id"] for item in items)

    slow = SlowSync(monkeypatch)
    desk = Desk(tmp_path, deliver, monkeypatch)
    await desk.put(1)
    await desk.until(slow.begun.is_set)
    slow.go_on.set()
    await desk.until(lambda: got == ["alert-1"])
    await desk.close()


async def test_what_was_read_when_a_drain_ran_out_of_time_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "DRAIN_TIMEOUT", 0.01)
    got: list[str] = []

    async def deliver(items: list[dict[str, Any]]) -> None:
        got.extend(item["alert_id"] for item in items)

    desk = Desk(tmp_path, deliver, monkeypatch)
    await desk.put(1)
    await desk.until(lambda: got == ["alert-1"])
    slow = SlowSync(monkeypatch)
    async with desk.courier._one_at_a_time:  # so that it is the drain that reads what comes now
        await desk.put(2)
        draining = asyncio.ensure_future(desk.courier.drain())
        await asyncio.sleep(0)
    await desk.until(slow.begun.is_set)
    asyncio.get_running_loop().call_later(0.05, slow.go_on.set)
    await draining
    await desk.until(lambda: got == ["alert-1", "alert-2"])
    await desk.until(lambda: OutboxReader(desk.folder).poll() == [])
    await desk.close()


async def test_a_start_with_a_full_journal_waits_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The book knows nothing of an alert that is open, and its journal has no room for it yet."""
    outbox = Outbox(tmp_path / "outbox" / "shard-0", 1 << 20)
    await outbox.durable(outbox.append([opened(1)]))
    reader = OutboxReader(tmp_path / "outbox" / "shard-0")
    assert reader.poll()
    reader.delivered()  # so that only `open.json` has it
    await outbox.close()
    got: list[str] = []

    async def deliver(items: list[dict[str, Any]]) -> None:
        got.extend(item["alert_id"] for item in items)

    genuine, full = AlertStore.take, [True]

    async def take(store: AlertStore, transitions: list[dict[str, Any]]) -> None:
        if transitions and full.pop():
            full.append(False)
            raise SpoolFull("full")
        await genuine(store, transitions)

    monkeypatch.setattr(AlertStore, "take", take)
    monkeypatch.setattr(courier_module, "TICK_EVERY", 0.001)
    desk = Desk(tmp_path, deliver, monkeypatch)
    await desk.until(lambda: got == ["alert-1"])
    await desk.close()


async def test_a_target_that_cannot_be_closed_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    async def deliver(items: list[dict[str, Any]]) -> None:
        return

    async def fails() -> None:
        raise OSError(5, "Input/output error")

    async def close() -> None:
        closed.append("another")

    desk = Desk(tmp_path, deliver, monkeypatch)
    desk.add("lake", deliver, fails)
    desk.add("another", deliver, close)
    await asyncio.sleep(0)
    desk.task.cancel()
    (ended,) = await asyncio.gather(desk.task, return_exceptions=True)
    assert isinstance(ended, asyncio.CancelledError)
    assert closed == ["another"]
    await desk.close()


async def test_a_mistake_of_ours_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def deliver(items: list[dict[str, Any]]) -> None:
        raise ZeroDivisionError

    desk = Desk(tmp_path, deliver, monkeypatch)
    await desk.put(1)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(asyncio.shield(desk.task), 30)
    await desk.close()


async def test_every_alert_is_a_line_in_influxdb(tmp_path: Path) -> None:
    async with InfluxDB2() as server:
        settings = Settings.model_validate(
            {
                "data_dir": tmp_path,
                "alerts": {"mqtt": False},
                "sinks": {
                    "lake": {"enabled": False},
                    "influxdb": {"enabled": True, "url": server.url, "token": server.token},
                },
            }
        )
        outbox = Outbox(tmp_path / "outbox" / "shard-0", 1 << 20)
        await outbox.durable(outbox.append([opened(1), opened(2), opened(3)]))
        store = AlertStore(tmp_path / "alerts", settings.alerts)
        courier = Courier(settings, Counters.create(tmp_path / "c"), store)
        task = asyncio.ensure_future(courier.run())
        async with asyncio.timeout(30):
            while len(server.points()) < 3:  # in one write, or more where a slow disk was first
                await asyncio.sleep(0.01)
        assert {status for status, _ in server.writes} == {204}
        found = sorted(p["fields"]["alert_id"] for p in server.points())
        assert found == ["alert-1", "alert-2", "alert-3"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await outbox.close()
        await store.close()


async def test_influxdb_may_be_away_when_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    class Away:
        def __init__(self, settings: object) -> None:
            pass

        async def open(self) -> None:
            asked.set()
            raise SinkError("connection refused", reason="refused", down=True)

        async def close(self) -> None:
            return

    monkeypatch.setattr("greenlang_iot.sinks.influx.InfluxSender", Away)
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "alerts": {"mqtt": False},
            "sinks": {"lake": {"enabled": False}, "influxdb": {"enabled": True}},
        }
    )
    outbox = Outbox(tmp_path / "outbox" / "shard-0", 1 << 20)
    await outbox.durable(outbox.append([opened(1)]))
    store = AlertStore(tmp_path / "alerts", settings.alerts)
    courier = Courier(settings, Counters.create(tmp_path / "counters"), store)
    task = asyncio.ensure_future(courier.run())
    await asyncio.wait_for(asked.wait(), 30)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await outbox.close()
    await store.close()


async def test_what_kafka_still_has_of_a_try_ends_before_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old state that came after the newer one said for ever that a resolved alert is open."""
    monkeypatch.setattr(alert_targets, "BACKOFF_MAX", 0.001)
    seen: list[str] = []
    slow = asyncio.Event()

    class Kafka:
        def __init__(self, settings: object, topic: str) -> None:
            pass

        async def publish(self, topic: str, key: bytes, value: bytes | None, at_ms: int) -> None:
            if topic == "iot.alerts.state" and key == b"alert-2":
                what = "open" if value else "over"
                seen.append(f"{what} begins")
                if len(seen) == 1:
                    await slow.wait()
                seen.append(f"{what} ends")
            elif key == b"alert-3" and not slow.is_set():
                asyncio.get_running_loop().call_later(0.05, slow.set)
                raise SinkError("no broker answers", reason="no_brokers", down=True)

        async def close(self) -> None:
            return

    monkeypatch.setattr("greenlang_iot.sinks.kafka.KafkaSender", Kafka)
    kafka = {"enabled": True, "alerts_state_topic": "iot.alerts.state"}
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "alerts": {"mqtt": False},
            "sinks": {"lake": {"enabled": False}, "kafka": kafka},
        }
    )
    outbox = Outbox(tmp_path / "outbox" / "shard-0", 1 << 20)
    over = replace(opened(2), number=2, state="resolved")
    await outbox.durable(outbox.append([opened(1), opened(2), opened(3), over]))
    store = AlertStore(tmp_path / "alerts", settings.alerts)
    courier = Courier(settings, Counters.create(tmp_path / "counters"), store)
    task = asyncio.ensure_future(courier.run())
    async with asyncio.timeout(30):
        while not seen or courier._behind:
            await asyncio.sleep(0.001)
    first = ["open begins", "over begins", "over ends", "open ends"]
    assert seen == first  # before the next try, in which it is not given again
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await outbox.close()
    await store.close()


async def test_alerts_that_come_in_a_row_go_out_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "GATHER", 1_000)  # a second, at the polls of this test
    got: list[list[str]] = []

    async def deliver(items: list[dict[str, Any]]) -> None:
        got.append([item["alert_id"] for item in items])

    desk = Desk(tmp_path, deliver, monkeypatch)
    await desk.put(1)
    await desk.until(lambda: got == [["alert-1"]])
    await desk.put(2, 3)
    await desk.until(lambda: len(got) > 1)
    assert got == [["alert-1"], ["alert-2", "alert-3"]]
    await desk.close()


async def test_what_a_burst_took_is_given_back_when_it_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[str] = []
    given_back: list[int] = []
    monkeypatch.setattr(courier_module, "MANY", 3)
    monkeypatch.setattr(courier_module, "give_back", lambda: given_back.append(len(got)))
    away = [True]

    async def deliver(items: list[dict[str, Any]]) -> None:
        if away[0]:
            raise SinkError("away", reason="away", down=True)
        got.extend(item["alert_id"] for item in items)

    desk = Desk(tmp_path, deliver, monkeypatch)
    await desk.put(1, 2, 3)
    await desk.until(lambda: desk.counters.get(cell("alerts_failed", target="kafka")) > 1)
    assert given_back == []
    away[0] = False
    await desk.until(lambda: given_back != [])
    await desk.put(4, 5)
    await desk.until(lambda: len(got) == 5)
    assert given_back == [3]
    await desk.put(6)
    await desk.until(lambda: len(given_back) == 2)
    assert given_back == [3, 6]
    await desk.close()


async def test_a_slow_target_gets_fewer_at_once_until_they_arrive_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kafka answers one alert of a partition after the other: 500 of them may take longer than its time-out."""
    monkeypatch.setattr(alert_targets.random, "uniform", lambda low, high: 0.0)
    got: list[int] = []
    asked: list[int] = []

    async def deliver(items: list[dict[str, Any]]) -> None:
        asked.append(len(items))
        if len(items) > 130:
            raise SinkError("not in time", reason="timeout")
        got.extend(item["n"] for item in items)

    target = Target("kafka", deliver, closes, Counters.local())
    target.add([{"n": n} for n in range(600)])
    task = asyncio.ensure_future(target.run())
    async with asyncio.timeout(10):
        while target.waiting:
            await asyncio.sleep(0)
    assert got == list(range(600))
    assert asked == [500, 250, 125, 250, 125, 250, 125, 225, 112, 113]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("damage", [b"{", b'{"position": 7}', None])
async def test_an_alert_that_its_outbox_forgot_is_looked_after_again(
    tmp_path: Path, damage: bytes | None
) -> None:
    """Its state was damaged, its record long delivered: it was open in the book for ever."""
    settings = Settings.model_validate({"data_dir": tmp_path})
    folder = tmp_path / "outbox" / "shard-0"
    folder.mkdir(parents=True)
    if damage is not None:
        (folder / "open.json").write_bytes(damage)
    book = Book(settings.alerts)
    others = [
        replace(opened(2), rule="offline", detector="offline"),
        replace(opened(3), rule="quality", detector="validity"),
        replace(opened(4), number=2, state="resolved"),
    ]
    book.take([t.as_dict() for t in (opened(1), replace(opened(1), number=2), *others)], 5)
    book.acknowledge("alert-1", "kim", "", 6)
    remind(book, settings)
    (shards,) = known_alerts([folder]).open
    assert (shards["transition_id"], shards["state"]) == ("alert-1-2", "open")
    assert OutboxReader(folder).known == [shards]
    (quality,) = known_alerts([tmp_path / "outbox" / "gateway"]).open
    assert quality["alert_id"] == "alert-3"
    remind(Book(settings.alerts), settings)
    outbox = Outbox(folder, 1 << 20)  # what its shard goes on with ends it in the book
    await outbox.durable(outbox.append([replace(opened(1), number=3, state="resolved")]))
    assert [e["t"]["state"] for e in book.take(OutboxReader(folder).poll(), 9)] == ["resolved"]
    await outbox.close()
