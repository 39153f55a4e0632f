"""Interfaces that rooms of different layers meet at."""

from typing import Protocol

from greenlang_iot.model.batches import FrameBatch, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Outcome
from greenlang_iot.model.pieces import Body, Pieces


class OpenChunk(Protocol):
    """A pure encoder that accumulates one open chunk for its sink."""

    @property
    def rows(self) -> int:
        """Readings appended since the last seal."""

    @property
    def size(self) -> int:
        """Bytes of the open chunk so far (an estimate is fine)."""

    def append(self, batch: ReadingBatch, scores: ScoreBatch) -> int:
        """Encode the batch's readings (DUPLICATE rows are skipped); return how many."""

    def seal(self) -> Body | Pieces:
        """The finished body, self-contained; the open chunk is empty again."""

    def grow(self, directory: Directory) -> None:
        """Go on with a newer Directory in which known series keep their index."""


class Sender(Protocol):
    """Sends one chunk. No queue and no retry: the runner owns those."""

    async def open(self) -> None:
        """Connect; SinkError where that fails."""

    async def send(self, body: Body | Pieces, rows: int) -> Outcome:
        """Deliver one chunk; returns when it is durable in the sink. Raises SinkError."""

    async def close(self) -> None:
        """Release connections; idempotent."""


class ConnectionHandler(Protocol):
    """What a connection tells the shard. All calls are synchronous."""

    def on_frames(self, frames: FrameBatch) -> None:
        """Messages arrived; their buffer is reused when this returns."""

    def on_connected(self, connection: int, session_present: bool) -> None:
        """Subscribed (SUBACK seen) under this connection number."""

    def on_disconnected(self, connection: int, reason: str) -> None:
        """The connection with this number is gone."""
