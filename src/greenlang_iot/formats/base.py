"""What a payload format is: bytes in, readings out. The plug-in point.

A format of your own is a package with an entry point in the group `greenlang_iot.payload_formats`: its
name is what `mqtt.formats[].format` says, its object is called with `mqtt.formats[].options` as keyword
arguments and gives a `PayloadFormat`; ValueError says what is wrong with the options. There is one object
per entry and shard, so a format may keep state. It does no I/O and reads no clock. `docs/payload-format`
is an example.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from greenlang_iot.model.batches import Publication
from greenlang_iot.model.reasons import Reason

GROUP = "greenlang_iot.payload_formats"
PATH_NAME = 128
"""Characters of a metric's name that a path keeps; the payload is kept anyway."""


class Reading(NamedTuple):
    """One reading as the payload says it; nothing of it is checked yet.

    path: where its value stands in the payload, for a reject. value: an int or a float; a Reason refuses
    the reading with it; anything else is `not_a_number`. ts: ns since 1970, None where there is none, or
    the Reason that refuses it. unit: None means the registry's. seq: −1 means none.
    """

    path: str
    metric: str
    value: Any
    ts: int | Reason | None
    unit: str | None = None
    seq: int = -1


@dataclass(slots=True, frozen=True)
class Payload:
    """One message for a format.

    data: the bytes, inflated. metric: the topic's {metric} level, "" without one. receive_ns: what stands
    for a missing time stamp (ns since 1970); None where such readings are rejected.
    """

    data: bytes
    topic: str
    metric: str = ""
    receive_ns: int | None = None


class PayloadFormat(Protocol):
    """Reads the payloads of one entry of `mqtt.formats`."""

    def read(self, payload: Payload) -> Sequence[Reading]:
        """The readings, in the order of the payload. ValueError: it is not of this format.

        Any other exception counts as that, too: a mistake of a format costs a message, not the shard.
        """
        ...


@runtime_checkable
class SessionFormat(PayloadFormat, Protocol):
    """A format whose messages depend on earlier ones: it reads those of unknown devices, too."""

    def take_gaps(self) -> int:
        """Messages missing by their sequence numbers, since the last call."""
        ...

    def publications(self, now_ns: int) -> list[Publication]:
        """What is to be published because of what was read since the last call."""
        ...
