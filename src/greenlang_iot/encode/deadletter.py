"""Dead letters as JSON: docs/schemas/dead-letter-v1.json. Pure."""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any

from greenlang_iot.model.batches import Reject
from greenlang_iot.model.outcomes import DeadLetter, Refused

VERSION = 1


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
