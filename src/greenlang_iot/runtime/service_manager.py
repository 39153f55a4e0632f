"""What the parent tells systemd (`Type=notify`, sd_notify(3)): started, how it is, alive, stopping.

Datagrams to the socket named in NOTIFY_SOCKET; nothing where there is none. "Started" is not "ready": with
the broker or a sink away the gateway has started and works (it spools, or waits), and a restart would mend
nothing. What is missing stands in the status line of `systemctl status`.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

import structlog

log = structlog.get_logger(__name__)

STATUS_EVERY: Final = 1.0
"""Seconds between two looks at the state."""


class ServiceManager:
    """environ: NOTIFY_SOCKET, and WATCHDOG_USEC (microseconds) where systemd waits for signs of life."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = environ or {}
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watched = _watchdog_seconds(environ)
        self._status = ""
        self._failed = False

    @property
    def present(self) -> bool:
        return bool(self._address)

    @property
    def every(self) -> float:
        """Seconds after which `beat` is due: systemd advises half of its limit."""
        return min(STATUS_EVERY, self._watched / 2) if self._watched else STATUS_EVERY

    def started(self) -> None:
        """Shards are running."""
        self._send("READY=1")

    def beat(self, status: str) -> None:
        """A sign of life, where one is waited for, and the status line where it changed."""
        lines = ["WATCHDOG=1"] if self._watched else []
        if status != self._status:
            self._status = status
            lines.append(f"STATUS={' '.join(status.split())}")
        if lines:
            self._send("\n".join(lines))

    def stopping(self) -> None:
        """The drain has begun."""
        self._send("STOPPING=1\nSTATUS=draining")

    def _send(self, message: str) -> None:
        if not self.present:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(self._address)
                sender.sendall(message.encode())
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("the service manager does not listen", why=str(error))
            self._failed = True


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """0.0 where no signs of life are waited for, or another process's are (WATCHDOG_PID)."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    microseconds = environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 1e6 if microseconds.isdecimal() else 0.0
