"""Who may ask the admin endpoint for what.

| asked from | /healthz, /readyz | the console's files | other reading | anything that changes |
|---|---|---|---|---|
| this machine | free | free | free | admin token |
| elsewhere, with TLS | free, without reasons | free: they hold no data | admin or read token | admin token |
| elsewhere, without TLS | free, without reasons | refused | refused | refused |

"This machine" is a connection over loopback whose `Host` is an address or `localhost` and that no
proxy passed on: a web page whose name was pointed at 127.0.0.1 (DNS rebinding) is elsewhere, and so is
what a browser asks for another site's page, but for a link that a person follows.
"""

import hmac
import ipaddress
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from greenlang_iot.settings.model import AdminSettings

ADMIN_TOKEN = "admin-token"  # noqa: S105 (a file's name)
READ_TOKEN = "read-token"  # noqa: S105 (a file's name)
_PROBES = ("/healthz", "/readyz")
_CONSOLE = "/console/"
_READING = ("GET", "HEAD")
_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (read, not bound)
_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")


def local_url(admin: AdminSettings, port: int) -> str:
    """Where this machine reaches the endpoint: `http://127.0.0.1:8090`. port: the one it listens on."""
    host = _ANYWHERE.get(admin.host, admin.host)
    scheme = "http" if admin.tls is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


@dataclass(slots=True, frozen=True)
class Tokens:
    """admin: may do everything. read: may read, for whoever scrapes from elsewhere."""

    admin: str
    read: str

    @staticmethod
    def of(data_dir: Path) -> "Tokens":
        """Those in `data_dir`, mode 0600; made where they are missing. Raises OSError."""
        return Tokens(_token(data_dir / ADMIN_TOKEN), _token(data_dir / READ_TOKEN))


@dataclass(slots=True, frozen=True)
class Asked:
    """What is known of a request. peer: address of the other end; secure: it came over TLS."""

    method: str
    path: str
    peer: str
    secure: bool
    headers: Mapping[str, str]


@dataclass(slots=True, frozen=True)
class Refusal:
    """status: 401 or 403; reason: the label of the metric; sentence: for the body."""

    status: int
    reason: str
    sentence: str


def is_direct(asked: Asked) -> bool:
    """Whether it was asked from this machine, by nobody else's hand."""
    return (
        is_loopback(asked.peer)
        and _is_address(asked.headers.get("Host", ""))
        and not any(name in asked.headers for name in _PASSED_ON)
        and (
            asked.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
            or asked.headers.get("Sec-Fetch-Dest") == "document"
        )
    )


def has_token(asked: Asked, tokens: Tokens) -> bool:
    """Whether it shows one of the tokens."""
    return any(_given(asked, tokens))


def refusal(asked: Asked, tokens: Tokens) -> Refusal | None:
    """Why this is not done, or None."""
    reading = asked.method in _READING
    if reading and (asked.path in _PROBES or is_direct(asked)):
        return None
    if not (asked.secure or is_loopback(asked.peer)):
        return Refusal(
            403,
            "insecure",
            "from another machine only /healthz and /readyz are answered without TLS: set admin.tls",
        )
    if reading and (asked.path == "/" or asked.path.startswith(_CONSOLE)):
        return None  # a browser that opens a page cannot send a token; the page then asks for it
    admin, read = _given(asked, tokens)
    if admin or (read and reading):
        return None
    if read:
        return Refusal(
            403, "read_only", f"{asked.method} needs the admin token, not the read token"
        )
    which = "a token: that of data_dir/admin-token"
    return Refusal(
        401,
        "unauthorized",
        f"{asked.method} {asked.path} needs {which} or data_dir/read-token"
        if reading
        else f"{asked.method} {asked.path} needs {which}",
    )


def _given(asked: Asked, tokens: Tokens) -> tuple[bool, bool]:
    """Whether it shows the admin token, the read token: both are always compared, each in constant time."""
    given = asked.headers.get("Authorization", "").encode(errors="replace")
    admin = hmac.compare_digest(given, b"Bearer " + tokens.admin.encode())
    return admin, hmac.compare_digest(given, b"Bearer " + tokens.read.encode())


def is_loopback(address: str) -> bool:
    """Whether it is an IP address of this machine's loopback; also IPv4 mapped into IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def _is_address(host: str) -> bool:
    """Whether a Host header names an address or localhost: no DNS can point these elsewhere."""
    if host.startswith("["):
        name = host[1:].partition("]")[0]
    else:
        name = host.rpartition(":")[0] if host.count(":") == 1 else host
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _token(path: Path) -> str:
    """The token in `path`, readable by its owner only; made when it is missing."""
    try:
        token = path.read_text().strip()
        if token:
            mode = path.stat()
            if mode.st_uid == os.getuid() and mode.st_mode & 0o077 and os.access(path, os.W_OK):
                path.chmod(0o600)  # not of a secret that somebody else mounted there
            return token
    except FileNotFoundError:
        pass
    token = secrets.token_urlsafe(32)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token + "\n")
    temporary.rename(path)
    return token
