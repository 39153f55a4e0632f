"""The detector's checkpoint, taken while ingest goes on: copied in steps of the tick, written in a thread."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from greenlang_iot.detect.checkpoint import Snapshot
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.spool.files import OS_FILES, Files, replace_durably

STEP: Final = 16_384
"""Rows that one tick copies: some milliseconds."""

log = structlog.get_logger(__name__)


class Checkpoints:
    """Every so often the detector's memory goes to `path`, and once more at the end.

    written: told when a checkpoint is durable.
    """

    def __init__(
        self,
        detector: Detector,
        path: Path,
        written: Callable[[], None],
        files: Files = OS_FILES,
    ) -> None:
        self._detector = detector
        self._path = path
        self._written = written
        self._files = files
        self._began = time.monotonic()
        self._snapshot: Snapshot | None = None
        self._writing: asyncio.Task[None] | None = None

    def tick(self, every: float) -> None:
        """Go on with the one that is being taken, or begin one when it is due. Never blocks for long."""
        if self._writing is not None:
            if not self._writing.done():
                return
            self._writing = None
        if self._snapshot is None:
            if time.monotonic() - self._began < every:
                return
            self._began = time.monotonic()
            self._snapshot = self._detector.snapshot()
        if self._snapshot.step(STEP):
            snapshot, self._snapshot = self._snapshot, None
            self._writing = asyncio.ensure_future(self._write(snapshot))

    async def finish(self) -> None:
        """Nothing is learnt any more: the last one, whole."""
        if self._writing is not None:
            await self._writing
        self._snapshot = None
        snapshot = self._detector.snapshot()
        while not snapshot.step(STEP):
            await asyncio.sleep(0)
        await self._write(snapshot)

    async def _write(self, snapshot: Snapshot) -> None:
        memory = self._detector.second_stage_memory()
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(
                None, lambda: replace_durably(self._files, self._path, snapshot.parts(memory))
            )
        except OSError as error:
            # Only what was learnt since the last one would be missed: no reason to stop.
            log.error("no checkpoint was written", file=str(self._path), why=str(error))
        else:
            self._written()
