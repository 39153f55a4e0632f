"""What was published: the one truth that a reconciliation compares with what a reader finds.

A manifest is kept by the publisher: an entry is written when the broker's PUBACK has come. As a file
it is JSON lines: a header, one line per message, one line per expected alert, a last line.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import orjson

from greenlang_iot.model.errors import InputError

Rejects = tuple[tuple[str, str], ...]
"""(path in the document, reason), as in a dead letter."""


class Reading(NamedTuple):
    """A reading that must arrive: identity (device, metric, ts_ns, seq if it has one) and value."""

    device: str
    metric: str
    ts_ns: int
    value: float
    seq: int | None = None


class Expected(NamedTuple):
    """An injected anomaly: an alert of `kind` must open within the window of event time.

    kind: "spike", "drift", "stuck", "silence" or "range". metric: "" = any of the device.
    """

    device: str
    metric: str
    kind: str
    from_ns: int
    to_ns: int

    def __str__(self) -> str:
        begin = datetime.fromtimestamp(self.from_ns / 1e9, UTC).isoformat(timespec="milliseconds")
        return f"{self.kind} of {self.device} {self.metric}".rstrip() + f" from {begin}"


@dataclass(slots=True)
class Message:
    """One message to publish, and what must become of it.

    when: seconds after the start. kind: "" for an ordinary message, else what is special about it
    ("duplicate", "late", "collision", or the name of the fault in it).
    A duplicate has the readings and rejects of the message it repeats.
    """

    when: float
    topic: str
    payload: bytes
    readings: list[Reading]
    rejects: Rejects = ()
    kind: str = ""


@dataclass(slots=True)
class Published:
    """A message that left the publisher. Without `confirmed` nothing is promised for it.

    confirmed: the broker acknowledged it (QoS 1) and had a subscriber for it.
    payload: only kept where something of the message must be rejected.
    """

    topic: str
    payload: bytes
    readings: list[Reading]
    rejects: Rejects
    kind: str
    confirmed: bool


@dataclass(slots=True)
class Header:
    """seed, devices: how the fleet was made. unjudged: devices whose alerts nobody can foresee.

    start_ns, end_ns: event time of the first live and of the last reading.
    """

    seed: int
    devices: int
    start_ns: int
    end_ns: int
    unjudged: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Manifest:
    """Everything of one run, in memory."""

    header: Header
    expected: list[Expected] = field(default_factory=list)
    messages: list[Published] = field(default_factory=list)

    def add(self, message: Message, confirmed: bool) -> None:
        """Note a message that left; `confirmed` as in Published."""
        self.messages.append(published(message, confirmed))

    @property
    def confirmed(self) -> int:
        return sum(m.confirmed for m in self.messages)


def published(message: Message, confirmed: bool) -> Published:
    """The entry of a message that left."""
    payload = message.payload if message.rejects else b""
    return Published(
        message.topic, payload, message.readings, message.rejects, message.kind, confirmed
    )


class ManifestWriter:
    """Writes a manifest line by line, so that a long run needs no memory. A context manager."""

    def __init__(self, path: Path, header: Header, expected: Iterable[Expected]) -> None:
        self._file = path.open("wb")
        self._messages = 0
        self._line({"manifest": 1, **{k: getattr(header, k) for k in Header.__slots__}})
        for alert in expected:
            self._line({"alert": list(alert)})

    def add(self, message: Message, confirmed: bool) -> None:
        """Write the entry of a message that left; `confirmed` as in Published."""
        entry = published(message, confirmed)
        line: dict[str, Any] = {"topic": entry.topic, "readings": [list(r) for r in entry.readings]}
        if entry.rejects:
            line["payload"] = base64.b64encode(entry.payload).decode()
            line["rejects"] = [list(r) for r in entry.rejects]
        if entry.kind:
            line["kind"] = entry.kind
        if not confirmed:
            line["confirmed"] = False
        self._messages += 1
        self._line(line)

    def close(self) -> None:
        """Write the last line, which says that the manifest is complete."""
        self._line({"end": self._messages})
        self._file.close()

    def __enter__(self) -> "ManifestWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()

    def _line(self, data: dict[str, Any]) -> None:
        self._file.write(orjson.dumps(data) + b"\n")


def read(path: Path) -> Manifest:
    """A manifest from its file. InputError where it is none, or its last line is missing."""
    manifest: Manifest | None = None
    complete = False
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = orjson.loads(raw)
                if manifest is None:
                    assert line.pop("manifest") == 1
                    manifest = Manifest(Header(**line))
                elif "alert" in line:
                    manifest.expected.append(Expected(*line["alert"]))
                elif "end" in line:
                    complete = line["end"] == len(manifest.messages)
                else:
                    manifest.messages.append(_entry(line))
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                raise InputError(f"{path}:{number}: this is no line of a manifest") from error
    if manifest is None or not complete:
        raise InputError(f"{path}: the manifest is not complete (its last line is missing)")
    return manifest


def _entry(line: dict[str, Any]) -> Published:
    return Published(
        line["topic"],
        base64.b64decode(line.get("payload", "")),
        [Reading(*r) for r in line["readings"]],
        tuple((path, reason) for path, reason in line.get("rejects", ())),
        line.get("kind", ""),
        line.get("confirmed", True),
    )
