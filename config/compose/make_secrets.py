"""Make the files in secrets/ that compose.yaml mounts; what is there already is left alone.

    make compose-secrets

Certificates of a throw-away CA (90 days; run it again to renew), random passwords and tokens. The folder is
closed to other users of the machine (0700); the files in it are readable, because every container reads them
as a user of its own and Compose mounts them as they are.
"""

import argparse
import base64
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from greenlang_iot.simulate.ca import Authority

USERS = ("gateway", "operator", "simulator")
"""Logins of config/mosquitto/acl that are no device; a device's login is its id."""
SERVERS = ("mosquitto", "gateway")
"""Services with a certificate, which holds for that name."""
RANDOM = ("influxdb-password", "influxdb-token", "admin-token", "read-token", "grafana-password")
_ITERATIONS = 101


def mosquitto_entry(user: str, password: str) -> str:
    """A line of Mosquitto's password_file: PBKDF2-HMAC-SHA512, as mosquitto_passwd of 2.0 writes it."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ITERATIONS)
    return f"{user}:$7${_ITERATIONS}${_base64(salt)}${_base64(digest)}\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def make(folder: Path, devices: Sequence[str] = ()) -> None:
    """Everything that compose.yaml names below `secrets:`, with logins for these devices."""
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    authority = Authority(folder / "ca")
    _write(folder / "ca.crt", authority.ca_file.read_text())
    for name in SERVERS:
        server = authority.server((name, "localhost", "127.0.0.1"), name)
        _write(folder / f"{name}.crt", server.cert_file.read_text())
        _write(folder / f"{name}.key", server.key_file.read_text())
    for name in RANDOM:
        _once(folder / name, _random)
    logins = folder / "mosquitto-passwd"
    entries = logins.read_text() if logins.exists() else ""
    known = {line.split(":")[0] for line in entries.splitlines()}
    for user in (*USERS, *devices):
        password = _once(folder / f"mqtt-password-{user}", _random)
        if user not in known:
            entries += mosquitto_entry(user, password)
    _write(logins, entries)
    _once(folder / "mqtt-password", (folder / "mqtt-password-gateway").read_text)


def _random() -> str:
    return secrets.token_urlsafe(32)


def _once(path: Path, text: Callable[[], str]) -> str:
    """What stands in the file; written first if it is missing."""
    if not path.exists():
        _write(path, text())
    return path.read_text()


def _write(path: Path, text: str) -> None:
    """In place: a container that has the file mounted sees the change."""
    if path.exists():
        path.chmod(0o644)
    path.write_text(text)
    path.chmod(0o444)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("secrets"))
    parser.add_argument("--device", action="append", default=[], help="make a login for it")
    given = parser.parse_args()
    make(given.folder, given.device)
