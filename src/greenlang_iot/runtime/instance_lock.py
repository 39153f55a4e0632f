"""One gateway per `data_dir`: the lock that keeps a second one out, and whether somebody holds it."""

import contextlib
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Final

import structlog

from greenlang_iot.model.errors import GatewayError

log = structlog.get_logger(__name__)
_FILE: Final = Path("run", "gateway.pid")
"""Below `data_dir`; holds the number of the process that has the lock."""


class InstanceLock:
    """Two gateways on one data_dir would tear each other's spool apart: the second is refused (GatewayError).

    Whoever else may write there is shut out, or told of.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def __enter__(self) -> None:
        path = self._data_dir / _FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _shut(self._data_dir)
            self._file = open(path, "a+")
        except OSError as error:
            raise GatewayError(
                f"The data_dir {self._data_dir} cannot be written ({error.strerror}): make it, give "
                "it to the gateway's user, or choose another."
            ) from error
        try:
            self._lock()
        except OSError as error:
            self._file.seek(0)
            pid = self._file.read().strip() or "unknown"
            raise GatewayError(
                f"Another gateway (process {pid}) uses the data_dir {self._data_dir}: "
                "stop it, or give this one its own data_dir."
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def _lock(self) -> None:
        """Tried again for a moment: a command may just look whether a gateway runs. OSError."""
        for _ in range(10):
            with contextlib.suppress(BlockingIOError):
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            time.sleep(0.01)
        return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def is_locked(data_dir: Path) -> bool:
    """Whether a gateway runs on this `data_dir`."""
    try:
        with (data_dir / _FILE).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def _shut(data_dir: Path) -> None:
    """Whoever can write there can put a token of their own there. OSError."""
    found = data_dir.stat()
    if found.st_uid not in (0, os.geteuid()):
        said = "the data_dir belongs to another user, who can take the gateway over"
        log.warning(said, data_dir=str(data_dir), owner=found.st_uid)
    elif found.st_mode & stat.S_IWOTH and found.st_uid == os.geteuid():
        data_dir.chmod(stat.S_IMODE(found.st_mode) & ~stat.S_IWOTH)
        said = "every user of this machine could write to the data_dir: not any more"
        log.warning(said, data_dir=str(data_dir))
    elif found.st_mode & stat.S_IWOTH:
        said = "every user of this machine can write to the data_dir, and take the gateway over: chmod o-w"
        log.warning(said, data_dir=str(data_dir))
