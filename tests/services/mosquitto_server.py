"""Mosquitto for the proofs: the shipped configuration with TLS and ACLs, on free loopback ports."""

import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from greenlang_iot.simulate.ca import loopback

SHIPPED = Path(__file__).resolve().parents[2] / "config" / "mosquitto"
USERS = {"gateway": "gateway-secret", "operator": "operator-secret", "simulator": "sim-secret"}


def missing() -> str | None:
    """Why it cannot run here; None where it can."""
    if shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        return "mosquitto is not installed (make services)"
    return None


class Mosquitto:
    """One broker process. ca_file: for clients. port: TLS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file, identity = loopback(folder / "tls")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
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
        binary = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        assert binary is not None
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, "-c", str(self._config)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "mosquitto.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                continue
        raise TimeoutError("mosquitto did not listen within 10 s")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
