"""The book of alerts on disk: a journal of its entries, and now and then a snapshot of all of it.

1. Entries are in the journal, synced, before anybody hears of their transitions.
2. A record of the journal is released when every target has its transitions *and* a snapshot holds
   what it did; so snapshot and journal together always are the whole book.
3. After a restart transitions that are not released go to the targets again: once per transition id
   after dedupe.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import structlog

from greenlang_iot.alerts.book import Book, Document, Entry
from greenlang_iot.alerts.rule_file import NO_RULES, RuleSet
from greenlang_iot.alerts.silences import Silence
from greenlang_iot.settings.model import AlertSettings
from greenlang_iot.spool.files import OS_FILES, Files, replace_durably
from greenlang_iot.spool.log import SegmentLog

SNAPSHOT: Final = "book.json"
JOURNAL: Final = "journal"
VERSION: Final = 1
ENTRIES_AT_ONCE: Final = 1_000
"""Entries in one record of the journal."""
AT_ONCE: Final = 500
"""Transitions that the book takes in one step: 20,000 at once held the loop for 24 s, in steps it is 0.8 s in all."""

log = structlog.get_logger(__name__)


class Published(NamedTuple):
    """Transitions that are durable. number: of the journal's record that holds the last of them."""

    number: int
    transitions: list[Document]


Listener = Callable[[Published], None]


class AlertStore:
    """One writer per folder. Everything that changes the book goes through here, one at a time.

    `book` is there to be read. Raises LogInUse, FormatError and OSError when it is opened.
    """

    def __init__(
        self,
        folder: Path,
        settings: AlertSettings,
        rules: RuleSet = NO_RULES,
        *,
        files: Files = OS_FILES,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.book = Book(settings, rules)
        self._path = folder / SNAPSHOT
        self._files = files
        self._clock_ns = clock_ns
        self._listeners: list[Listener] = []
        self._unwritten: list[Entry] = []
        self._one_at_a_time = asyncio.Lock()
        files.make_folder(folder)
        self._journal = SegmentLog(
            folder / JOURNAL,
            segment_bytes=min(1 << 20, max(1 << 16, settings.outbox_max_bytes // 4)),
            max_bytes=settings.outbox_max_bytes,
            fsync_every=0.0,
            files=files,
        )
        self._undelivered = self._replay(self._read_snapshot())

    def configure(self, settings: AlertSettings, rules: RuleSet) -> None:
        """Go on with reloaded settings and rules."""
        self.book.settings, self.book.rules = settings, rules

    # ---- changes ------------------------------------------------------------------------------------

    async def take(self, transitions: Sequence[Document]) -> None:
        """What shards said, and what time did. Durable when it returns.

        SpoolFull, or cancelled: all of it comes into the book, and is in the journal after a later call
        that returns.
        """
        steps = [  # each waits for the one before; what is called later waits for all of them
            asyncio.ensure_future(
                self._commit(partial(self._taken, transitions[first : first + AT_ONCE]))
            )
            for first in range(0, max(len(transitions), 1), AT_ONCE)
        ]
        ended = await asyncio.shield(asyncio.gather(*steps, return_exceptions=True))
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    def _taken(self, transitions: Sequence[Document], now: int) -> list[Entry]:
        return self.book.take(transitions, now) + self.book.tick(now)

    async def acknowledge(self, alert_id: str, by: str, comment: str) -> Document:
        """The alert afterwards. Raises NotPossible, SpoolFull."""
        await self._do(lambda now: self.book.acknowledge(alert_id, by, comment, now))
        return self.book.alerts[alert_id].last

    async def silence(self, make: Callable[[int], Silence]) -> Silence:
        """Add the silence that `make` makes at this time (ns). Raises InputError, SpoolFull."""
        made: list[Silence] = []

        def add(now: int) -> list[Entry]:
            made.append(make(now))
            return self.book.silence(made[0], now)

        await self._do(add)
        return made[0]

    async def unsilence(self, silence_id: str) -> None:
        """Raises NotPossible, SpoolFull."""
        await self._do(lambda now: self.book.unsilence(silence_id, now))

    async def _do(self, change: Callable[[int], list[Entry]]) -> None:
        """To its end even if the caller is cancelled: the book and its journal stay together."""
        await asyncio.shield(self._commit(change))

    async def _commit(self, change: Callable[[int], list[Entry]]) -> None:
        async with self._one_at_a_time:
            self._unwritten += change(self._clock_ns())
            while self._unwritten:
                entries = self._unwritten[:ENTRIES_AT_ONCE]
                body = orjson.dumps(entries)
                while len(entries) > 1 and len(body) > self._journal.max_bytes // 4:
                    entries = entries[: len(entries) // 2]  # else it might never fit
                    body = orjson.dumps(entries)
                number = self._journal.append(body, len(entries))
                del self._unwritten[: len(entries)]
                await self._journal.durable(number)
                self._tell(Published(number, _transitions(entries)))

    # ---- who hears of it ----------------------------------------------------------------------------

    def listen(self, listener: Listener, *, again: bool = False) -> Callable[[], None]:
        """Tell of every transition once it is durable, in order; call the result to end it.

        again: first of those that were not delivered before the last stop.
        """
        self._listeners.append(listener)
        for published in self._undelivered if again else ():
            listener(published)
        return lambda: self._listeners.remove(listener)

    def _tell(self, published: Published) -> None:
        for listener in list(self._listeners):
            listener(published)

    async def delivered(self, number: int) -> None:
        """Every target has what was published up to this record. OSError: call it again."""
        if number <= self._journal.released:
            return
        async with self._one_at_a_time:
            state = {
                "version": VERSION,
                "applied": self._journal.last,
                "unwritten": self._unwritten,  # the book has them, the journal does not yet
                **self.book.snapshot(),
            }
            content = orjson.dumps(state)
            await asyncio.to_thread(replace_durably, self._files, self._path, content)
            self._journal.release(number)
            self._undelivered = []

    async def close(self) -> None:
        """OSError."""
        await self._journal.close()

    # ---- after a restart ----------------------------------------------------------------------------

    def _read_snapshot(self) -> int:
        """Number of the newest record that the snapshot holds."""
        try:
            snapshot: dict[str, Any] = json.loads(
                self._files.read(self._path, 0, self._files.size(self._path))
            )
            if snapshot["version"] != VERSION:
                raise ValueError(f"its version is {snapshot['version']}, not {VERSION}")
            self.book.restore(snapshot)
            self._unwritten = list(snapshot.get("unwritten", ()))
            return int(snapshot["applied"])
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError) as error:
            aside = self._path.with_suffix(".damaged")
            self._files.rename(self._path, aside)
            log.error(
                "the book of alerts is unreadable: open alerts come back from the outboxes, "
                "acknowledgements and silences do not",
                file=str(aside),
                why=str(error),
            )
            self.book = Book(self.book.settings, self.book.rules)
            self._unwritten = []
            return 0

    def _replay(self, in_snapshot: int) -> list[Published]:
        """Bring the book up to the journal; what no target may have yet."""
        found = []
        for record in self._journal.read(0):
            entries = orjson.loads(record.body)
            for entry in entries if record.number > in_snapshot else ():
                if not self._is_applied(entry):
                    self.book.apply(entry)
            found.append(Published(record.number, _transitions(entries)))
        return found

    def _is_applied(self, entry: Entry) -> bool:
        """The snapshot had it already: as one that was not written yet."""
        if "t" not in entry:
            return False
        known = self.book.alerts.get(entry["t"]["alert_id"])
        return known is not None and bool(known.last["number"] >= entry["t"]["number"])


def _transitions(entries: Iterable[Entry]) -> list[Document]:
    return [entry["t"] for entry in entries if "t" in entry]
