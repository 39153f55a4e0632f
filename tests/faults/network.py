"""A network between gateway and broker that drops packets: namespaces and a veth pair, made by the test.

`isolate()` puts the whole run into a namespace of its own. The proxy listens in a second one (`Network`);
what lies between them can be cut and made thin. Linux and root only: `missing()` says what is not there.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

NEAR, FAR = "10.213.0.1", "10.213.0.2"
_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def isolate() -> bool:
    """A network namespace of its own for this thread, those it starts and their processes, with
    loopback up; False where this process may not make one."""
    if missing() or _LIBC.unshare(_NEWNET):
        return False
    _ip("link", "set", "lo", "up")
    return True


def missing() -> str:
    """Why there can be no network namespaces here, or nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    return "" if shutil.which("ip") and shutil.which("tc") else "iproute2 is not installed"


@cache
def netem_missing() -> str:
    """Why packets cannot be delayed and lost at random here, or nothing."""
    if why := missing():
        return why
    tried = subprocess.run(
        ["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0ms"], capture_output=True
    )
    subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], capture_output=True)
    return "the kernel has no netem (CONFIG_NET_SCH_NETEM)" if tried.returncode else ""


class Network:
    """A namespace with the broker's side of the network, at FAR; the gateway is at NEAR."""

    def __init__(self) -> None:
        self._name = f"faults-{os.getpid()}"
        _ip("netns", "add", self._name)
        _ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", self._name)
        _ip("address", "add", f"{NEAR}/30", "dev", "near")
        _ip("link", "set", "near", "up")
        self._far("address", "add", f"{FAR}/30", "dev", "far")
        self._far("link", "set", "far", "up")

    def close(self) -> None:
        with suppress(OSError):
            _ip("link", "delete", "near")
        _ip("netns", "delete", self._name)

    def listen(self, port: int) -> socket.socket:
        """A listening socket at FAR. A socket stays in the namespace of the thread that made it."""
        made: list[socket.socket] = []

        def make() -> None:
            with Path(f"/run/netns/{self._name}").open("rb") as namespace:
                if _LIBC.setns(namespace.fileno(), _NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.create_server((FAR, port), backlog=256))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def cut(self) -> None:
        """Packets vanish in both directions; nobody is told."""
        self._far("link", "set", "far", "down")

    def join(self) -> None:
        self._far("link", "set", "far", "up")

    def shape(self, *discipline: str) -> None:
        """Queueing discipline of what goes to the gateway; none: as it was."""
        if discipline:
            _run("tc", "-n", self._name, "qdisc", "replace", "dev", "far", "root", *discipline)
        else:
            _run("tc", "-n", self._name, "qdisc", "delete", "dev", "far", "root")

    def dropped(self) -> int:
        """Packets that the discipline has dropped."""
        text = _run("tc", "-n", self._name, "-s", "qdisc", "show", "dev", "far")
        return int(text.partition("(dropped ")[2].partition(",")[0])

    def _far(self, *command: str) -> None:
        _ip("-n", self._name, *command)


def _ip(*command: str) -> None:
    _run("ip", *command)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
