"""The wheel in empty environments of every Python that the project supports and this machine has.

Installs packages from the configured registry, so it takes minutes. It is the newcomer's way:
`pip install dist/*.whl`, then `greenlang-iot demo` somewhere else.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.services
INSTALL_WITHIN = 900
DEMO_WITHIN = 600


def interpreter(version: str) -> str | None:
    """A Python of this version that really starts: on the path (a shim of pyenv may not), or pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    kept = sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")))
    for found in filter(None, (shutil.which(f"python{version}"), *kept)):
        asked = subprocess.run(
            [found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if asked.stdout.strip() == version:
            return found
    return None


def installer(venv: Path) -> list[str]:
    """uv where it is there, as in the Makefile, because it is quicker; else pip."""
    if (uv := shutil.which("uv")) is not None:
        return [uv, "pip", "install", "--quiet", "--python", str(venv / "bin" / "python")]
    return [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_installed_alone_the_demo_reconciles(version: str, wheel: Path, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no python{version} on PATH")
    venv = tmp_path / "venv"
    subprocess.run([python, "-m", "venv", venv], check=True)
    subprocess.run([*installer(venv), wheel], check=True, timeout=INSTALL_WITHIN)
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL"))}
    environ["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    program = venv / "bin" / "greenlang-iot"

    def run(*words: str, within: float = 120) -> str:
        done = subprocess.run(
            [program, *words],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3_000:]
        assert "Warning" not in done.stderr
        return done.stdout

    assert json.loads(run("version", "--json"))["python"].startswith(version)
    share = venv / "share" / "greenlang-iot"
    assert (share / "config" / "production.yaml").is_file()
    local = str(share / "config" / "local.yaml")
    registry = str(share / "devices" / "devices-registry.json")
    run("config", "check", "--config", local, "--devices-file", registry)
    demo = run(
        "demo", "--seconds", "8", "--devices", "60", "--port", "0", "--json", within=DEMO_WITHIN
    )
    assert json.loads(demo.splitlines()[-1])["reconciled"] is True
