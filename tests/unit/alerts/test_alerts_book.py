"""The book of alerts: numbers for the outside, incidents, acknowledgements, silences, flags."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.alerts import SECOND, T0, change

from greenlang_iot.alerts.book import (
    HISTORY,
    Book,
    Entry,
    NotPossible,
    is_notified,
    listed,
)
from greenlang_iot.alerts.silences import MATCHED, Silence, new_silence
from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.model import AlertSettings

HOUR = 3600 * SECOND


def book(**given: Any) -> Book:
    return Book(AlertSettings(**{"group_devices": 3, "group_window": 60, **given}))


def said(entries: list[Entry]) -> list[tuple[str, str, tuple[str, ...]]]:
    """(transition id, state, flags) of every transition."""
    transitions = [e["t"] for e in entries if "t" in e]
    return [(t["transition_id"], t["state"], tuple(t["flags"])) for t in transitions]


def silence(until: float = 3600, starts: float = 0, **match: str) -> Silence:
    return new_silence(
        match, "planned work", "kim", T0, T0 + int(starts * SECOND), T0 + int(until * SECOND)
    )


# ---- numbers and states ------------------------------------------------------------------------------


def test_what_a_shard_says_goes_through_as_it_is() -> None:
    item = change("a")
    assert book().take([item], T0) == [{"t": item, "seen": 1}]


def test_what_was_taken_before_changes_nothing() -> None:
    b = book()
    b.take([change("a"), change("a", 2, at=5)], T0)
    assert b.take([change("a"), change("a", 2, at=5)], T0) == []


def test_numbers_go_on_after_the_books_own_transitions() -> None:
    b = book()
    b.take([change("a")], T0)
    assert said(b.acknowledge("a", "kim", "on it", T0)) == [("a-2", "acknowledged", ())]
    # the shard's alert turns from a spike into a shift; somebody looks after it all the same
    shifted = b.take([change("a", 2, "open", at=60, opened=0)], T0)
    assert said(shifted) == [("a-3", "acknowledged", ())]
    resolved = b.take([change("a", 3, "resolved", at=90, opened=0)], T0)
    assert said(resolved) == [("a-4", "resolved", ())]
    assert (resolved[0]["t"]["by"], resolved[0]["t"]["comment"]) == ("kim", "on it")


def test_an_acknowledgement_is_never_dated_before_the_opening() -> None:
    b = book()
    b.take([change("a", at=50)], T0)
    assert b.acknowledge("a", "", "", T0 + SECOND)[0]["t"]["at"] == T0 + 50 * SECOND


def test_an_alert_that_begins_once_more_is_a_new_opening() -> None:
    """A silence whose device sent something old in between: the same id, and nobody looks after it yet."""
    b = book(flap_count=2, flap_window=100)
    b.take([change("a")], T0)
    b.acknowledge("a", "kim", "on it", T0)
    b.take([change("a", 2, "resolved", at=5, opened=0)], T0)
    (entry,) = b.take([change("a", 3, "open", at=50, opened=0)], T0)
    assert said([entry]) == [("a-4", "open", ("flapping",))]
    assert "by" not in entry["t"]
    resumed = book()
    resumed.restore(b.snapshot())
    assert resumed.alerts["a"].live


@pytest.mark.parametrize(("state", "number"), [("pending", 1), ("resolved", 2)])
def test_only_an_open_alert_is_acknowledged(state: str, number: int) -> None:
    b = book()
    b.take([change("a", number, state)], T0)
    with pytest.raises(NotPossible, match=f"alert a is {state}") as raised:
        b.acknowledge("a", "", "", T0)
    assert not raised.value.missing


def test_an_unknown_alert_is_missing() -> None:
    with pytest.raises(NotPossible, match="there is no alert x") as raised:
        book().acknowledge("x", "", "", T0)
    assert raised.value.missing


def test_a_second_acknowledgement_says_nothing() -> None:
    b = book()
    b.take([change("a")], T0)
    b.acknowledge("a", "kim", "", T0)
    assert b.acknowledge("a", "lee", "", T0) == []


def test_resolved_alerts_are_kept_up_to_a_bound() -> None:
    b = book(history=3)
    for n in range(5):
        b.take([change(f"a{n}", at=n), change(f"a{n}", 2, "resolved", at=n + 0.5, opened=n)], T0)
    assert list(b.alerts) == ["a2", "a3", "a4"]


def test_the_history_of_an_alert_is_bounded_and_keeps_its_beginning() -> None:
    b = book()
    for n in range(1, 101):
        b.take([change("a", n, at=n)], T0)
    history = b.alerts["a"].history
    assert len(history) == HISTORY - 1
    assert [h["number"] for h in history] == [1, *range(100 - HISTORY + 2, 100)]


# ---- silences ----------------------------------------------------------------------------------------


def test_a_silenced_alert_is_recorded_with_the_flag_and_not_notified() -> None:
    b = book()
    b.silence(silence(site="nor*"), T0)
    (entry,) = b.take([change("a")], T0)
    assert entry["t"]["flags"] == ["silenced"]
    assert not is_notified(entry["t"])
    (other,) = b.take([change("b", site="south")], T0)
    assert is_notified(other["t"])


def test_a_silence_concerns_what_is_open_already_and_its_end_too() -> None:
    b = book()
    b.take([change("a"), change("b", device="d2")], T0)
    given = silence(device="d1")
    assert said(b.silence(given, T0)) == [("a-2", "open", ("silenced",))]
    assert said(b.unsilence(given.silence_id, T0)) == [("a-3", "open", ())]
    with pytest.raises(NotPossible, match="there is no silence"):
        b.unsilence(given.silence_id, T0)


def test_a_silence_ends_by_itself() -> None:
    b = book()
    b.take([change("a")], T0)
    given = silence(until=3600, rule="spike")
    b.silence(given, T0)
    assert b.tick(T0 + HOUR - 1) == []
    ended, flag = b.tick(T0 + HOUR)
    assert ended == {"ended": given.silence_id}
    assert said([flag]) == [("a-3", "open", ())]
    assert b.silences == {}


def test_a_maintenance_window_begins_when_it_should() -> None:
    b = book()
    b.take([change("a")], T0)
    assert said(b.silence(silence(starts=600, site="north"), T0)) == []
    assert b.tick(T0 + 599 * SECOND) == []
    assert said(b.tick(T0 + 600 * SECOND)) == [("a-2", "open", ("silenced",))]


@pytest.mark.parametrize("key", MATCHED)
def test_every_member_can_be_matched(key: str) -> None:
    item = change("a")
    assert silence(**{key: item[key]}).matches(item)
    assert silence(**{key: "*"}).matches(item)
    assert not silence(**{key: "something else"}).matches(item)


def test_two_silences_must_both_end() -> None:
    b = book()
    one, two = silence(site="north"), silence(device="d1")
    b.silence(one, T0)
    b.silence(two, T0)
    b.take([change("a")], T0)
    assert b.unsilence(one.silence_id, T0) == [{"ended": one.silence_id}]
    assert said(b.unsilence(two.silence_id, T0)) == [("a-2", "open", ())]


def test_silences_are_bounded() -> None:
    b = book(max_silences=1)
    b.silence(silence(site="north"), T0)
    with pytest.raises(InputError, match="max_silences"):
        b.silence(silence(site="south"), T0)


def test_every_mistake_of_a_silence_is_said() -> None:
    with pytest.raises(InputError) as raised:
        new_silence({"sight": "north"}, "", "", T0, T0, T0)
    assert len(raised.value.problems) == 3
    with pytest.raises(InputError, match="wrong") as raised:
        new_silence({}, "because", "", T0, T0, T0 + 1)
    assert "at least one" in raised.value.problems[0]


# ---- flapping ------------------------------------------------------------------------------------------


def episode(b: Book, n: int, at: float, **given: Any) -> tuple[str, ...]:
    """Flags of the opening."""
    opened = b.take([change(f"a{n}", at=at, **given)], T0)
    b.take([change(f"a{n}", 2, "resolved", at=at + 1, opened=at, **given)], T0)
    return tuple(opened[0]["t"]["flags"])


def test_what_opens_again_and_again_is_flapping() -> None:
    b = book(flap_count=3, flap_window=100)
    assert episode(b, 1, 0) == ()
    assert episode(b, 2, 50) == ()
    assert episode(b, 9, 60, device="another") == ()
    assert episode(b, 3, 100) == ("flapping",)
    assert b.alerts["a3"].last["flags"] == ["flapping"]  # resolved, and it still says so
    assert episode(b, 4, 151) == ()


# ---- incidents -----------------------------------------------------------------------------------------


def devices(count: int, first: int = 1, **given: Any) -> list[dict[str, Any]]:
    span = range(first, first + count)
    return [change(f"a{n}", device=f"d{n}", **given) for n in span]


def incident(entries: list[Entry]) -> dict[str, Any]:
    (found,) = [e["t"] for e in entries if e.get("t", {}).get("detector") == "incident"]
    assert isinstance(found, dict)
    return found


def test_devices_of_a_site_that_fail_together_are_one_incident() -> None:
    b = book()
    assert len(b.take(devices(2, rule="silence"), T0)) == 2
    entries = b.take(devices(1, 3, rule="silence", severity="critical", at=30), T0 + 30 * SECOND)
    found = incident(entries)
    assert found["members"] == ["a1", "a2", "a3"]
    assert (found["members_total"], found["state"], found["severity"]) == (3, "open", "critical")
    assert (found["site"], found["device"], found["rule"]) == ("north", "", "silence")
    assert found["opened"] == T0
    assert "3 alerts of the kind silence at site north" in found["summary"]
    assert {b.alerts[m].last["group"] for m in found["members"]} == {found["alert_id"]}
    assert [is_notified(b.alerts[a].last) for a in ("a1", "a2", "a3", found["alert_id"])] == [
        False,
        False,
        False,
        True,
    ]


def test_two_hundred_at_once_are_one_incident_of_two_transitions_each() -> None:
    b = book()
    entries = b.take(devices(200), T0)
    assert incident(entries)["members_total"] == 200
    assert len(entries) == 200 + 200 + 1


def test_who_comes_later_joins_and_the_last_one_resolves_it() -> None:
    b = book()
    first = incident(b.take(devices(3), T0))
    grown = incident(b.take(devices(1, 4, at=50), T0 + 50 * SECOND))
    assert (grown["alert_id"], grown["number"]) == (first["alert_id"], 2)
    assert grown["members"] == ["a1", "a2", "a3", "a4"]
    over = [change(f"a{n}", 2, "resolved", device=f"d{n}", at=90, opened=0) for n in range(1, 5)]
    assert len(b.take(over[:3], T0 + 90 * SECOND)) == 3
    end = incident(b.take(over[3:], T0 + 90 * SECOND))
    assert (end["state"], end["number"], end["members_total"]) == ("resolved", 3, 4)
    assert [m["alert_id"] for m in b.members(first["alert_id"])] == ["a1", "a2", "a3", "a4"]


@pytest.mark.parametrize(
    "other",
    [{"site": "south"}, {"rule": "stuck"}, {"at": 61}, {"device": "d1", "metric": "humidity"}],
    ids=["another site", "another kind", "too late", "the same device"],
)
def test_what_does_not_belong_together_makes_no_incident(other: dict[str, Any]) -> None:
    b = book()
    entries = b.take([*devices(2), change("x", **{"device": "d3", **other})], T0)
    assert len(entries) == 3


def test_rules_about_a_value_are_one_kind() -> None:
    b = book()
    mixed = [
        change(f"a{n}", device=f"d{n}", rule=rule)
        for n, rule in enumerate(("spike", "shift", "rate"))
    ]
    assert incident(b.take(mixed, T0))["rule"] == "value"


def test_grouping_can_be_switched_off() -> None:
    assert len(book(group_devices=0).take(devices(50), T0)) == 50


def test_acknowledging_an_incident_acknowledges_its_members() -> None:
    b = book()
    found = incident(b.take(devices(3), T0))
    b.acknowledge("a2", "lee", "mine", T0)
    entries = b.acknowledge(found["alert_id"], "kim", "all", T0)
    assert sorted(t for t, _, _ in said(entries)) == sorted(
        [f"{found['alert_id']}-2", "a1-3", "a3-3"]
    )
    assert b.alerts["a2"].last["by"] == "lee"


def test_a_member_that_resolved_in_the_same_breath_does_not_join() -> None:
    b = book()
    gone = change("a1", 2, "resolved", at=1, opened=0)
    found = incident(b.take([*devices(3), gone], T0))
    assert found["members"] == ["a2", "a3"]


# ---- what is listed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [1, 2])
def test_a_member_that_resolved_and_was_forgotten_in_the_same_breath(gone: int) -> None:
    """A long backlog (a shard's outbox after a pause) can hold more than the book keeps."""
    b = book(history=1)
    over = [change(f"a{n}", 2, "resolved", at=1, device=f"d{n}") for n in range(1, gone + 1)]
    filler = [
        change("z", device="dz", site="elsewhere"),
        change("z", 2, "resolved", device="dz", site="elsewhere", at=2),
    ]
    later = devices(1, first=4)
    entries = b.take([*devices(3), *over, *filler, *later], T0)
    left = 4 - gone
    assert incident(entries)["members"] == [f"a{n}" for n in range(gone + 1, 5)]
    assert incident(entries)["members_total"] == left


def test_pages_hold_still_while_alerts_open() -> None:
    b = book(group_devices=0)
    b.take([change(f"a{n}", at=n) for n in range(5)], T0)
    page, cursor, total = listed(b, lambda d: True, 2)
    assert ([d["alert_id"] for d in page], total) == (["a4", "a3"], 5)
    b.take([change("a9", at=9)], T0)
    page, cursor, total = listed(b, lambda d: True, 2, cursor)
    assert ([d["alert_id"] for d in page], total) == (["a2", "a1"], 6)
    page, cursor, _ = listed(b, lambda d: True, 2, cursor)
    assert ([d["alert_id"] for d in page], cursor) == (["a0"], "")


@pytest.mark.parametrize("cursor", ["x", "12", "12:", "a:b", "²:b", "--1:b", "9" * 5_000 + ":b"])
def test_a_foreign_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InputError, match="cursor"):
        listed(book(), lambda d: True, 2, cursor)


# ---- whatever happens ----------------------------------------------------------------------------------

step = st.one_of(
    st.tuples(st.just("open"), st.integers(0, 7), st.integers(0, 90)),
    st.tuples(st.just("again"), st.integers(0, 7)),
    st.tuples(st.just("resolve"), st.integers(0, 7)),
    st.tuples(st.just("ack"), st.integers(0, 30)),
    st.tuples(st.just("silence"), st.sampled_from(["d1", "d?", "x"]), st.integers(1, 200)),
    st.tuples(st.just("unsilence"), st.integers(0, 3)),
    st.tuples(st.just("tick"), st.integers(1, 120)),
)


class Walk:
    """A book, the shards' side of it, and all its entries."""

    def __init__(self) -> None:
        self.book = book(history=4, flap_count=2, flap_window=50)
        self.entries: list[Entry] = []
        self.shards: dict[int, tuple[str, int, float]] = {}  # alert id, number, time of opening
        self.taken: list[dict[str, Any]] = []
        self.episodes = 0
        self.now = 0.0

    def do(self, step: tuple[Any, ...]) -> None:
        made = getattr(self, f"_{step[0]}")(*step[1:])
        # what is journalled must not change afterwards
        self.entries += copy.deepcopy(made)

    def _say(self, device: int, number: int, state: str, opened: float, name: str) -> list[Entry]:
        item = change(name, number, state, at=self.now, opened=opened, device=f"d{device}")
        self.taken.append(item)
        return self.book.take([item], T0 + int(self.now * SECOND))

    def _open(self, device: int, after: int) -> list[Entry]:
        self.now += after
        name, number, opened = self.shards.get(device, ("", 0, self.now))
        if not name:
            self.episodes += 1
            name = f"e{self.episodes}"
        self.shards[device] = (name, number + 1, opened)
        return self._say(device, number + 1, "open", opened, name)

    def _again(self, which: int) -> list[Entry]:
        """The outbox gives something twice; only what the book can still know is given."""
        known = [t for t in self.taken if t["alert_id"] in self.book.alerts]
        return self.book.take(known[which : which + 1], T0 + int(self.now * SECOND))

    def _resolve(self, device: int) -> list[Entry]:
        if device not in self.shards:
            return []
        name, number, opened = self.shards.pop(device)
        return self._say(device, number + 1, "resolved", opened, name)

    def _ack(self, which: int) -> list[Entry]:
        ids = sorted(self.book.alerts)
        if which >= len(ids):
            return []
        try:
            return self.book.acknowledge(ids[which], "kim", "", T0 + int(self.now * SECOND))
        except NotPossible:
            return []

    def _silence(self, pattern: str, seconds: int) -> list[Entry]:
        now = T0 + int(self.now * SECOND)
        made = new_silence({"device": pattern}, "work", "", now, now, now + seconds * SECOND)
        return self.book.silence(made, now)

    def _unsilence(self, which: int) -> list[Entry]:
        ids = sorted(self.book.silences)
        return (
            self.book.unsilence(ids[which], T0 + int(self.now * SECOND)) if which < len(ids) else []
        )

    def _tick(self, seconds: int) -> list[Entry]:
        self.now += seconds
        return self.book.tick(T0 + int(self.now * SECOND))


@settings(max_examples=150, deadline=None)
@given(st.lists(step, max_size=40))
def test_whatever_happens(steps: list[tuple[Any, ...]]) -> None:
    walk = Walk()
    for one in steps:
        walk.do(one)
    transitions = [e["t"] for e in walk.entries if "t" in e]

    # a transition id is used once, and numbers of an alert go up one by one
    by_alert: dict[str, list[dict[str, Any]]] = {}
    for t in transitions:
        by_alert.setdefault(t["alert_id"], []).append(t)
    for items in by_alert.values():
        numbers = [t["number"] for t in items]
        assert numbers == list(range(1, len(numbers) + 1))
        assert [t["at"] for t in items] == sorted(t["at"] for t in items)
        # nothing follows the end, and what is acknowledged does not open again
        states = [t["state"] for t in items]
        assert "resolved" not in states[:-1]
        assert states == sorted(states, key=["open", "acknowledged", "resolved"].index)

    # an incident is open exactly as long as one of its members is
    live = [a.last for a in walk.book.alerts.values() if a.live]
    for document in live:
        if document["detector"] == "incident":
            assert any(d.get("group") == document["alert_id"] for d in live)
        if "group" in document:
            assert walk.book.alerts[document["group"]].live

    # the flag says whether a silence holds
    now = T0 + int(walk.now * SECOND)
    walk.do(("tick", 0))
    for document in [a.last for a in walk.book.alerts.values() if a.live]:
        holds = any(s.active(now) and s.matches(document) for s in walk.book.silences.values())
        assert ("silenced" in document["flags"]) == holds

    # entries alone, and a snapshot with the entries after it, make the same book
    replayed, half = Book(walk.book.settings), Book(walk.book.settings)
    for entry in walk.entries[: len(walk.entries) // 2]:
        half.apply(entry)
    resumed = Book(walk.book.settings)
    resumed.restore(half.snapshot())
    for entry in walk.entries[len(walk.entries) // 2 :]:
        resumed.apply(entry)
    for entry in walk.entries:
        replayed.apply(entry)
    assert replayed.snapshot() == walk.book.snapshot()
    assert resumed.snapshot() == walk.book.snapshot()
    # and go on alike
    following = [change("z", device="d1", at=walk.now), change("y", device="d2", at=walk.now)]
    expected = said(replayed.take(following, now))
    assert said(resumed.take(following, now)) == expected
