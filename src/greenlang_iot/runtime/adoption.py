"""Spools of shards that an earlier layout had and this one has not: delivered here, then removed.

Order per device is kept within such a spool. Between it and what the device sends now it is not: the
device may belong to another shard since the layout changed.
"""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.runtime.meters import SinkMeter
from greenlang_iot.sinks.runner import Runner
from greenlang_iot.spool.format import FormatError
from greenlang_iot.spool.status import log_status
from greenlang_iot.spool.store import LogInUse

log = structlog.get_logger(__name__)
LOOK_EVERY = 0.1
AGAIN = 1.0
"""Seconds until what the disk refused is tried again."""


class Nothing:
    """An OpenChunk that nobody appends to: an adopted spool has no live side."""

    rows = 0
    size = 0

    def append(self, batch: ReadingBatch, scores: ScoreBatch) -> int:
        raise AssertionError("nothing is appended to an adopted spool")

    def seal(self) -> bytes:
        return b""

    def grow(self, directory: Directory) -> None:
        return


class AdoptionMeter(SinkMeter):
    """Counts as its sink does; what is left in the spool is added to the live runner's gauges."""

    def __init__(self, live: SinkMeter) -> None:
        super().__init__(live.counters, live.sink)
        self._left: dict[str, float] = {}
        live.beside.append(self._left)

    def gauges(self, values: dict[str, float]) -> None:
        for name in ("spool_records", "spool_bytes"):
            self._left[name] = values[name]


class Adoption:
    """One spool folder of a vanished shard. `make` opens it as a runner without a live side."""

    def __init__(self, folder: Path, make: Callable[[], Runner]) -> None:
        self._folder = folder
        self._make = make

    async def run(self) -> None:
        """Deliver it all, however long that takes, and remove the folder; a disk that fails is waited for."""
        runner = await self._opened()
        if runner is None:
            return
        log.info("a spool of an earlier layout is delivered here", folder=str(self._folder))
        task = asyncio.ensure_future(runner.run())
        try:
            while runner.backlog and not task.done():
                runner.check(None)
                await asyncio.wait({task}, timeout=LOOK_EVERY)
            runner.check(None)
            if task.done():
                await task  # raises what went wrong
        finally:
            try:
                await runner.close()
            except OSError as error:  # of what is delivered, only that is not on disk: it goes now
                self._say("cannot be closed", error)
            await asyncio.wait({task})
        await self._remove()
        log.info("a spool of an earlier layout is delivered", folder=str(self._folder))

    async def _opened(self) -> Runner | None:
        """None where this release cannot read it: it stays."""
        said = False
        while True:
            try:
                return self._make()
            except FormatError as error:
                self._say("cannot be opened; it stays", error)
                return None
            except (OSError, LogInUse) as error:
                if not said:
                    self._say("cannot be opened; it is tried again", error)
                said = True
            await asyncio.sleep(AGAIN)

    async def _remove(self) -> None:
        said = False
        while self._folder.exists():
            try:
                await asyncio.to_thread(shutil.rmtree, self._folder)
            except OSError as error:
                if not said:
                    self._say("is delivered and cannot be removed; it is tried again", error)
                said = True
                await asyncio.sleep(AGAIN)

    def _say(self, what: str, error: Exception) -> None:
        log.error(f"a spool of an earlier layout {what}", folder=str(self._folder), why=str(error))


def say_left(folder: Path) -> None:
    """In the log, where acknowledged readings wait in the spool of a sink that is not enabled."""
    try:
        chunks = log_status(folder).records
    except OSError as error:
        log.error(
            "the spool of a sink that is not enabled cannot be read",
            folder=str(folder),
            why=str(error),
        )
        return
    if chunks:
        log.error(
            "acknowledged readings wait in the spool of a sink that is not enabled: they are delivered when "
            "it is enabled again",
            folder=str(folder),
            chunks=chunks,
        )


def abandoned(spool: Path, shard: int, shards: int) -> Sequence[Path]:
    """Spool folders (`shard-<n>/<sink>`) of shards that are no more, those which `shard` adopts."""
    found = []
    for folder in sorted(spool.glob("shard-*/*")):
        number = folder.parent.name.removeprefix("shard-")
        if number.isdecimal() and folder.is_dir():
            n = int(number)
            if n >= shards and n % shards == shard:
                found.append(folder)
    return found
