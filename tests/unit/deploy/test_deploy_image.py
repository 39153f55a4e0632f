"""The Dockerfile, read: what it copies is sent, what it starts is understood, paths fit together.

`tests/services/test_dockerfile.py` runs its steps.
"""

import json
import re
from pathlib import Path
from typing import Any

import typer.main

from greenlang_iot.cli.main import app
from greenlang_iot.settings.load import load

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
    assert f"127.0.0.1:{settings.admin.port}/healthz" in TEXT
