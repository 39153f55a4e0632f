"""A network between gateway and broker that drops packets: namespaces and a veth pair, made by the test.

`isolate()` puts the whole run into a namespace of its own. The proxy listens in a second one (`Network`);
what lies between them can be cut, made thin and made lossy. A kernel without netem has this process
between the two ends instead (`Relayed`). Linux and root only: `missing()` says what is not there.
"""

import ctypes
import fcntl
import heapq
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
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


TUN = Path("/dev/net/tun")


def lossy_missing() -> str:
    """Why packets cannot be delayed and lost at random here, or nothing."""
    if why := missing():
        return why
    if not _netem_missing() or TUN.exists():
        return ""
    return f"{_netem_missing()}, and there is no {TUN}"


def lossy_network() -> "Network":
    """With netem where the kernel has it."""
    return Relayed() if _netem_missing() else Network()


@cache
def _netem_missing() -> str:
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

    def lossy(self, delay: float, jitter: float, loss: float) -> None:
        """Seconds that packets to the gateway take, ± at random, and the share that is lost."""
        milliseconds = f"{delay * 1e3:.0f}ms", f"{jitter * 1e3:.0f}ms"
        self.shape("netem", "delay", *milliseconds, "loss", f"{loss:.0%}")

    def dropped(self) -> int:
        """Packets that the discipline has dropped."""
        text = _run("tc", "-n", self._name, "-s", "qdisc", "show", "dev", "far")
        return int(text.partition("(dropped ")[2].partition(",")[0])

    def _far(self, *command: str) -> None:
        _ip("-n", self._name, *command)


class Relayed(Network):
    """The same with tun devices for ends, and a thread of this process that carries the packets:
    some it loses, the others it keeps for a while. It can be lossy, in both directions, and cut."""

    def __init__(self) -> None:
        self._name = f"faults-{os.getpid()}"
        _ip("netns", "add", self._name)
        near, far = _tun("near"), _tun("far")
        _ip("link", "set", "far", "netns", self._name)
        _ip("address", "add", NEAR, "peer", FAR, "dev", "near")
        _ip("link", "set", "near", "up")
        self._far("address", "add", FAR, "peer", NEAR, "dev", "far")
        self._far("link", "set", "far", "up")
        self._other = {near: far, far: near}
        self._line = 0.0, 0.0, 0.0
        self._dropped = 0
        self._chance = random.Random(7)
        self._wakes, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def close(self) -> None:
        os.close(self._wake)
        self._thread.join(5)
        for end in (*self._other, self._wakes):
            os.close(end)  # a tun device goes with its file
        _ip("netns", "delete", self._name)

    def shape(self, *discipline: str) -> None:
        assert not discipline, "a relayed line has no queueing discipline"
        self._line = 0.0, 0.0, 0.0

    def lossy(self, delay: float, jitter: float, loss: float) -> None:
        self._line = delay, jitter, loss

    def dropped(self) -> int:
        return self._dropped

    def _carry(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []  # due, order, where to, packet
        order = 0
        while True:
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, end, packet = heapq.heappop(waiting)
                with suppress(OSError):  # that end is down: it vanishes
                    os.write(end, packet)
            patience = waiting[0][0] - now if waiting else None
            readable, _, _ = select.select([*self._other, self._wakes], [], [], patience)
            if self._wakes in readable:
                return
            for end in readable:
                packet = os.read(end, 65_536)
                delay, jitter, loss = self._line
                if self._chance.random() < loss:
                    self._dropped += 1
                    continue
                due = time.monotonic() + delay + self._chance.uniform(-jitter, jitter)
                order += 1
                heapq.heappush(waiting, (due, order, self._other[end], packet))


def _tun(name: str) -> int:
    """A tun device (IP packets, nothing before them); it lives as long as this file is open."""
    device = os.open(TUN, os.O_RDWR)
    set_name, tun_without_header = 0x400454CA, 0x1001
    fcntl.ioctl(device, set_name, struct.pack("16sH22x", name.encode(), tun_without_header))
    return device


def _ip(*command: str) -> None:
    _run("ip", *command)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
