"""Alert transitions between a shard, which writes them before the message that caused them is
acknowledged, and the parent, which delivers them.

1. The shard appends to a segment log; a transition is in the outbox when its record is durable.
2. The parent tails the log. After delivery it writes `open.json`: its position and the last
   transition of every alert that is not resolved by then, in one atomic replacement.
3. Only then are segments unlinked, so `open.json` and the log together always know every alert.
   What was delivered after the newest `open.json` is delivered again: once per transition id after
   dedupe.
4. Of what was delivered the newest HISTORY bytes stay: a shard that starts reads there which alerts are over, lest a
   message that comes again begin one of them once more.
5. The parent syncs what it reads, and a sync of its own may succeed where the shard's failed and lost the
   record: a writer numbers on from the parent's position, lest its records be taken for delivered ones.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from greenlang_iot.alerts.episode import Ended
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.spool.files import OS_FILES, Files, replace_durably
from greenlang_iot.spool.format import Damage, Record
from greenlang_iot.spool.log import SegmentLog
from greenlang_iot.spool.reader import SegmentReader, unlink_before

log = structlog.get_logger(__name__)
STATE = "open.json"
SEGMENT_BYTES = 1 << 20
HISTORY: Final = 2 << 20
"""Bytes of an outbox up to which what was delivered stays, and a quarter of what it may hold: some 3,000 transitions."""


class Outbox:
    """The shard's side: one writer per folder.

    max_bytes: bound on transitions that the parent has not delivered; beyond it `append` raises
    SpoolFull. Raises LogInUse and OSError when it is opened.
    """

    def __init__(
        self, folder: Path, max_bytes: int, *, fsync_every: float = 0.005, files: Files = OS_FILES
    ) -> None:
        self._log = SegmentLog(
            folder,
            segment_bytes=min(SEGMENT_BYTES, max(65_536, max_bytes // 4)),
            max_bytes=max_bytes,
            fsync_every=fsync_every,
            after=_read_state(folder, files)[0] - 1,
            files=files,
        )

    def append(self, transitions: Sequence[Transition]) -> int:
        """Queue the transitions; the number to await. Raises SpoolFull with nothing appended."""
        body = json.dumps([t.as_dict() for t in transitions], separators=(",", ":")).encode()
        return self._log.append(body, len(transitions))

    async def durable(self, number: int) -> None:
        """Return when the transitions of that `append` are durable."""
        await self._log.durable(number)

    @property
    def pending_bytes(self) -> int:
        """Bytes in the outbox, delivered segments that are not unlinked yet included."""
        return self._log.nbytes

    async def close(self) -> None:
        await self._log.close()


class OutboxReader:
    """The parent's side: at most one per folder.

    poll → deliver `given` → `delivered()`. What was given before a restart and was not delivered
    comes again. Blocking: poll and delivered sync; one thread at a time.

    max_bytes: the writer's bound; 0: nothing that was delivered stays.
    """

    def __init__(self, folder: Path, max_bytes: int = 0, *, files: Files = OS_FILES) -> None:
        self._history = min(HISTORY, max_bytes // 4)
        self.lost = 0
        """Records of the log that were found damaged."""
        self._folder = folder
        self._files = files
        position, self._open = _read_state(folder, files)
        self._reader = SegmentReader(folder, position, files=files)
        self.given: list[dict[str, Any]] = []
        """What `poll` found since the last `delivered()`, in order."""
        self.forgotten = False
        """Something was forgotten since the last `delivered()`."""

    @property
    def known(self) -> list[dict[str, Any]]:
        """The last transition of every alert that was not resolved at the durable position."""
        return list(self._open.values())

    def grown(self) -> bool:
        """Whether `poll` may find something; unlike it this does not wait for the disk. OSError."""
        return self._reader.grown()

    def poll(self, records: int = 1000) -> list[dict[str, Any]]:
        """The next durable transitions (`Transition.as_dict()`), in order. OSError."""
        found = []
        for item in self._reader.poll(records):
            if isinstance(item, Damage):
                self.lost += item.last - item.first + 1
            else:
                found += json.loads(item.body)
        self.given += found
        return found

    def forget(self, alert_id: str) -> None:
        """The alert was resolved by another shard, to which its device had moved."""
        if self._open.pop(alert_id, None) is not None:
            self.forgotten = True

    def delivered(self) -> None:
        """Everything that `poll` returned is delivered: remember it durably, unlink segments."""
        if not self.given and not self.forgotten:
            return
        _apply(self._open, self.given)
        _write_state(self._folder, self._reader.position, self._open, self._files)
        self.given = []
        self.forgotten = False
        unlink_before(self._folder, self._reader.position, self._files, keep_bytes=self._history)


class Known(NamedTuple):
    """What outboxes know. open: last transitions of all alerts that are not resolved. ended: of those that
    are, as far as the logs go back."""

    open: list[dict[str, Any]]
    ended: list[Ended]


def known_alerts(folders: Iterable[Path], *, files: Files = OS_FILES) -> Known:
    """From the outboxes of all shards, while writers and the parent are running.

    Where an alert moved from one shard to another, its highest transition number counts.
    """
    merged: dict[str, dict[str, Any]] = {}
    opened: set[str] = set()
    for folder in folders:
        found, of_these = _last_transitions(folder, files)
        opened |= of_these
        for alert_id, last in found.items():
            if alert_id not in merged or merged[alert_id]["number"] < last["number"]:
                merged[alert_id] = last
    over = [t for t in merged.values() if t["state"] == "resolved"]
    return Known(
        [t for t in merged.values() if t["state"] != "resolved"],
        [Ended(t, t["alert_id"] in opened) for t in over],
    )


def remember(folder: Path, alerts: Iterable[dict[str, Any]]) -> None:
    """Have an outbox know alerts that are not resolved and that it forgot. Before its shard or its reader is there. OSError."""
    position, known = _read_state(folder, OS_FILES)
    OS_FILES.make_folder(folder)
    _apply(known, alerts)
    _write_state(folder, position, known, OS_FILES)


def _last_transitions(folder: Path, files: Files) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """By alert id, with the resolved ones that are still in the log; and who was open there."""
    while True:
        position, last = _read_state(folder, files)
        opened: set[str] = set()
        reader = SegmentReader(folder, 1, sync=False, files=files)
        gap = False
        while items := reader.poll():
            for item in items:
                if not isinstance(item, Record):
                    gap = gap or item.last >= position
                    continue
                for transition in json.loads(item.body):
                    alert_id, state = transition["alert_id"], transition["state"]
                    if state == "open":
                        opened.add(alert_id)
                    # of what was delivered the state says what is open, the log what is over
                    known = last.get(alert_id, transition)
                    if item.number >= position or known["state"] == state == "resolved":
                        last[alert_id] = transition
        # The parent may have delivered and unlinked since the state was read: then read it anew.
        if not gap or _read_state(folder, files)[0] == position:
            return last, opened


def _apply(open_now: dict[str, dict[str, Any]], transitions: Iterable[dict[str, Any]]) -> None:
    for transition in transitions:
        if transition["state"] == "resolved":
            open_now.pop(transition["alert_id"], None)
        else:
            open_now[transition["alert_id"]] = transition


def _write_state(
    folder: Path, position: int, open_now: dict[str, dict[str, Any]], files: Files
) -> None:
    state = {"version": 1, "position": position, "open": list(open_now.values())}
    replace_durably(files, folder / STATE, json.dumps(state).encode())


def _read_state(folder: Path, files: Files) -> tuple[int, dict[str, dict[str, Any]]]:
    """(position, last transition by alert id); (0, {}) before anything was delivered.

    So for a damaged file, too: what the log still has is delivered again, which does no harm.
    """
    try:
        state = json.loads(files.read(folder / STATE, 0, 1 << 30))
        return int(state["position"]), {t["alert_id"]: t for t in state["open"]}
    except FileNotFoundError:
        return 0, {}
    except (ValueError, KeyError, TypeError) as error:
        log.error("the outbox's state is damaged: begun anew", folder=str(folder), why=str(error))
        return 0, {}
