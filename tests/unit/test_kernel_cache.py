"""The kernel cache belongs to one place of the sources, one Python and one set of flags."""

from pathlib import Path

import pytest

from greenlang_iot.model import jit


def test_another_clone_and_other_flags_have_a_cache_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba keeps entries per path: a clone that took another's for its own would compile unsaid."""
    monkeypatch.setenv("GREENLANG_IOT_KERNEL_CACHE", str(tmp_path / "cache"))
    folders = {jit._cache_folder()}
    assert folders == {jit._cache_folder()}
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    folders.add(jit._cache_folder())
    (tmp_path / "clone").symlink_to(jit._PACKAGE)
    monkeypatch.setattr(jit, "_PACKAGE", tmp_path / "clone")
    folders.add(jit._cache_folder())
    assert len(folders) == 3
