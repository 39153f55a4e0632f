"""The parent's book of alerts: what the shards say, and what people and the site say about it. Pure.

    pending ─▶ open ─▶ acknowledged ─▶ resolved        flags: silenced, flapping, aside; a group's id

Shards open and resolve alerts; here they are numbered for the outside, grouped into incidents,
acknowledged and silenced. Every change is an *entry*, a JSON object that `apply` takes over:

    {"t": transition, "seen": number of the shard's transition (0: it is the book's own)}
    {"silence": silence}   {"ended": id of a silence}

A book is exactly what its entries make of it, so a journal of them brings it back after a crash.
Documents are `Transition.as_dict()`.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from greenlang_iot.alerts import words
from greenlang_iot.alerts.episode import ASIDE
from greenlang_iot.alerts.rule_file import NO_RULES, RuleSet
from greenlang_iot.alerts.silences import Silence
from greenlang_iot.model.errors import InputError
from greenlang_iot.model.severity import SEVERITIES
from greenlang_iot.settings.model import AlertSettings

SILENCED: Final = "silenced"
FLAPPING: Final = "flapping"
HISTORY: Final = 32
"""Transitions kept of one alert: the first one and the newest."""
MEMBERS_SHOWN: Final = 1_000
"""Members of an incident that its transitions name; `members_total` counts all."""
INCIDENT: Final = "incident"
"""The `detector` of an incident; its rule is the kind of its members."""
MOST_OPENINGS: Final = 64
"""Openings remembered of one rule and scope: alerts.flap_count is at most this."""
_VALUE_RULES: Final = frozenset({"spike", "shift", "rate", "river", "context", "swing"})

Document: TypeAlias = dict[str, Any]
Entry: TypeAlias = dict[str, Any]
_Place: TypeAlias = tuple[str, str, str]


class NotPossible(Exception):
    """The alert or silence is not there, or not in a state for this: one sentence.

    missing: there is none with that id.
    """

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(slots=True)
class Alert:
    """last: the newest transition. seen: number of the shard's newest one. history: oldest first."""

    last: Document
    seen: int = 0
    history: list[Document] = field(default_factory=list)

    @property
    def live(self) -> bool:
        return bool(self.last["state"] != "resolved")


class Book:
    """alerts: by id, those that are not resolved and the newest that are. silences: by id."""

    def __init__(self, settings: AlertSettings, rules: RuleSet = NO_RULES) -> None:
        self.settings = settings
        self.rules = rules
        self.alerts: dict[str, Alert] = {}
        self.silences: dict[str, Silence] = {}
        self._resolved: OrderedDict[str, None] = OrderedDict()
        self._openings: OrderedDict[tuple[str, ...], deque[int]] = OrderedDict()
        self._loose: dict[_Place, dict[str, int]] = {}  # open, in no incident: id → time of opening
        self._incidents: dict[_Place, str] = {}  # not resolved
        self._members: dict[str, set[str]] = {}  # of each incident, those not resolved; never empty
        self._ticked_ns = 0

    # ---- what happens -----------------------------------------------------------------------------

    def take(self, transitions: Iterable[Document], now_ns: int) -> list[Entry]:
        """What the shards say; a transition that was taken before changes nothing."""
        entries: list[Entry] = []
        joined: dict[str, list[str]] = {}
        for item in transitions:
            self._take(item, now_ns, entries, joined)
        for incident, members in joined.items():
            self._grow(incident, members, now_ns, entries)
        for incident in [i for i in self._incidents.values() if i not in self._members]:
            site = self.alerts[incident].last["site"]
            change = {"state": "resolved", "summary": words.incident_over(site)}
            self._change(incident, change, now_ns, entries)
        return entries

    def acknowledge(self, alert_id: str, by: str, comment: str, now_ns: int) -> list[Entry]:
        """Somebody looks after it; of an incident, after all its members. Raises NotPossible."""
        alert = self.alerts.get(alert_id)
        if alert is None:
            raise NotPossible(f"there is no alert {alert_id}", missing=True)
        state = alert.last["state"]
        if state in ("pending", "resolved"):
            raise NotPossible(f"alert {alert_id} is {state}: only an open one is acknowledged")
        entries: list[Entry] = []
        for member in (alert_id, *sorted(self._members.get(alert_id, ()))):
            if self.alerts[member].last["state"] == "open":
                change = {"state": "acknowledged", "by": by, "comment": comment}
                self._change(member, change, now_ns, entries)
        return entries

    def silence(self, silence: Silence, now_ns: int) -> list[Entry]:
        """Add a silence; alerts that it matches get the flag. Raises InputError."""
        if len(self.silences) >= self.settings.max_silences:
            raise InputError(
                f"there are {len(self.silences)} silences already (alerts.max_silences): end some"
            )
        entries: list[Entry] = []
        self._apply({"silence": silence.as_dict()}, entries)
        self._flag(now_ns, entries)
        return entries

    def unsilence(self, silence_id: str, now_ns: int) -> list[Entry]:
        """End a silence. Raises NotPossible."""
        if silence_id not in self.silences:
            raise NotPossible(f"there is no silence {silence_id}", missing=True)
        entries: list[Entry] = []
        self._apply({"ended": silence_id}, entries)
        self._flag(now_ns, entries)
        return entries

    def tick(self, now_ns: int) -> list[Entry]:
        """Time goes on: silences begin and end."""
        entries: list[Entry] = []
        since, self._ticked_ns = self._ticked_ns, now_ns
        ended = [s.silence_id for s in self.silences.values() if s.until_ns <= now_ns]
        for silence_id in ended:
            self._apply({"ended": silence_id}, entries)
        if ended or any(since < s.starts_ns <= now_ns for s in self.silences.values()):
            self._flag(now_ns, entries)
        return entries

    # ---- what is kept -------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> None:
        """Take over an entry that this or an earlier book made."""
        if "silence" in entry:
            silence = Silence.from_dict(entry["silence"])
            self.silences[silence.silence_id] = silence
        elif "ended" in entry:
            self.silences.pop(entry["ended"], None)
        else:
            self._note(entry["t"], entry["seen"])

    def snapshot(self) -> dict[str, Any]:
        """Everything, as plain JSON types; `restore` takes it over."""
        return {
            "alerts": [
                {"last": a.last, "seen": a.seen, "history": a.history} for a in self._in_order()
            ],
            "silences": [s.as_dict() for s in self.silences.values()],
            "openings": [[list(who), list(times)] for who, times in self._openings.items()],
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Into an empty book. Raises KeyError, TypeError or ValueError for a damaged snapshot."""
        for item in snapshot["alerts"]:
            for old in item["history"]:
                self._note(old, item["seen"])
            self._note(item["last"], item["seen"])
            self.alerts[item["last"]["alert_id"]].history = item["history"]
        for item in snapshot["silences"]:
            self.apply({"silence": item})
        self._openings = OrderedDict(
            (tuple(who), deque(times, MOST_OPENINGS)) for who, times in snapshot["openings"]
        )

    def members(self, incident: str) -> list[Document]:
        """Last transitions of all known members, resolved ones included."""
        return [a.last for a in self.alerts.values() if a.last.get("group") == incident]

    def _in_order(self) -> list[Alert]:
        """Resolved ones first, in the order in which they go."""
        live = [alert for alert in self.alerts.values() if alert.live]
        return [*(self.alerts[alert_id] for alert_id in self._resolved), *live]

    # ---- one transition ---------------------------------------------------------------------------

    def _take(
        self, item: Document, now_ns: int, entries: list[Entry], joined: dict[str, list[str]]
    ) -> None:
        alert_id, seen = item["alert_id"], item["number"]
        alert = self.alerts.get(alert_id)
        if alert is not None and seen <= alert.seen:
            return
        before = alert.last if alert is not None else {}
        document = dict(item)
        begins = before.get("state") in (None, "resolved")  # for the first time or once more
        if not begins:
            document |= {k: before[k] for k in ("by", "comment", "group") if k in before}
        if item["state"] == "open" and before.get("state") == "acknowledged":
            document["state"] = "acknowledged"
        number = max(seen, before.get("number", 0) + 1)
        document |= {"number": number, "transition_id": f"{alert_id}-{number}"}
        opens = item["state"] == "open" and (begins or before["state"] == "pending")
        document["flags"] = self._flags(document, opens, now_ns)
        self._apply({"t": document, "seen": seen}, entries)
        if opens and document["device"]:
            self._join(document, joined)

    def _flags(self, document: Document, opens: bool, now_ns: int) -> list[str]:
        flags = [flag for flag in document["flags"] if flag == ASIDE]
        if self._is_silenced(document, now_ns):
            flags.append(SILENCED)
        if opens:
            times = [*self._openings.get(_identity(document), ()), document["opened"]]
            newest = times[-self.settings.flap_count :]
            span = self.settings.flap_window * 1e9
            flaps = len(newest) == self.settings.flap_count and newest[-1] - newest[0] <= span
        else:
            before = self.alerts.get(document["alert_id"])
            flaps = before is not None and FLAPPING in before.last["flags"]
        return [*flags, FLAPPING] if flaps else flags

    def _is_silenced(self, document: Document, now_ns: int) -> bool:
        return any(s.active(now_ns) and s.matches(document) for s in self.silences.values())

    def _flag(self, now_ns: int, entries: list[Entry]) -> None:
        """A silence began or ended: every alert that it concerns says so."""
        for alert in [a for a in self.alerts.values() if a.live]:
            flags = [flag for flag in alert.last["flags"] if flag != SILENCED]
            if self._is_silenced(alert.last, now_ns):
                flags.insert(0, SILENCED)
            if flags != alert.last["flags"]:
                self._change(alert.last["alert_id"], {"flags": flags}, now_ns, entries)

    def _change(
        self, alert_id: str, change: dict[str, Any], now_ns: int, entries: list[Entry]
    ) -> None:
        """A transition of the book's own: as the last one was, but for `change`."""
        alert = self.alerts[alert_id]
        number = alert.last["number"] + 1
        document = alert.last | {
            "number": number,
            "transition_id": f"{alert_id}-{number}",
            "at": max(now_ns, alert.last["at"]),
        }
        kept = {k: v for k, v in (document | change).items() if v or k not in ("by", "comment")}
        self._apply({"t": kept, "seen": 0}, entries)

    def _apply(self, entry: Entry, entries: list[Entry]) -> None:
        self.apply(entry)
        entries.append(entry)

    # ---- incidents ----------------------------------------------------------------------------------

    def _join(self, document: Document, joined: dict[str, list[str]]) -> None:
        """Many devices of a site with alerts of one kind within the window are one incident."""
        devices, window = self._grouping(document["rule"])
        if not devices:
            return
        place, at_ns = _place(document), document["at"]
        incident = self._incidents.get(place)
        if incident is None:  # or is one about to begin?
            incident = next((i for i, m in joined.items() if self._is_at(place, m)), None)
            near_incident = incident is not None
        else:
            near_incident = at_ns <= self.alerts[incident].last["at"] + window
        near = [a for a, at in self._loose.get(place, {}).items() if abs(at - at_ns) <= window]
        if incident is not None and near_incident:
            near = [document["alert_id"]]
        elif len({self.alerts[a].last["device"] for a in near}) < devices:
            return
        if incident is None:
            incident = _incident_id(place, min(_order(self.alerts[a].last) for a in near))
        known = joined.setdefault(incident, [])
        known += [a for a in near if a not in known]

    def _grouping(self, rule: str) -> tuple[int, int]:
        """(devices that make an incident, 0: never; window in ns): the rule's own, or the settings'."""
        own = self.rules.named(rule)
        if own is not None and own.group is not None:
            return own.group.devices, int(own.group.window * 1e9)
        return self.settings.group_devices, int(self.settings.group_window * 1e9)

    def _is_at(self, place: _Place, members: list[str]) -> bool:
        """Some of them may be forgotten already: a batch can hold more than `history` alerts."""
        known = [self.alerts[m].last for m in members if m in self.alerts]
        return bool(known) and _place(known[0]) == place

    def _grow(self, incident: str, members: list[str], now_ns: int, entries: list[Entry]) -> None:
        """Members join an incident, which begins with the first of them."""
        members = [m for m in members if m in self.alerts and self.alerts[m].live]
        if not members:
            return
        for member in members:
            self._change(member, {"group": incident}, now_ns, entries)
        last = [self.alerts[m].last for m in members]
        at_ns = max(d["at"] for d in last)
        known = self.alerts.get(incident)
        shown = [*(known.last["members"] if known else ()), *members][:MEMBERS_SHOWN]
        total = len(members) + (known.last["members_total"] if known else 0)
        change = {
            "members": shown,
            "members_total": total,
            "summary": words.incident(last[0]["site"], _kind(last[0]["rule"]), total),
            "severity": _worst([d["severity"] for d in last] + _severity(known)),
            "score": max(d["score"] for d in last),
        }
        if known is not None:
            self._change(incident, change, at_ns, entries)
            return
        document = {
            "v": 1,
            "alert_id": incident,
            "transition_id": f"{incident}-1",
            "number": 1,
            "state": "open",
            "rule": _kind(last[0]["rule"]),
            "org": last[0]["org"],
            "site": last[0]["site"],
            "device": "",
            "metric": "",
            "opened": min(d["opened"] for d in last),
            "at": at_ns,
            "value": None,
            "expected": None,
            "band": None,
            "detector": INCIDENT,
            "flags": [],
            **change,
        }
        document["flags"] = [SILENCED] if self._is_silenced(document, now_ns) else []
        self._apply({"t": document, "seen": 0}, entries)

    # ---- what follows from the entries ------------------------------------------------------------

    def _note(self, document: Document, seen: int) -> None:
        """Keep a transition, and what is looked up by it."""
        alert_id, state = document["alert_id"], document["state"]
        alert = self.alerts.get(alert_id)
        opens = state == "open" and (
            alert is None or alert.last["state"] in ("pending", "resolved")
        )
        if alert is None:
            alert = self.alerts[alert_id] = Alert(document)
        else:
            brief = {k: v for k, v in alert.last.items() if k != "members"}
            alert.history.append(brief)
            if len(alert.history) >= HISTORY:
                del alert.history[1]
            alert.last = document
        alert.seen = max(alert.seen, seen)
        if opens:
            self._note_opening(document)
        self._note_group(document, opens)
        if state == "resolved":
            self._resolved[alert_id] = None
            self._resolved.move_to_end(alert_id)
            while len(self._resolved) > self.settings.history:
                gone, _ = self._resolved.popitem(last=False)
                del self.alerts[gone]
        else:
            self._resolved.pop(alert_id, None)

    def _note_opening(self, document: Document) -> None:
        times = self._openings.setdefault(_identity(document), deque(maxlen=MOST_OPENINGS))
        times.append(document["opened"])
        self._openings.move_to_end(_identity(document))
        while len(self._openings) > self.settings.max_active:
            self._openings.popitem(last=False)

    def _note_group(self, document: Document, opens: bool) -> None:
        alert_id, group, place = document["alert_id"], document.get("group", ""), _place(document)
        live = document["state"] != "resolved"
        if document["detector"] == INCIDENT:
            if live:
                self._incidents[place] = alert_id
            elif self._incidents.get(place) == alert_id:
                del self._incidents[place]
            return
        if group and live:
            self._members.setdefault(group, set()).add(alert_id)
        elif group:
            self._members.get(group, set()).discard(alert_id)
            if not self._members.get(group):
                self._members.pop(group, None)
        loose = self._loose.setdefault(place, {})
        if opens and document["device"] and not group:
            oldest = document["at"] - self._grouping(document["rule"])[1]
            for other in [a for a, opened in loose.items() if opened < oldest]:
                del loose[other]
            loose[alert_id] = document["at"]
        elif group or not live:
            loose.pop(alert_id, None)
        if not loose:
            del self._loose[place]


def is_notified(document: Document) -> bool:
    """Whether a person is told: not what is silenced, and of an incident the incident alone."""
    return SILENCED not in document["flags"] and not document.get("group")


def listed(
    book: Book, wanted: Callable[[Document], bool], limit: int, cursor: str = ""
) -> tuple[list[Document], str, int]:
    """(last transitions, newest openings first; where to go on, "" at the end; how many in all).

    cursor: what an earlier call returned. Alerts that open meanwhile do not shift the pages.
    """
    found = [alert.last for alert in book.alerts.values() if wanted(alert.last)]
    found.sort(key=_order, reverse=True)
    rest = found
    if cursor:
        opened, _, alert_id = cursor.partition(":")
        try:
            at = int(opened), alert_id
        except ValueError:
            alert_id = ""
        if not alert_id:
            raise InputError("the cursor is none that this gateway gave")
        rest = [d for d in found if _order(d) < at]
    page = rest[:limit]
    more = f"{page[-1]['opened']}:{page[-1]['alert_id']}" if len(rest) > limit else ""
    return page, more, len(found)


def _order(document: Document) -> tuple[int, str]:
    return document["opened"], document["alert_id"]


def _kind(rule: str) -> str:
    """Rules about a value are one kind; every other rule is its own."""
    return "value" if rule in _VALUE_RULES else rule


def _place(document: Document) -> _Place:
    return document["org"], document["site"], _kind(document["rule"])


def _identity(document: Document) -> tuple[str, ...]:
    """What stays the same from one episode to the next."""
    return tuple(document[k] for k in ("rule", "org", "site", "device", "metric", "detector"))


def _incident_id(place: _Place, first: tuple[int, str]) -> str:
    """first: opening and id of its oldest member, which belongs to no other incident."""
    text = "\0".join((INCIDENT, *place, str(first[0]), first[1]))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _worst(severities: Sequence[str]) -> str:
    return max(severities, key=SEVERITIES.index)


def _severity(alert: Alert | None) -> list[str]:
    return [alert.last["severity"]] if alert is not None else []
