"""What became of one body for Kafka: its parts, one a partition, answered, refused or on their way. Pure."""

import asyncio
from dataclasses import dataclass, field
from operator import attrgetter

from greenlang_iot.model.outcomes import Refused
from greenlang_iot.model.pieces import Body, Pieces
from greenlang_iot.sinks.kafka_batches import Part, batch_of, codec_of, records_of
from greenlang_iot.sinks.kafka_client import POISON, SEQUENCE

_PENDING, _ACKED = attrgetter("pending"), attrgetter("acked")


@dataclass(slots=True, eq=False)
class Delivery:
    """One body, until all of it is acknowledged or refused."""

    topic: str
    body: Body | Pieces
    parts: list[Part]
    refused: list[Refused] = field(default_factory=list)
    failed: bool = False  # some part has an error
    failure: BaseException | None = None  # neither poison nor a lost sequence
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    awaited: bool = False  # a send() waits for it

    @property
    def pending(self) -> bool:
        return any(map(_PENDING, self.parts))

    @property
    def done(self) -> bool:
        return all(map(_ACKED, self.parts))

    def judge(self) -> None:
        """Clear the errors of the parts: poison is halved or refused, a lost sequence is nothing, any
        other is the delivery's failure."""
        if not self.failed:
            return
        self.failed = False
        parts: list[Part] = []
        for part in self.parts:
            error, part.error = part.error, None
            if error is None or isinstance(error, SEQUENCE):
                parts.append(part)
            elif not isinstance(error, POISON):
                self.failure = error
                parts.append(part)
            elif part.records > 1:
                parts += _halves(part)
            else:
                (record,) = records_of(part.batch)
                self.refused.append(
                    Refused(record.value or b"", f"{error.message}: {error.description}")
                )
        self.parts = parts


def _halves(part: Part) -> list[Part]:
    records = list(records_of(part.batch))
    codec = codec_of(part.batch)
    middle = len(records) // 2
    return [
        Part(part.partition, len(half), batch_of(half, codec))
        for half in (records[:middle], records[middle:])
    ]
