"""The outbox: what the shard wrote arrives, in order, and open alerts are never forgotten."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.alerts import opened
from tests.fakes.disk import Crash, SimulatedDisk

from greenlang_iot.model.outcomes import Transition
from greenlang_iot.sinks.outbox import Outbox, OutboxReader, known_alerts
from greenlang_iot.spool.log import SpoolFull
from greenlang_iot.spool.reader import list_segments


def change(alert: str, number: int, state: str) -> Transition:
    first = opened(number, "x" * 500)
    return replace(first, alert_id=alert, number=number, state=state, opened_ns=1)


def ids(transitions: list[dict[str, object]]) -> list[object]:
    return [t["transition_id"] for t in transitions]


async def test_transitions_arrive_in_order_and_once_per_delivery(tmp_path: Path) -> None:
    folder = tmp_path / "shard-0"
    reader = OutboxReader(folder)
    assert reader.poll() == []
    outbox = Outbox(folder, 1 << 20)
    await outbox.durable(outbox.append([change("a", 1, "open"), change("b", 1, "open")]))
    await outbox.durable(outbox.append([change("a", 2, "resolved")]))
    first = reader.poll()
    assert ids(first) == ["a-1", "b-1", "a-2"]
    assert first[0] == change("a", 1, "open").as_dict()
    assert ids(OutboxReader(folder).poll()) == ["a-1", "b-1", "a-2"]  # not delivered: again
    reader.delivered()
    assert OutboxReader(folder).poll() == []
    assert reader.poll() == []
    assert ids(known_alerts([folder]).open) == ["b-1"]
    await outbox.close()


async def test_open_alerts_survive_unlinked_segments(tmp_path: Path) -> None:
    folder = tmp_path / "shard-0"
    outbox, reader = Outbox(folder, 1 << 18), OutboxReader(folder)
    await outbox.durable(outbox.append([change("old", 1, "open")]))
    for number in range(1, 400):
        outbox.append([change("noise", number, "open" if number % 2 else "resolved")])
        if number % 100 == 0:
            await outbox.durable(number + 1)
            assert reader.poll()
            reader.delivered()
            assert known_alerts([folder]).open[0]["alert_id"] == "old"
    await outbox.close()
    assert list_segments(folder)[0].first > 1
    assert ids(known_alerts([folder]).open) == ["old-1", "noise-399"]


async def test_what_is_over_is_known_though_it_was_delivered(tmp_path: Path) -> None:
    outbox, reader = Outbox(tmp_path, 1 << 18), OutboxReader(tmp_path, 1 << 18)
    await outbox.durable(outbox.append([change("a", 1, "open"), change("p", 1, "pending")]))
    await outbox.durable(outbox.append([change("a", 2, "resolved"), change("p", 2, "resolved")]))
    await outbox.durable(outbox.append([change("b", 1, "open")]))
    reader.poll()
    reader.delivered()
    found = known_alerts([tmp_path])
    assert ids(found.open) == ["b-1"]
    assert [(e.last["transition_id"], e.was_open) for e in found.ended] == [
        ("a-2", True),
        ("p-2", False),
    ]
    await outbox.close()


@pytest.mark.parametrize("max_bytes", [1 << 18, 1 << 20])
async def test_what_stays_of_what_was_delivered_is_bounded(tmp_path: Path, max_bytes: int) -> None:
    outbox, reader = Outbox(tmp_path, max_bytes), OutboxReader(tmp_path, max_bytes)
    kept = []
    for number in range(1, 3_000):
        while True:
            try:
                outbox.append([change("a", number, "open" if number % 2 else "resolved")])
                break
            except SpoolFull:
                outbox._log.flush()
                reader.poll(10_000)
                reader.delivered()
                kept.append(sum(s.path.stat().st_size for s in list_segments(tmp_path)))
    await outbox.close()
    assert 0 < max(kept) <= max_bytes // 4 + 66_000  # a quarter, and the newest segment


async def test_an_alert_that_moved_between_shards(tmp_path: Path) -> None:
    first, second = Outbox(tmp_path / "shard-0", 1 << 20), Outbox(tmp_path / "shard-1", 1 << 20)
    await first.durable(first.append([change("a", 1, "open"), change("b", 1, "open")]))
    await second.durable(second.append([change("a", 2, "resolved")]))
    assert ids(known_alerts([tmp_path / "shard-0", tmp_path / "shard-1"]).open) == ["b-1"]
    assert ids(known_alerts([tmp_path / "shard-1", tmp_path / "shard-0"]).open) == ["b-1"]
    assert known_alerts([tmp_path / "none"]).open == []
    await first.close()
    await second.close()


async def test_full_appends_nothing(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, 100_000)
    number = 0
    with pytest.raises(SpoolFull):  # noqa: PT012
        while True:
            number = outbox.append([change("a", number, "open")])
            assert outbox.pending_bytes <= 100_000
    await outbox.close()
    assert len(OutboxReader(tmp_path).poll(10_000)) == number


@pytest.mark.parametrize("calls", range(14))
def test_a_crash_at_any_call_of_a_delivery_forgets_no_open_alert(calls: int) -> None:
    disk, folder = SimulatedDisk(seed=calls), Path("/outbox")
    outbox = Outbox(folder, 1 << 20, files=disk)
    for number in range(1, 300):
        outbox.append([change(f"a{number % 7}", number, "open")])
    outbox._log.flush()
    reader = OutboxReader(folder, files=disk)
    disk.crash_in = calls
    try:
        reader.poll(200)
        reader.delivered()
    except Crash:
        disk.power_loss()
    disk.crash_in = -1
    found = known_alerts([folder], files=disk).open
    assert sorted(t["number"] for t in found) == list(range(293, 300))


async def test_a_damaged_state_means_delivering_again(tmp_path: Path) -> None:
    folder = tmp_path / "shard-0"
    outbox = Outbox(folder, 1 << 20)
    await outbox.durable(outbox.append([change("a", 1, "open")]))
    reader = OutboxReader(folder)
    reader.poll()
    reader.delivered()
    for damage in (b"", b"{", b"[]", b'{"position": 7}'):
        (folder / "open.json").write_bytes(damage)
        assert [a["alert_id"] for a in known_alerts([folder]).open] == ["a"]
        assert ids(OutboxReader(folder).poll()) == ["a-1"]
    await outbox.close()


async def test_an_alert_resolved_by_another_shard_is_forgotten(tmp_path: Path) -> None:
    """Its device moved when the layout changed; the old shard's state must not bring it back."""
    old, new = tmp_path / "shard-0", tmp_path / "shard-1"
    outbox = Outbox(old, 1 << 20)
    await outbox.durable(outbox.append([change("a", 1, "open")]))
    reader = OutboxReader(old)
    reader.poll()
    reader.delivered()
    await outbox.close()
    later = Outbox(new, 1 << 20)
    await later.durable(later.append([change("a", 2, "resolved")]))
    second = OutboxReader(new)
    assert [t["state"] for t in second.poll()] == ["resolved"]
    reader.forget("a")
    reader.delivered()
    second.delivered()
    await later.close()
    assert known_alerts([old, new]).open == []


def test_what_power_took_from_a_record_that_was_delivered_does_not_hide_the_next_one() -> None:
    """The shard's sync failed and lost the record, the parent's own sync of it found nothing to do."""
    disk, folder = SimulatedDisk(), Path("/outbox")
    outbox, reader = Outbox(folder, 1 << 20, files=disk), OutboxReader(folder, files=disk)
    outbox.append([change("a", 1, "open")])
    outbox._log.flush()
    disk.failing = {"sync"}
    outbox.append([change("b", 1, "open")])
    with pytest.raises(OSError, match="sync"):
        outbox._log.flush()
    disk.failing = set()
    assert ids(reader.poll()) == ["a-1", "b-1"]
    reader.delivered()
    disk.power_loss()
    outbox, reader = Outbox(folder, 1 << 20, files=disk), OutboxReader(folder, files=disk)
    outbox.append([change("c", 1, "open")])
    outbox._log.flush()
    assert ids(reader.poll()) == ["c-1"]
