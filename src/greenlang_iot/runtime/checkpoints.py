"""The detector's checkpoint, taken while ingest goes on: copied in steps of the tick, each written in a thread before the next."""

import asyncio
import mmap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog

from greenlang_iot.detect import checkpoint
from greenlang_iot.detect.checkpoint import Piece
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model.pieces import Body
from greenlang_iot.spool.files import OS_FILES, Files, Replacement

STEP: Final = checkpoint.STEP

log = structlog.get_logger(__name__)


def restore(detector: Detector, path: Path) -> int:
    """Take over the checkpoint at `path`; returns how many series. ValueError and OSError say why not."""
    with open(path, "rb") as file:
        if path.stat().st_size == 0:
            return detector.restore(b"")
        return detector.restore(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


class Checkpoints:
    """Every so often the detector's memory goes to `path`, and once more at the end.

    Of what is written only one step is in memory. written: told when a checkpoint is durable.
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
        self._file: _File | None = None
        self._writing: asyncio.Task[None] | None = None

    def tick(self, every: float) -> None:
        """Go on with the one that is being taken, or begin one when it is due. Never blocks for long."""
        if self._writing is not None:
            if not self._writing.done():
                return
            self._writing = None
        if self._file is None:
            if time.monotonic() - self._began < every:
                return
            self._begin()
        self._writing = asyncio.ensure_future(self._write(self._step()))

    async def finish(self) -> None:
        """Nothing is learnt any more: the last one, whole."""
        if self._writing is not None:
            await self._writing
        if self._file is not None:
            await asyncio.to_thread(self._file.abandon)
        self._begin()
        while self._file is not None:
            await self._write(self._step())

    def _begin(self) -> None:
        self._began = time.monotonic()
        self._file = _File(self._files, self._path)
        self._snapshot = self._detector.snapshot()

    def _step(self) -> Piece:
        return self._snapshot.step(STEP)

    async def _write(self, piece: Piece) -> None:
        file = self._file
        assert file is not None
        extra = self._detector.second_stage_memory() if self._snapshot.done else None
        try:
            await asyncio.get_running_loop().run_in_executor(None, file.write, piece, extra)
        except OSError as error:
            # Only what was learnt since the last one would be missed: no reason to stop.
            log.error("no checkpoint was written", file=str(self._path), why=str(error))
            self._file = None
        else:
            if extra is not None:
                self._file = None
                self._written()


class _File:
    """A checkpoint that is being written; all of it blocks."""

    def __init__(self, files: Files, path: Path) -> None:
        self._files = files
        self._path = path
        self._crc = 0
        self._new: Replacement | None = None

    def write(self, piece: Piece, extra: dict[str, Any] | None) -> None:
        """Append a piece; with `extra` it is the last. OSError: nothing is left of it."""
        try:
            if self._new is None:
                self._new = Replacement(self._files, self._path)
                self._add(checkpoint.head())
            self._add(piece.parts())
            if extra is not None:
                self._add(checkpoint.tail(extra))
                self._new.write([checkpoint.checksum(self._crc)])
        except OSError:
            self.abandon()
            raise
        if extra is not None:
            self._new.finish()

    def abandon(self) -> None:
        """The checkpoint of before stays."""
        if self._new is not None:
            self._new.abandon()

    def _add(self, parts: list[Body]) -> None:
        assert self._new is not None
        self._crc = checkpoint.add(parts, self._crc)
        self._new.write(parts)
