"""The book of alerts on disk: nothing is said before it is durable, and a crash takes nothing back."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.alerts import SECOND, T0, change
from tests.fakes.disk import Crash, SimulatedDisk

from greenlang_iot.alerts.book import NotPossible
from greenlang_iot.alerts.silences import Silence, new_silence
from greenlang_iot.settings.model import AlertSettings
from greenlang_iot.sinks.alert_store import AT_ONCE, AlertStore, Published
from greenlang_iot.spool.files import OS_FILES, Files
from greenlang_iot.spool.log import SpoolFull
from greenlang_iot.spool.store import LogInUse

GOLDEN = Path(__file__).parent / "alert_store_v1"
FOLDER = Path("/alerts")


def store(folder: Path = FOLDER, files: Files = OS_FILES, **settings: Any) -> AlertStore:
    given = AlertSettings(**{"group_devices": 3, **settings})
    return AlertStore(folder, given, files=files, clock_ns=lambda: T0)


def silence(now_ns: int) -> Silence:
    return new_silence({"device": "d9"}, "work", "kim", now_ns, now_ns, now_ns + SECOND)


class Heard:
    """Everything a target was told."""

    def __init__(self, of: AlertStore) -> None:
        self.published: list[Published] = []
        of.listen(self.published.append, again=True)

    @property
    def ids(self) -> list[str]:
        return [t["transition_id"] for p in self.published for t in p.transitions]


async def test_a_storm_is_taken_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the book takes at once holds up the loop, and costs the square of it."""
    one = store(tmp_path)
    heard, steps = Heard(one), []
    take = one.book.take

    def counted(transitions: Any, now_ns: int) -> Any:
        steps.append(len(transitions))
        return take(transitions, now_ns)

    monkeypatch.setattr(one.book, "take", counted)
    await one.take([change(f"a{i}", device=f"d{i}") for i in range(AT_ONCE + 2)])
    assert steps == [AT_ONCE, 2]
    assert {f"a{i}-1" for i in range(AT_ONCE + 2)} <= set(heard.ids)
    await one.close()


async def test_what_is_said_is_durable_and_comes_again_until_it_is_delivered(
    tmp_path: Path,
) -> None:
    first = store(tmp_path)
    heard = Heard(first)
    await first.take([change("a"), change("b", device="d2")])
    await first.acknowledge("a", "kim", "on it")
    assert heard.ids == ["a-1", "b-1", "a-2"]
    await first.close()

    second = store(tmp_path)
    assert second.book.snapshot() == first.book.snapshot()
    again = Heard(second)
    assert again.ids == ["a-1", "b-1", "a-2"]
    await second.delivered(again.published[0].number)
    await second.close()

    third = store(tmp_path)
    assert third.book.snapshot() == first.book.snapshot()
    last = Heard(third)
    assert last.ids == ["a-2"]
    await third.delivered(last.published[-1].number)
    await third.close()

    fourth = store(tmp_path)
    assert fourth.book.snapshot() == first.book.snapshot()
    assert Heard(fourth).ids == []
    await fourth.close()


async def test_a_refusal_changes_nothing(tmp_path: Path) -> None:
    s = store(tmp_path)
    heard = Heard(s)
    with pytest.raises(NotPossible):
        await s.acknowledge("nobody", "", "")
    await s.take([change("a")])
    assert heard.ids == ["a-1"]
    await s.close()


async def test_one_writer_at_a_time(tmp_path: Path) -> None:
    s = store(tmp_path)
    with pytest.raises(LogInUse):
        store(tmp_path)
    await s.close()


async def fill(s: AlertStore) -> int:
    """A hundred alerts at a time; how often until it was full."""
    for count in range(1, 10):
        try:
            await s.take([change(f"a{count}.{n}", at=count) for n in range(100)])
        except SpoolFull:
            return count
    raise AssertionError("it never was full")


async def test_a_full_journal_keeps_what_it_could_not_write(tmp_path: Path) -> None:
    s = store(tmp_path, outbox_max_bytes=300_000, group_devices=0)
    heard = Heard(s)
    count = await fill(s)
    assert 1 < count < 10
    assert len(heard.ids) == (count - 1) * 100
    await s.delivered(heard.published[-1].number)
    async with asyncio.timeout(30):
        while len(heard.ids) < count * 100:  # room comes with the next commit
            with contextlib.suppress(SpoolFull):
                await s.take([])
            await asyncio.sleep(0.001)
    assert heard.ids[-1] == f"a{count}.99-1"
    await s.close()


async def test_a_full_journal_leaves_nothing_out_of_the_book(tmp_path: Path) -> None:
    """A storm is taken in steps: those after the one that found no room, too."""
    s = store(tmp_path, outbox_max_bytes=300_000, group_devices=0)
    with pytest.raises(SpoolFull):
        await s.take([change(f"a{n}", at=n) for n in range(2_000)])
    assert len(s.book.alerts) == 2_000
    await s.close()


async def test_what_a_full_journal_could_not_write_is_told_after_a_restart(tmp_path: Path) -> None:
    bound = {"outbox_max_bytes": 300_000, "group_devices": 0}
    s = store(tmp_path, **bound)
    heard = Heard(s)
    count = await fill(s)
    await s.delivered(heard.published[-1].number)  # the snapshot has what the journal has not
    told, said = set(heard.ids), s.book.snapshot()
    await s.close()
    s = store(tmp_path, **bound)
    heard = Heard(s)
    async with asyncio.timeout(30):
        while f"a{count}.99-1" not in heard.ids:
            with contextlib.suppress(SpoolFull):
                await s.take([])
            await asyncio.sleep(0.001)
    assert told | set(heard.ids) == {f"a{c}.{n}-1" for c in range(1, count + 1) for n in range(100)}
    await s.close()
    s = store(tmp_path, **bound)
    assert s.book.snapshot() == said  # and nothing of it is applied twice
    await s.close()


async def test_a_listener_that_left_hears_nothing(tmp_path: Path) -> None:
    s = store(tmp_path)
    heard: list[Published] = []
    leave = s.listen(heard.append)
    leave()
    await s.take([change("a")])
    assert heard == []
    await s.close()


async def test_a_damaged_snapshot_is_put_aside_loudly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "book.json").write_text('{"version": 1, "alerts": [{}]')
    s = store(tmp_path)
    assert s.book.alerts == {}
    assert (tmp_path / "book.damaged").exists()
    await s.close()


async def walk(s: AlertStore) -> None:
    """Some of everything."""
    await s.take([change(f"a{n}", device=f"d{n}") for n in range(3)])
    await s.silence(silence)
    await s.acknowledge("a1", "kim", "")
    await s.delivered(2)
    await s.take([change("a1", 2, "resolved", at=5, opened=0, device="d1")])
    await s.take([change("b", device="d9", rule="stuck")])
    await s.delivered(4)


@pytest.mark.parametrize("crash_in", range(0, 90, 2))
@pytest.mark.parametrize("power", [False, True])
async def test_nothing_that_was_said_is_lost_whenever_the_machine_stops(
    crash_in: int, power: bool
) -> None:
    disk = SimulatedDisk(seed=crash_in)
    s = store(files=disk)
    heard = Heard(s)
    disk.crash_in = crash_in
    done = asyncio.ensure_future(walk(s))
    crashed = await stops(s, done)
    disk.power_loss() if power else disk.process_death()

    said = [t for p in heard.published for t in p.transitions]
    revived = store(files=disk)
    for t in said:
        kept = revived.book.alerts[t["alert_id"]]
        assert t["transition_id"] in {d["transition_id"] for d in (kept.last, *kept.history)}
    again = Heard(revived)
    if not crashed:
        assert revived.book.snapshot() == s.book.snapshot()
    # what no target may have got yet comes again, in order
    assert [i for i in again.ids if i in heard.ids] == [i for i in heard.ids if i in again.ids]
    # and it goes on: nothing of the shard's is taken twice
    more = Heard(revived)
    more.published.clear()
    await revived.take([change(f"a{n}", device=f"d{n}") for n in range(3)])
    assert not set(more.ids) & {t["transition_id"] for t in said}
    await revived.close()


async def stops(s: AlertStore, task: "asyncio.Future[None]") -> bool:
    """Whether the machine stopped before the task was done."""
    loop = asyncio.get_running_loop()
    failed: list[BaseException] = []
    loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
    try:
        while not task.done() and not failed:
            await asyncio.sleep(0.0005)
    except Crash:
        return True
    finally:
        loop.set_exception_handler(None)
    if task.done():
        return isinstance(task.exception(), Crash)
    task.cancel()
    return True


# ---- the format ----------------------------------------------------------------------------------------


async def test_the_format_of_version_1_is_read(tmp_path: Path) -> None:
    """`alert_store_v1` was written by `write_golden`; later versions must read it."""
    for file in GOLDEN.rglob("*"):
        if file.is_file():
            target = tmp_path / file.relative_to(GOLDEN)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    s = store(tmp_path)
    expected = json.loads((GOLDEN / "expected.json").read_text())
    assert s.book.snapshot() == expected["book"]
    assert Heard(s).ids == expected["undelivered"]
    await s.close()


async def write_golden() -> None:
    s = store(GOLDEN)
    await walk(s)
    await s.silence(silence)
    await s.close()
    again = store(GOLDEN)
    expected = {"book": again.book.snapshot(), "undelivered": Heard(again).ids}
    await again.close()
    (GOLDEN / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    asyncio.run(write_golden())
