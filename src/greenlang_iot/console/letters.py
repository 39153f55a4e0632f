"""The newest dead letters, as samples: the end of the newest file of each shard, never a whole folder."""

import base64
from codecs import getincrementaldecoder
from pathlib import Path
from typing import Any, Final

from greenlang_iot.encode.deadletter import decode, ident
from greenlang_iot.model.outcomes import DeadLetter

TAIL_BYTES: Final = 262_144
"""Read of each shard's newest file; what is older is for `greenlang-iot dead-letter list`."""
SHOWN_BYTES: Final = 2_000
"""Of a payload."""


def newest_letters(
    folder: Path, limit: int, *, reason: str = "", device: str = ""
) -> list[dict[str, Any]]:
    """At most `limit` letters, newest first. Raises OSError."""
    found = [
        letter
        for path in _newest_files(folder)
        for letter in _tail(path)
        if (not device or letter.device == device) and (not reason or reason in _reasons(letter))
    ]
    found.sort(key=lambda letter: letter.ts_ns, reverse=True)
    return [_as_json(letter) for letter in found[:limit]]


def _newest_files(folder: Path) -> list[Path]:
    """The newest file of each shard, and the one before it where the newest has just begun."""
    files = []
    for shard in sorted(folder.glob("shard-*")):
        files += sorted(shard.glob("dead-letters-*.jsonl"))[-2:]
    return files


def _tail(path: Path) -> list[DeadLetter]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    letters = []
    # the first may be cut, the last is torn or still being written
    for line in lines[1 if size > TAIL_BYTES else 0 : -1]:
        try:
            letters.append(decode(line))
        except ValueError:
            continue  # damaged: `greenlang-iot dead-letter list` says which and why
    return letters


def _reasons(letter: DeadLetter) -> list[str]:
    if letter.kind == "message":
        return list(dict.fromkeys(reason for _, reason in letter.paths))
    return ["sink_refused"] if letter.kind == "line" else [letter.answer]


def _as_json(letter: DeadLetter) -> dict[str, Any]:
    shown, cut = letter.payload[:SHOWN_BYTES], len(letter.payload) > SHOWN_BYTES
    try:  # where it is cut, a letter may be cut, too
        text, encoding = getincrementaldecoder("utf-8")().decode(shown, final=not cut), "text"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(shown).decode(), "base64"
    return {
        "id": ident(letter),
        "time": letter.ts_ns / 1e9,
        "kind": letter.kind,
        "device": letter.device,
        "topic": letter.topic,
        "sink": letter.sink,
        "answer": letter.answer,
        "reasons": _reasons(letter),
        "paths": [{"path": path, "reason": reason} for path, reason in letter.paths],
        "payload": text,
        "encoding": encoding,
        "bytes": len(letter.payload),
        "cut": cut,
    }
