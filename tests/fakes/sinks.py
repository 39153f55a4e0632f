"""A sink in memory: an encoder whose body lists the rows, a sender whose answers are scripted."""

import asyncio
from collections.abc import Callable

from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import SinkError
from greenlang_iot.model.flags import DUPLICATE
from greenlang_iot.model.outcomes import Outcome
from greenlang_iot.model.protocols import Body


class ListEncoder:
    """Body: the timestamps of the rows, comma separated."""

    def __init__(self) -> None:
        self._rows: list[str] = []

    @property
    def rows(self) -> int:
        return len(self._rows)

    @property
    def size(self) -> int:
        return sum(len(row) + 1 for row in self._rows)

    def append(self, batch: ReadingBatch, scores: ScoreBatch) -> int:
        kept = [str(batch.ts_ns[i]) for i in range(batch.n) if not batch.flags[i] & DUPLICATE]
        self._rows += kept
        return len(kept)

    def seal(self) -> bytes:
        body = ",".join(self._rows).encode()
        self._rows = []
        return body

    def grow(self, directory: Directory) -> None:
        pass


class ScriptedSender:
    """Delivers rows into `delivered` unless `answer` says otherwise.

    answer(rows) is called per attempt: None delivers, a SinkError is raised, an Outcome is returned.
    While `gate` is clear, attempts wait.
    """

    def __init__(self) -> None:
        self.delivered: list[str] = []
        self.attempts: list[list[str]] = []
        self.answer: Callable[[list[str]], SinkError | Outcome | None] = lambda rows: None
        self.open_error: SinkError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.attempted = asyncio.Event()
        self.closed = False

    async def open(self) -> None:
        if self.open_error is not None:
            raise self.open_error

    async def send(self, body: Body, rows: int) -> Outcome:
        items = bytes(body).decode().split(",")
        assert len(items) == rows
        self.attempts.append(items)
        self.attempted.set()
        await self.gate.wait()
        answer = self.answer(items)
        if isinstance(answer, SinkError):
            raise answer
        if isinstance(answer, Outcome):
            return answer
        self.delivered += items
        return Outcome(rows)

    async def close(self) -> None:
        self.closed = True
