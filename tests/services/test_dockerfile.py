"""The Dockerfile's steps, run in a clean folder: what COPY and RUN say, without an engine.

The build stage installs the pinned packages from the configured registry, so it takes minutes. Paths of the
image lie below a folder; what an engine alone can do (useradd, volumes, the base image) is left out.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.services


@dataclass
class Stage:
    """The instructions of one FROM, in their order."""

    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        return [rest for step, rest in self.steps if step == word]

    def last(self, word: str) -> str:
        return self.all(word)[-1]


def stages() -> list[Stage]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M)
    found: list[Stage] = []
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append(Stage())
        elif word:
            found[-1].steps.append((word, rest.strip()))
    return found


def context(folder: Path) -> Path:
    """What the engine would be sent: the files that .dockerignore lets through."""
    kept = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M)
    folder.mkdir()
    for name in kept:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


def copy(sent: Path, rest: str, to: Path) -> None:
    *sources, target = rest.split()
    into = to / target.lstrip("./") if target not in (".", "./") else to
    for source in sources:
        if (sent / source).is_dir():
            shutil.copytree(sent / source, into, dirs_exist_ok=True)
        else:
            into.mkdir(parents=True, exist_ok=True)
            shutil.copy(sent / source, into)


def unprivileged(python: Path, folder: Path, data: Path) -> dict[str, Any]:
    """How to start a process as nobody (the image's user is none of this machine), where root can and
    nobody may use this interpreter."""
    if os.geteuid() != 0:
        return {}
    os.chown(data, 65_534, 65_534)
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)
    nobody: dict[str, Any] = {"user": 65_534, "group": 65_534, "extra_groups": []}
    try:
        started = subprocess.run([python, "-c", ""], check=False, **nobody).returncode == 0
    except PermissionError:
        started = False
    return nobody if started else {}


def test_the_image_is_built_and_starts_as_it_says(tmp_path: Path) -> None:
    sent, image = context(tmp_path / "context"), tmp_path / "image"
    build, final = stages()

    source = tmp_path / "src"
    source.mkdir()
    for rest in build.all("COPY"):
        copy(sent, rest, source)
    (command,) = build.all("RUN")
    program = image / "opt" / "greenlang-iot"
    steps = command.replace("/opt/greenlang-iot", str(program)).replace(
        "python -m venv", f"{sys.executable} -m venv"
    )
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    subprocess.run(["bash", "-ec", steps], cwd=source, env=environ, check=True, timeout=1_800)

    for rest in final.all("COPY"):
        if not rest.startswith("--from"):
            target = rest.split()[-1]
            copy(sent, rest.replace(target, target.lstrip("/")), image)
    for line in final.all("ENV"):
        for name, value in (pair.split("=", 1) for pair in shlex.split(line) if "=" in pair):
            environ[name] = value.replace("/var/lib", f"{image}/var/lib")
    environ["PATH"] = f"{program / 'bin'}:{os.environ['PATH']}"
    data = Path(environ["GREENLANG_IOT__DATA_DIR"])
    data.mkdir(parents=True)
    folder = image / final.last("WORKDIR").lstrip("/")
    user = unprivileged(program / "bin" / "python", tmp_path, data)

    def run(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        entry = json.loads(final.last("ENTRYPOINT"))
        return subprocess.run(
            [*entry, *words],
            cwd=folder,
            env=environ | more,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **user,
        )

    assert run("version").returncode == 0
    run_words = json.loads(final.last("CMD"))
    assert run_words[0] == "run"
    checked = run("config", "check", *run_words[1:], GREENLANG_IOT__SINKS__INFLUXDB__TOKEN="t")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    told = [line for line in checked.stdout.splitlines() if "ca_file" in line]
    assert len(told) == 1  # a site mounts its CA there: relative to the working directory
    (folder / "config" / "tls").mkdir()
    (folder / "config" / "tls" / "ca.crt").touch()
    checked = run("config", "check", *run_words[1:], GREENLANG_IOT__SINKS__INFLUXDB__TOKEN="t")
    assert "ca_file" not in checked.stdout
