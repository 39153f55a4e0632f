"""Dead letters as JSON: docs/schemas/dead-letter-v1.json. Pure."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from greenlang_iot.model.batches import Reject
from greenlang_iot.model.outcomes import DeadLetter, Refused

VERSION = 1
IDENT_LENGTH = 12
_PATH = re.compile(
    r"(?:\[(?P<index>\d+)\])?\.?(?:(?P<key>value|values)(?:\.(?P<metric>.*))?)?", re.S
)


def from_rejects(rejects: Sequence[Reject], received_ns: int) -> Iterator[DeadLetter]:
    """One dead letter per message: its original bytes and what was wrong where."""
    for reject in rejects:
        yield DeadLetter(
            kind="message",
            ts_ns=received_ns,
            device=reject.device,
            topic=reject.topic.decode("utf-8", "backslashreplace"),
            payload=bytes(reject.payload),
            paths=tuple(reject.paths),
            readings=reject.readings,
        )


def from_refused(sink: str, refused: Sequence[Refused], now_ns: int) -> Iterator[DeadLetter]:
    """One dead letter per line or record that `sink` refused for good."""
    for one in refused:
        yield DeadLetter(
            kind="line",
            ts_ns=now_ns,
            payload=bytes(one.body),
            readings=one.readings,
            sink=sink,
            answer=one.answer,
        )


def encode(letter: DeadLetter) -> bytes:
    """One JSON object on one line, without the line's end.

    The payload is base64, and again as `payload_text` where it is UTF-8, for a person to read.
    """
    document: dict[str, Any] = {"v": VERSION, "kind": letter.kind, "ts": letter.ts_ns}
    if letter.kind == "digest":
        document |= {"count": letter.count, "digest": letter.digest, "reason": letter.answer}
    else:
        document["readings"] = letter.readings
        document["payload"] = base64.b64encode(letter.payload).decode()
        try:
            document["payload_text"] = letter.payload.decode()
        except UnicodeDecodeError:
            pass  # not text: base64 alone
    if letter.kind == "message":
        document |= {
            "device": letter.device,
            "topic": letter.topic,
            "paths": [{"path": path, "reason": str(reason)} for path, reason in letter.paths],
        }
    elif letter.kind == "line":
        document |= {"sink": letter.sink, "answer": letter.answer}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def decode(line: bytes) -> DeadLetter:
    """What `encode` made. Raises ValueError for anything else."""
    try:
        document = json.loads(line)
        if document["v"] != VERSION:
            raise ValueError(f"dead letter version {document['v']} is not supported")
        return DeadLetter(
            kind=document["kind"],
            ts_ns=document["ts"],
            device=document.get("device", ""),
            topic=document.get("topic", ""),
            payload=base64.b64decode(document.get("payload", ""), validate=True),
            paths=tuple((item["path"], item["reason"]) for item in document.get("paths", [])),
            readings=document.get("readings", 0),
            sink=document.get("sink", ""),
            answer=document.get("answer", document.get("reason", "")),
            count=document.get("count", 0),
            digest=document.get("digest", ""),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a dead letter: {error!r}") from None


def ident(letter: DeadLetter) -> str:
    """The letter's name: the same for the same letter, wherever it is kept."""
    return hashlib.sha256(encode(letter)).hexdigest()[:IDENT_LENGTH]


def resubmission(letter: DeadLetter) -> bytes:
    """The payload that holds only what was rejected: the whole one where the message as a whole was, and where
    it has not the shape of our JSON.

    The readings of the same message that were accepted are left out, for they are delivered.
    """
    paths = [path for path, _ in letter.paths]
    if not paths or "" in paths:
        return letter.payload
    try:
        document = json.loads(letter.payload)
    except (ValueError, RecursionError):  # orjson, which decoded it, takes deeper ones
        return letter.payload
    several = isinstance(document, list)
    items = document if several else [document]
    wanted: dict[int, set[str] | None] = {}  # item → its rejected metrics; None: all of it
    for path in paths:
        match = _PATH.fullmatch(path)
        if match is None:
            return letter.payload
        index = int(match["index"] or 0)
        if match["key"] == "values" and match["metric"] is not None:
            metrics = wanted.setdefault(index, set())
            if metrics is not None:
                metrics.add(match["metric"])
        else:
            wanted[index] = None
    try:
        kept = [_only(items[i], metrics) for i, metrics in sorted(wanted.items())]
    except LookupError:  # what was rejected stands elsewhere
        return letter.payload
    body = kept if several else kept[0]
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def _only(item: Any, metrics: set[str] | None) -> Any:
    """The item with these metrics alone (a path keeps the first 128 characters of a name).

    LookupError: one of them is not there.
    """
    if metrics is None or not isinstance(item, dict) or not isinstance(item.get("values"), dict):
        return item
    values = {name: value for name, value in item["values"].items() if name[:128] in metrics}
    if {name[:128] for name in values} != metrics:
        raise LookupError
    return item | {"values": values}
