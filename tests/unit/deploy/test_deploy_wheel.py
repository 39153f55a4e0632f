"""The wheel: everything that the program needs is in it, and it runs away from the clone."""

import email
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from greenlang_iot import __version__

ROOT = Path(__file__).resolve().parents[3]
SHARE = f"greenlang_iot-{__version__}.data/data/share/greenlang-iot"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make dist` builds it; nothing is fetched."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def tracked(folder: str) -> set[str]:
    """Files under version control, or all where there is no git."""
    found = {path for path in (ROOT / folder).rglob("*") if path.is_file()}
    kept = {p for p in found if "__pycache__" not in p.parts and p.suffix != ".pyc"}
    return {path.relative_to(ROOT / folder).as_posix() for path in kept}


def test_the_whole_package_and_what_a_site_starts_from(wheel: Path) -> None:
    inside = names(wheel)
    package = {n.removeprefix("greenlang_iot/") for n in inside if n.startswith("greenlang_iot/")}
    assert package == tracked("src/greenlang_iot")
    assert "py.typed" in package
    for folder in ("config", "devices"):
        shared = {n.removeprefix(f"{SHARE}/{folder}/") for n in inside if f"{SHARE}/{folder}/" in n}
        assert shared == tracked(folder)


def test_one_version_everywhere(wheel: Path) -> None:
    metadata = zipfile.ZipFile(wheel).read(f"greenlang_iot-{__version__}.dist-info/METADATA")
    assert email.message_from_bytes(metadata)["Version"] == __version__
    heads = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heads[0] == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    example = (ROOT / ".env.example").read_text()
    assert f"GREENLANG_IOT_VERSION={__version__}\n" in example


def test_it_needs_no_compiler(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_it_runs_away_from_the_clone(wheel: Path, tmp_path: Path) -> None:
    """Unpacked, first on the path; `tests/services/test_wheel.py` installs it in empty environments."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "unpacked")
    environ = os.environ | {"PYTHONPATH": str(tmp_path / "unpacked")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run("-c", "import greenlang_iot; print(greenlang_iot.__file__)")
    assert where.startswith(str(tmp_path / "unpacked"))
    run("-m", "greenlang_iot", "config", "init", "--yes")
    registry = tmp_path / "unpacked" / SHARE / "devices" / "devices-registry.json"
    run("-m", "greenlang_iot", "config", "check", "--devices-file", str(registry))
