"""The audit log: who had the gateway do something, one JSON object a line, in `data_dir/audit.jsonl`.

For whatever a person or a program asks of a running gateway or of what it keeps: reloads, replays of
dead letters, silences. Anything that changes state goes through `Audit.record`, whichever process
does it: a line is one append, and the file changes hands under a lock.
"""

import fcntl
import os
import pwd
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

FILE = "audit.jsonl"
FORMER = "audit.1.jsonl"


class Audit:
    """Appends to the log of one `data_dir`; at half of `max_bytes` the file takes the former's place.

    Files have mode 0600. A line is synced before `record` returns.
    """

    def __init__(self, data_dir: Path, max_bytes: int) -> None:
        self._path = data_dir / FILE
        self._former = data_dir / FORMER
        self._lock = data_dir / ".audit.lock"
        self._half = max_bytes // 2

    def record(self, action: str, actor: str, outcome: str, **details: Any) -> None:
        """One line: what was asked, by whom, how it went. Raises OSError.

        details: what a reader needs to understand it; plain JSON types, no secrets, no payloads.
        """
        line = orjson.dumps(
            {
                "ts": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "action": action,
                "actor": actor,
                "outcome": outcome,
                **details,
            },
            default=str,
            option=orjson.OPT_APPEND_NEWLINE,
        )
        lock = _open(self._lock, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._append(line)
        finally:
            os.close(lock)

    def _append(self, line: bytes) -> None:
        file = _open(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            size = os.fstat(file).st_size
            if size and size + len(line) > self._half:
                os.replace(self._path, self._former)
                os.close(file)
                file = _open(self._path, os.O_WRONLY | os.O_APPEND)
            os.write(file, line)
            os.fdatasync(file)
        finally:
            os.close(file)


def local_user() -> str:
    """Who runs this process, for an action of the command line."""
    uid = os.getuid()
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
