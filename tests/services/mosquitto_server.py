"""A real Mosquitto for tests, on free loopback ports with its own configuration."""

import asyncio
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.fakes.ports import free_port

from greenlang_iot.simulate.ca import Identity, loopback

_START_TIMEOUT = 60.0
SHIPPED = Path(__file__).resolve().parents[2] / "config" / "mosquitto"
USERS = {"gateway": "gateway-secret", "operator": "operator-secret", "simulator": "sim-secret"}


def missing() -> str | None:
    """Why no Mosquitto can be started here, or None."""
    if _command() is None:
        return "Mosquitto is missing: apt-get install mosquitto"
    return None


class MosquittoServer:
    """One broker process with a plain listener, and with `identity` one for TLS.

    client_ca: the TLS listener lets in only clients with a certificate of this CA.
    """

    def __init__(
        self, folder: Path, identity: Identity | None = None, *, client_ca: Path | None = None
    ) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        lines = [
            "per_listener_settings false",
            "allow_anonymous true",
            "max_inflight_messages 0",
            "max_queued_messages 0",
            "persistence true",
            f"persistence_location {folder}/",
            # as root Mosquitto changes to this user, who could not read the folder
            "user root",
            f"listener {self.port} 127.0.0.1",
        ]
        if identity is not None:
            lines += [
                f"listener {self.tls_port} 127.0.0.1",
                f"certfile {identity.cert_file}",
                f"keyfile {identity.key_file}",
                "tls_version tlsv1.2",
            ]
            if client_ca is not None:
                lines += [f"cafile {client_ca}", "require_certificate true"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self.start()

    def start(self) -> None:
        """Start it (again); returns when it listens."""
        command = _command()
        assert command is not None
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [command, "-c", self._folder / "mosquitto.conf"], stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.02)
        self.stop()
        log_text = (self._folder / "mosquitto.log").read_text()
        raise RuntimeError(f"Mosquitto did not start: {log_text[-2_000:]}")

    async def until_gone(self, client_id: str) -> None:
        """Until it has read the DISCONNECT of a client that connected once: all that came before is taken, too.

        A connection of the same client that comes earlier makes it forget what it has not read.
        """
        said = f" Client {client_id} disconnected.\n"
        async with asyncio.timeout(_START_TIMEOUT):
            while said not in (self._folder / "mosquitto.log").read_text():
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        """Stop it; what its sessions hold is on disk."""
        self._process.terminate()
        self._process.wait(10)


class Mosquitto:
    """The shipped configuration, with TLS, logins and ACLs. ca_file: for clients. port: TLS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file, identity = loopback(folder / "tls")
        self.port = free_port()
        text = (SHIPPED / "mosquitto.conf").read_text()
        for key, value in {
            "persistence_location": f"{folder}/",
            "password_file": folder / "passwd",
            "acl_file": folder / "acl",
            "listener": f"{self.port} 127.0.0.1",
            "cafile": self.ca_file,
            "certfile": identity.cert_file,
            "keyfile": identity.key_file,
        }.items():
            text, count = re.subn(rf"(?m)^{key} .*$", f"{key} {value}", text)
            assert count == 1, f"the shipped configuration has no {key}"
        self._config = folder / "mosquitto.conf"
        self._config.write_text("user root\n" + text)
        shutil.copy(SHIPPED / "acl", folder / "acl")
        for name, password in USERS.items():
            made = ["-c"] if not (folder / "passwd").exists() else []
            command = ["mosquitto_passwd", "-b", *made, str(folder / "passwd"), name, password]
            subprocess.run(command, check=True, capture_output=True)
            (folder / f"{name}.pw").write_text(password)
            (folder / f"{name}.pw").chmod(0o600)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def password_file(self, user: str) -> Path:
        return self.folder / f"{user}.pw"

    def start(self) -> None:
        binary = _command()
        assert binary is not None
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "-c", str(self._config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "mosquitto.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                continue
        raise TimeoutError("mosquitto did not listen within 60 s")

    def forget(self) -> None:
        """End it as a crash does, and start it with no session and no message of before."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
        for stored in self.folder.glob("mosquitto.db*"):
            stored.unlink()
        self.start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


def _command() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
