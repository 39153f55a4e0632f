"""The Dockerfile, read: what it copies is sent, what it starts is understood, paths fit together.

`tests/services/test_dockerfile.py` runs its steps.
"""

import json
import os
import re
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer.main

from greenlang_iot.cli.main import app
from greenlang_iot.runtime.folders import admin_url_file
from greenlang_iot.settings.load import load
from greenlang_iot.settings.model import Settings
from greenlang_iot.simulate.ca import Authority

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def last(word: str) -> str:
    found: str = re.findall(rf"^{word} (.*)$", TEXT, re.M)[-1]
    return found


def test_what_it_copies_is_sent_to_the_engine_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {
        source.removeprefix("./")
        for line in re.findall(r"^COPY (?!--from)(.*)$", TEXT, re.M)
        for source in line.split()[:-1]
    }
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)


def test_it_starts_with_files_that_are_in_the_image() -> None:
    words = json.loads(last("CMD"))
    assert json.loads(last("ENTRYPOINT")) == ["greenlang-iot"]
    command: Any = typer.main.get_command(app)
    context = command.commands[words[0]].make_context(words[0], words[1:])
    copied = dict(line.split() for line in re.findall(r"^COPY (?!--from)(\S+ /\S+)$", TEXT, re.M))
    for file in [*context.params["config"], context.params["devices_file"]]:
        assert copied[file.parts[0]] == f"{last('WORKDIR')}/{file.parts[0]}"
        assert (ROOT / file).is_file()


def test_it_runs_without_root_and_keeps_its_data_in_a_volume() -> None:
    assert last("USER") == "greenlang"
    said = dict(re.findall(r"(\w+)=(\S+)", last("ENV")))
    assert said["GREENLANG_IOT__DATA_DIR"] == last("VOLUME")
    assert said["XDG_CACHE_HOME"].startswith(last("VOLUME"))
    environ = {k: v for k, v in said.items() if k.startswith("GREENLANG_IOT__")}
    settings = load(ROOT / "config" / "local.yaml", environ).settings
    assert str(settings.admin.port) == last("EXPOSE")


@pytest.mark.parametrize("with_tls", [False, True])
def test_its_health_check_finds_the_gateway_on_any_port(tmp_path: Path, with_tls: bool) -> None:
    asked: list[str] = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Health)
    if with_tls:
        identity = Authority(tmp_path / "ca").server(("gateway.example",))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.cert_file, identity.key_file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    settings = Settings.model_validate({"data_dir": str(tmp_path)})
    admin_url_file(settings).parent.mkdir()
    scheme = "https" if with_tls else "http"
    admin_url_file(settings).write_text(f"{scheme}://127.0.0.1:{server.server_port}\n")
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    command = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    assert command[0] == "python"
    environ = os.environ | {"GREENLANG_IOT__DATA_DIR": str(tmp_path)}
    check = [sys.executable, "-S", *command[1:]]
    assert subprocess.run(check, env=environ, check=False).returncode == 0
    thread.join()
    server.server_close()
    assert asked == ["/healthz"]
    assert subprocess.run(check, env=environ, check=False, stderr=subprocess.DEVNULL).returncode
