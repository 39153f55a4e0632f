"""The audit log: one line per action, for its owner only, bounded, whole under concurrent writers."""

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from greenlang_iot.observe.audit import FILE, FORMER, Audit, local_user


def lines(folder: Path, name: str = FILE) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_line_says_who_what_and_how_it_went(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Audit(tmp_path, 65_536).record("reload", "SIGHUP", "done", settings=["log.level"])
    finally:
        os.umask(before)
    (line,) = lines(tmp_path)
    assert str(line.pop("ts")).endswith("+00:00")
    assert line == {
        "action": "reload", "actor": "SIGHUP", "outcome": "done", "settings": ["log.level"],
    }  # fmt: skip
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert local_user().startswith(("user ", "uid "))


def test_a_name_cannot_forge_a_line(tmp_path: Path) -> None:
    Audit(tmp_path, 65_536).record("reload", 'x"}\n{"action":"forged\x1b[2J', "done")
    raw = (tmp_path / FILE).read_bytes()
    assert raw.count(b"\n") == 1
    assert b"\x1b" not in raw
    assert len(lines(tmp_path)) == 1


def test_it_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    audit = Audit(tmp_path, 6_000)  # each line is synced: a few
    for number in range(150):
        audit.record("reload", "SIGHUP", "done", number=number)
    sizes = [(tmp_path / name).stat().st_size for name in (FILE, FORMER)]
    assert max(sizes) <= 3_000
    kept = [line["number"] for line in lines(tmp_path, FORMER) + lines(tmp_path)]
    assert 25 < len(kept) < 75
    assert kept == list(range(150 - len(kept), 150))


def _write(folder: Path, writer: int) -> None:
    audit = Audit(folder, 65_536)
    for number in range(100):
        audit.record("replay", f"writer {writer}", "done", number=number)


def test_processes_may_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    kept = lines(tmp_path) + (lines(tmp_path, FORMER) if (tmp_path / FORMER).exists() else [])
    assert len(kept) == 300


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        Audit(tmp_path, 65_536).record("reload", "SIGHUP", "done")
    assert not (tmp_path / "elsewhere").exists()
