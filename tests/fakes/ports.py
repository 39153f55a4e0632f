"""Ports for servers that are started later, or again."""

import random
import socket
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_given: set[int] = set()


def free_port() -> int:
    """A loopback port that nobody listens on, never the same one twice.

    Not one that the system gives to a socket by itself: whoever asked for any port, a server of another
    test or a client, might have got it before its server begins, or while that is away.
    """
    first_of_the_system = int(_RANGE.read_text().split()[0])
    candidates = range(_LOWEST, first_of_the_system)
    for port in random.sample(candidates, len(candidates)):
        if port not in _given and _free(port):
            _given.add(port)
            return port
    raise RuntimeError(f"no port between {_LOWEST} and {first_of_the_system} is free")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
