"""Questions of the console to a shard, over the pipe and after a reload."""

import asyncio
from multiprocessing import Pipe

import numpy as np
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import SECOND, readings, scores

from greenlang_iot.console.questions import Devices, Presence, Present, SeriesNow, newest
from greenlang_iot.decode.guests import Guests
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices.reload import reloaded
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import DUPLICATE, SUSPECT
from greenlang_iot.runtime.looks import KEPT, MAX_WATCHED, WATCH_FOR, Looks, answer_looks
from greenlang_iot.runtime.window import UNANSWERED, Window
from greenlang_iot.settings.model import DetectSettings


class Shard:
    def __init__(self, registry: Directory) -> None:
        self.live = registry
        self.detector = Detector(registry, DetectSettings(warmup=3))
        self.looks = Looks(self.detector, registry, lambda: self.live)

    def take(self, live: Directory) -> None:
        self.live = live
        self.detector.grow(live)

    def hear(self, series: int, value: float, at_s: int) -> None:
        self.detector.score(readings([series], [at_s * SECOND], [value], received_ns=at_s * SECOND))

    def ask(self, *devices: tuple[int, str], watch: bool = False, now: float = 0.0):  # type: ignore[no-untyped-def]
        return self.looks.answer(Devices(devices, watch), 100 * SECOND, now)


def bits(packed: bytes, n: int) -> list[int]:
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=n).tolist()


def test_after_a_reload_devices_keep_their_names() -> None:
    shard = Shard(directory(2, ("m",), names=["a", "b"]))
    shard.hear(1, 7.0, 1)
    wanted = directory(3, ("m",), names=["new", "b", "a"])
    done = reloaded(shard.live, wanted)
    shard.take(done.directory)
    shard.looks.follow(done.directory, done.entries)
    shard.hear(0, 3.0, 2)
    answer = shard.ask((0, "new"), (1, "b"), (2, "a"))
    assert {name: series[0].last_value for name, series in answer.items()} == {
        "new": None,
        "b": 7.0,
        "a": 3.0,
    }
    assert bits(shard.looks.answer(Presence(), 3 * SECOND, 0.0).heard, 3) == [0, 1, 1]
    # asked with the index of the registry before, in the moment between two reloads
    assert shard.ask((0, "a")) == {}


def test_unknown_devices_are_guests_and_can_be_looked_at() -> None:
    shard = Shard(directory(2, ("m",), names=["a", "b"], sites=1))
    guests = Guests(shard.live, max_devices=5, max_metrics=2)
    entry = guests.add("acme", "site-0", "stranger")
    assert entry is not None
    guests.learn(entry, "speed", "m/s")
    shard.take(guests.publish())
    shard.hear(int(shard.live.series_start[entry]), 4.5, 1)
    present = shard.looks.answer(Presence(), 2 * SECOND, 0.0)
    assert isinstance(present, Present)
    assert present.guests == (("acme", "site-0", "stranger"),)
    assert len(present.heard) == 1  # bits of the registry alone
    (series,) = shard.ask((-1, "stranger"))["stranger"]
    assert (series.metric, series.last_value) == ("speed", 4.5)


def test_only_what_is_watched_is_kept_and_not_for_ever() -> None:
    shard = Shard(directory(2, ("m", "n"), names=["a", "b"]))
    batch = readings([0, 2, 1, 0], [1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0], flags=[0, 0, 0, DUPLICATE])
    judged = scores([0.0, 0.0, 3.0, 0.0], [0] * 4, [0, 0, SUSPECT, 0], expected=2.5, band=0.5)
    assert shard.looks.watching is False
    shard.ask((0, "a"), watch=True, now=10.0)
    assert shard.looks.watching is True
    shard.looks.note(batch, judged)
    m, n = shard.ask((0, "a"), watch=True, now=11.0)["a"]
    assert m.points == ((1, 1.0, 0.0, 2.5, 0.5, False),)
    assert n.points == ((3, 3.0, pytest.approx(0.999), 2.5, 0.5, True),)
    assert [s.points for s in shard.ask((0, "a"), watch=True, now=11.0)["a"]] == [(), ()]
    for _ in range(KEPT + 5):
        shard.looks.note(batch, judged)
    m, n = shard.ask((0, "a"), watch=True, now=11.0)["a"]
    assert len(m.points) + len(n.points) == KEPT
    shard.ask((1, "b"), now=11.0 + WATCH_FOR)
    assert shard.looks.watching is True
    shard.ask((1, "b"), now=11.1 + WATCH_FOR)
    assert shard.looks.watching is False
    shard.ask((1, "b"), watch=True, now=100.0)
    shard.looks.note(batch, judged)  # of both devices
    (series, _) = shard.ask((1, "b"), watch=True, now=100.0)["b"]
    assert [point[1] for point in series.points] == [2.0]


def test_who_only_wants_to_know_takes_no_readings() -> None:
    shard = Shard(directory(2, ("m",), names=["a", "b"]))
    shard.ask((0, "a"), watch=True)
    shard.looks.note(readings([0], [1], [7.0]), scores([0.0], [0], [0]))
    (told,) = shard.ask((0, "a"))["a"]
    (taken,) = shard.ask((0, "a"), watch=True)["a"]
    assert (told.points, [point[1] for point in taken.points]) == ((), [7.0])


def test_a_reload_loses_no_reading_of_a_watched_device() -> None:
    shard = Shard(directory(2, ("m",), names=["a", "b"]))
    shard.ask((0, "a"), (1, "b"), watch=True)
    shard.looks.note(readings([0, 1], [1, 2], [7.0, 8.0]), scores([0.0] * 2, [0] * 2, [0] * 2))
    done = reloaded(shard.live, directory(2, ("m",), names=["new", "a"]))
    shard.take(done.directory)
    shard.looks.follow(done.directory, done.entries)
    shard.looks.note(readings([0, 1], [3, 4], [7.5, 8.5]), scores([0.0] * 2, [0] * 2, [0] * 2))
    answer = shard.ask((0, "new"), (1, "a"), watch=True)
    points = {name: [point[1] for point in series[0].points] for name, series in answer.items()}
    assert points == {"new": [], "a": [7.0, 7.5]}


def test_no_more_devices_are_watched_than_the_bound() -> None:
    n = MAX_WATCHED + 3
    shard = Shard(directory(n, ("m",)))
    names = [(i, f"d{i:03d}") for i in range(n)]
    shard.ask(*names, watch=True)
    shard.looks.note(
        readings(list(range(n)), [1] * n, [1.0] * n), scores([0.0] * n, [0] * n, [0] * n)
    )
    answer = shard.ask(*names, watch=True)
    assert sum(len(series[0].points) for series in answer.values()) == MAX_WATCHED


def test_of_two_shards_the_one_that_heard_it_last_speaks() -> None:
    def now(value: float, quiet: int | None, ts: int, *points: int) -> SeriesNow:
        told = tuple((p, value, 0.0, None, None, False) for p in points)
        return SeriesNow("m", ts, value, quiet, False, None, None, told)

    restored, heard = now(1.0, None, 50, 3), now(2.0, 10, 40, 1, 5)
    for answers in ([{"a": [restored]}, {"a": [heard]}], [{"a": [heard]}, {"a": [restored]}]):
        (found,) = newest(answers)["a"]
        assert found.last_value == 2.0
        assert [point[0] for point in found.points] == [1, 3, 5]


async def test_over_the_pipe() -> None:
    shard = Shard(directory(2, ("m",), names=["a", "b"]))
    shard.hear(0, 5.0, 1)
    ours, theirs = Pipe()
    window = Window(ours, pytest.fail)
    answer_looks(shard.looks, theirs)
    answer = await window.ask(Devices(((0, "a"),)), 5.0)
    assert answer["a"][0].last_value == 5.0
    theirs.close()
    assert await window.ask(Presence(), 5.0) is None
    assert await window.ask(Presence(), 5.0) is None
    window.close()


async def test_a_shard_that_is_stuck_costs_a_wait_and_is_not_flooded() -> None:
    ours, theirs = Pipe()
    late: list[str] = []
    window = Window(ours, late.append)
    for _ in range(UNANSWERED + 20):
        assert await window.ask(Presence(), 0.01) is None
    sent = 0
    while theirs.poll():
        number, _ = theirs.recv()
        sent += 1
    assert sent == UNANSWERED
    theirs.send((number, "late"))  # it goes on: what comes late answers no question
    while not theirs.poll():
        await asyncio.sleep(0.01)
        assert await window.ask(Presence(), 0.01) is None
    theirs.recv()
    asked = asyncio.ensure_future(window.ask(Presence(), 5.0))
    while not theirs.poll():
        await asyncio.sleep(0.01)
    number, _ = theirs.recv()
    theirs.send((number, "answer"))
    assert await asked == "answer"
    assert late == ["late"]
    window.close()
