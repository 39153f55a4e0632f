"""The kernel cache belongs to one place of the sources, one Python and one set of flags."""

import ast
import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import pytest

from greenlang_iot.model import kernel_cache


def test_another_clone_and_other_flags_have_a_cache_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba keeps entries per path: a clone that took another's for its own would compile unsaid."""
    monkeypatch.setenv("GREENLANG_IOT_KERNEL_CACHE", str(tmp_path / "cache"))
    folders = {kernel_cache._cache_folder()}
    assert folders == {kernel_cache._cache_folder()}
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    folders.add(kernel_cache._cache_folder())
    (tmp_path / "clone").symlink_to(kernel_cache._PACKAGE)
    monkeypatch.setattr(kernel_cache, "_PACKAGE", tmp_path / "clone")
    folders.add(kernel_cache._cache_folder())
    assert len(folders) == 3


def index(*entries: str) -> bytes:
    """As numba writes one: its version and what it holds, each pickled."""
    return pickle.dumps("0.1") + pickle.dumps(("stamp", entries))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two sealed kernels."""
    monkeypatch.setattr(kernel_cache, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(kernel_cache, "COMPILED", tmp_path / "complete")
    (tmp_path / "decode").mkdir()
    for name in ("one.nbi", "one.1.nbc", "two.nbi", "two.1.nbc"):
        (tmp_path / "decode" / name).write_bytes(index(name * 100))
    kernel_cache.seal()
    return tmp_path


def test_what_is_as_it_was_sealed_stays(cache: Path) -> None:
    (cache / "decode" / "three.nbi").write_bytes(b"of another command")
    assert kernel_cache.drop_damaged() == []
    assert len(list((cache / "decode").iterdir())) == 5
    assert kernel_cache.COMPILED.exists()


def test_an_index_with_a_signature_more_stays(cache: Path) -> None:
    """Another command called the kernel with other types: nothing is compiled anew for that."""
    (cache / "decode" / "one.nbi").write_bytes(index("one.nbi" * 100, "one.2.nbc"))
    assert kernel_cache.drop_damaged() == []
    assert kernel_cache.COMPILED.exists()


WHOLE = index("one.nbi" * 100)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        WHOLE[:-200],
        WHOLE.replace(b"nbi", b"nbj"),
        WHOLE + b"more",
        b"\xff" * 2_000,
        b"." * 2_000,
    ],
    ids=["empty", "cut", "another byte", "longer", "noise", "pickles of nothing"],
)
def test_a_damaged_kernel_is_compiled_anew_and_that_is_said(cache: Path, damage: bytes) -> None:
    (cache / "decode" / "one.nbi").write_bytes(damage)
    assert kernel_cache.drop_damaged() == ["decode/one.nbi"]
    assert sorted(p.name for p in (cache / "decode").iterdir()) == [
        "one.1.nbc", "two.1.nbc", "two.nbi",
    ]  # fmt: skip
    assert not kernel_cache.COMPILED.exists()


def test_without_its_checksums_no_kernel_is_trusted(cache: Path) -> None:
    kernel_cache.COMPILED.write_bytes(kernel_cache.COMPILED.read_bytes()[:20])
    assert len(kernel_cache.drop_damaged()) == 4
    assert list((cache / "decode").iterdir()) == []


def test_a_kernel_that_another_process_drops_meanwhile_is_gone(cache: Path) -> None:
    """The parent and its fork server look at the same time."""
    (cache / "decode" / "one.nbi").unlink()
    (cache / "decode" / "one.nbi").symlink_to(cache / "nowhere")
    assert kernel_cache.drop_damaged() == []


def test_sealing_again_is_for_what_changed(cache: Path) -> None:
    before = kernel_cache.COMPILED.stat().st_ino
    kernel_cache.seal()
    assert kernel_cache.COMPILED.stat().st_ino == before
    (cache / "decode" / "three.nbi").write_bytes(b"3")
    kernel_cache.seal()
    assert "decode/three.nbi" in json.loads(kernel_cache.COMPILED.read_bytes())


def test_every_source_of_a_kernels_constants_is_in_the_key() -> None:
    """Compiled code has the values in it: where one changes, the machine code must not survive."""
    package = kernel_cache._PACKAGE
    found = set()
    for source in package.rglob("kernels*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("greenlang_iot"):
                path = package.joinpath(*node.module.split(".")[1:])
                names = [alias.name for alias in node.names]
                found |= (
                    {path.with_suffix(".py")}
                    if not path.is_dir()
                    else {path / f"{name}.py" for name in names}
                )
    others = {p.relative_to(package).as_posix() for p in found if not p.name.startswith("kernels")}
    assert others - {"model/jit.py"} == set(kernel_cache.CONSTANTS)


def test_a_changed_constant_has_a_cache_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENLANG_IOT_KERNEL_CACHE", str(tmp_path / "cache"))
    clone = tmp_path / "clone"
    shutil.copytree(
        kernel_cache._PACKAGE, clone, ignore=shutil.ignore_patterns("static", "__pycache__")
    )
    monkeypatch.setattr(kernel_cache, "_PACKAGE", clone)
    before = kernel_cache._cache_folder()
    flags = clone / "model" / "flags.py"
    flags.write_text(flags.read_text() + "\nLATER = 1\n")
    assert kernel_cache._cache_folder() != before


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, of a user whose cache cannot be written."""
    (tmp_path / "no-folder").write_text("")
    (tmp_path / "tmp").mkdir(mode=0o777)
    monkeypatch.delenv("GREENLANG_IOT_KERNEL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no-folder"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_without_a_home_kernels_are_kept_between_starts(homeless: Path) -> None:
    folder = kernel_cache._cache_folder()
    assert folder.parent == homeless / f"greenlang-iot-{os.geteuid()}"
    assert kernel_cache._cache_folder() == folder
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent)] == [0o700, 0o700]


@pytest.mark.parametrize("what", ["open to all", "somebody else's", "somebody else's link"])
def test_what_others_could_have_put_there_is_not_run(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """numba unpickles what lies in its cache: a folder that another user made must not be taken."""
    ours = homeless / f"greenlang-iot-{os.geteuid()}"
    if what == "somebody else's link":
        (homeless / "elsewhere").mkdir()
        ours.symlink_to(homeless / "elsewhere")
    else:
        ours.mkdir()
        ours.chmod(0o777 if what == "open to all" else 0o755)
    if what != "open to all":
        if os.geteuid() != 0:
            pytest.skip("only root gives a folder to somebody else")
        os.lchown(ours, 12_345, -1)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    folder = kernel_cache._cache_folder()
    assert ours not in folder.parents
    assert folder.parent.parent == homeless
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert kernel_cache._cache_folder() == folder, "what this process starts takes the same"


def test_a_link_of_ours_is_followed(
    tmp_path: Path, homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd makes one of a CacheDirectory= for a DynamicUser=."""
    cache = tmp_path / "cache"
    (cache / "private").mkdir(parents=True)
    (cache / "greenlang-iot").symlink_to(cache / "private")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    assert kernel_cache._cache_folder().parent == cache / "greenlang-iot" / "kernels"


def test_a_cache_that_others_may_write_is_left(
    tmp_path: Path, homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = kernel_cache._cache_folder()
    assert folder.parent == tmp_path / "cache" / "greenlang-iot" / "kernels"
    folder.parent.chmod(0o777)
    assert kernel_cache._cache_folder().parent == homeless / f"greenlang-iot-{os.geteuid()}"
