"""Devices that say goodbye: one alert each, from the last will to the reconnect, over restarts."""

import pytest
from tests.fakes.alerts import SECOND, T0
from tests.fakes.directory import directory

from greenlang_iot.alerts.book import Book
from greenlang_iot.alerts.presence import Presence, is_online
from greenlang_iot.settings.model import AlertSettings

FLEET = directory(2, sites=1)


@pytest.mark.parametrize(
    ("payload", "online"),
    [
        (b"online", True),
        (b" offline\n", False),
        (b'{"status": "offline", "since": 1}', False),
        (b'{"status": "online"}', True),
        (b"", None),
        (b"away", None),
        (b"{", None),
        (b'{"status": 1}', None),
        (b'{"status": ["online"]}', None),
        (b"\xff", None),
        (b'{"status": ' + b"[" * 100_000, None),
        (b'{"status": ' + b"[" * 1_020 + b"]" * 1_020 + b"}", None),
        (b'{"status": ' + b"9" * 5_000 + b"}", None),
    ],
)
def test_what_a_status_says(payload: bytes, online: bool | None) -> None:
    assert is_online(payload) is online


class Desk:
    def __init__(self, book: Book | None = None) -> None:
        self.book = book or Book(AlertSettings())
        self.presence = Presence(self.book, FLEET, "critical")
        self.now = T0

    def say(self, device: str, payload: bytes, site: str = "site-0") -> list[tuple[str, str, int]]:
        self.now += SECOND
        found = self.presence.status("acme", site, device, payload, self.now)
        entries = self.book.take(found, self.now)
        return [(e["t"]["device"], e["t"]["state"], e["t"]["number"]) for e in entries]


def test_from_the_last_will_to_the_reconnect() -> None:
    desk = Desk()
    assert desk.say("d000", b"online") == []
    assert desk.say("d000", b"offline") == [("d000", "open", 1)]
    assert desk.say("d000", b"offline") == []
    (alert,) = desk.book.alerts.values()
    assert (alert.last["rule"], alert.last["severity"], alert.last["type"]) == (
        "offline",
        "critical",
        "sensor",
    )
    assert desk.say("d000", b"online") == [("d000", "resolved", 2)]
    assert desk.say("d000", b"online") == []
    assert desk.say("d000", b"offline") == [("d000", "open", 1)]


def test_an_acknowledged_one_survives_a_restart_and_resolves() -> None:
    desk = Desk()
    desk.say("d000", b"offline")
    (alert_id,) = desk.book.alerts
    desk.book.acknowledge(alert_id, "kim", "", desk.now)
    book = Book(AlertSettings())
    book.restore(desk.book.snapshot())
    later = Desk(book)
    assert later.say("d000", b"offline") == []  # retained
    later.now = desk.now
    assert later.say("d000", b"online") == [("d000", "resolved", 3)]


@pytest.mark.parametrize(("device", "site"), [("other", "site-0"), ("d000", "elsewhere")])
def test_what_is_not_registered_there_is_ignored(device: str, site: str) -> None:
    assert Desk().say(device, b"offline", site) == []


def test_a_device_that_leaves_the_registry_is_not_offline() -> None:
    desk = Desk()
    desk.say("d001", b"offline")
    assert desk.presence.follow(FLEET, desk.now) == []
    (gone,) = desk.presence.follow(directory(1, sites=1), desk.now)
    assert (gone["device"], gone["state"]) == ("d001", "resolved")
