"""What devices say of themselves on `…/status`: online, or offline by their last will. Pure."""

from typing import Any

import orjson

from greenlang_iot.alerts.book import Book, Document
from greenlang_iot.alerts.episode import CERTAIN, Episode, Seen, begin, change
from greenlang_iot.model.directory import Directory

OFFLINE = "offline"
"""The rule of an alert about a device that said goodbye."""


def is_online(payload: bytes) -> bool | None:
    """`online` or `offline`, as a text or as `{"status": …}`; None for anything else."""
    text: Any = payload.decode(errors="replace").strip()
    if text.startswith("{"):
        try:
            text = orjson.loads(text).get("status")
        except (ValueError, AttributeError):
            return None
    return {"online": True, "offline": False}.get(text) if isinstance(text, str) else None


class Presence:
    """Alerts of registered devices that are offline, as transitions for the book.

    Restored from the book; a status that comes again (retained, or after a restart) changes nothing.
    """

    def __init__(self, book: Book, directory: Directory, severity: str) -> None:
        self._severity = severity
        self._away: dict[str, Document] = {
            alert.last["device"]: alert.last
            for alert in book.alerts.values()
            if alert.live and alert.last["rule"] == OFFLINE
        }
        self._directory = directory
        self._index: dict[str, int] | None = None  # once a device says something

    @property
    def _devices(self) -> dict[str, int]:
        """Index by id."""
        if self._index is None:
            texts = self._directory.device
            self._index = {texts[i]: i for i in range(len(texts))}
        return self._index

    def follow(self, directory: Directory, now_ns: int) -> list[Document]:
        """Another registry: devices that left it are not offline any more."""
        if directory is self._directory:
            return []
        self._directory, self._index = directory, None
        gone = [device for device in self._away if device not in self._devices]
        return [self._back(device, now_ns, "is no longer registered") for device in gone]

    def index(self, org: str, site: str, device: str) -> int | None:
        """Of an enabled device of that place; None: nothing it says is listened to."""
        d, index = self._directory, self._devices.get(device)
        if index is None or not d.enabled[index]:
            return None
        here = d.org[int(d.org_of[index])], d.site[int(d.site_of[index])]
        return index if here == (org, site) else None

    def status(
        self, org: str, site: str, device: str, payload: bytes, now_ns: int
    ) -> list[Document]:
        """A message on a device's status topic; another place's or unknown devices' are ignored."""
        online, index = is_online(payload), self.index(org, site, device)
        if online is None or index is None:
            return []
        if online:
            return [self._back(device, now_ns, "is online again")] if device in self._away else []
        if device in self._away:
            return []
        summary = f"{device} is offline: it said goodbye, or its connection was lost"
        seen = Seen(now_ns, None, None, None, CERTAIN, OFFLINE, self._severity, summary)
        episode = begin(OFFLINE, (org, site, device, ""), seen)
        d = self._directory
        episode.type = d.type[int(d.type_of[index])]
        self._away[device] = change(episode, "open", seen, now_ns).as_dict()
        return [self._away[device]]

    def _back(self, device: str, now_ns: int, what: str) -> Document:
        last = self._away.pop(device)
        episode = Episode(
            last["alert_id"],
            OFFLINE,
            last["detector"],
            last["severity"],
            (last["org"], last["site"], device, ""),
            last["opened"],
            "open",
            number=1,  # of its own: the book numbers for the outside
            type=last.get("type", ""),
        )
        summary = f"{device} {what}"
        seen = Seen(now_ns, None, None, None, 0.0, OFFLINE, last["severity"], summary)
        return change(episode, "resolved", seen, now_ns).as_dict()
