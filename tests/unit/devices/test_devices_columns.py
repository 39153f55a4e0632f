"""A registry's columns in a file: the same in every process that maps it, and nothing of it in a pipe."""

import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from greenlang_iot.devices.catalog import make_registry
from greenlang_iot.devices.columns import ALIGN, Columns
from greenlang_iot.devices.registry import parse
from greenlang_iot.model.directory import Directory, Texts


def registry(devices: int) -> Directory:
    return parse(orjson.dumps(make_registry(devices)))


def columns(d: Directory) -> dict[str, np.ndarray[Any, Any]]:
    found: dict[str, np.ndarray[Any, Any]] = {}
    for item in fields(d):
        value = getattr(d, item.name)
        if isinstance(value, Texts):
            found |= {f"{item.name}.blob": value.blob, f"{item.name}.off": value.off}
        else:
            found[item.name] = value
    return found


@pytest.mark.parametrize("devices", [0, 1, 300])
def test_what_is_mapped_is_what_was_written(tmp_path: Path, devices: int) -> None:
    directory = registry(devices)
    mapped = Columns.write(directory, tmp_path / "registry").open()
    wanted, got = columns(directory), columns(mapped)
    assert got.keys() == wanted.keys()
    for name, column in got.items():
        assert column.dtype == wanted[name].dtype, name
        assert column.tolist() == wanted[name].tolist(), name
        assert column.flags.writeable, f"{name}: kernels are compiled for arrays that are"
        assert column.ctypes.data % ALIGN == 0 or not len(column), name
    assert [p.name for p in tmp_path.iterdir()] == ["registry"]


def test_a_pipe_carries_the_name_alone(tmp_path: Path) -> None:
    written = Columns.write(registry(20_000), tmp_path / "registry")
    written.open()
    sent = pickle.dumps(written)
    assert len(sent) < 300
    assert pickle.loads(sent).open().n_devices == 20_000


def test_the_columns_are_not_copied_into_the_process(tmp_path: Path) -> None:
    """Not one page is its own, however much is read; nor is anything kept that was forgotten."""
    written = Columns.write(registry(50_000), tmp_path / "registry")
    mapped = written.open()
    total = sum(
        int(column.sum()) for column in columns(mapped).values() if column.dtype.kind != "f"
    )
    assert total > 0
    size = (tmp_path / "registry").stat().st_size
    seen = mapping(tmp_path / "registry")
    assert seen["Anonymous"] == 0
    assert seen["Rss"] > size / 4
    written.forget()
    assert mapping(tmp_path / "registry")["Rss"] == 0
    assert mapped.device[49_999] == registry(50_000).device[49_999]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "registry"
    Columns.write(registry(3), path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        Columns.write(registry(5), path)
    assert [p.name for p in tmp_path.iterdir()] == ["registry"]
    assert Columns(path).open().n_devices == 3


def mapping(path: Path) -> dict[str, int]:
    """Bytes of this process's mapping of a file, as the kernel names them."""
    found: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and words[-1] == "kB":
            found[words[0][:-1]] = found.get(words[0][:-1], 0) + int(words[1]) * 1024
    return found
