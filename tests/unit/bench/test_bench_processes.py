"""What belongs to a gateway under test."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from greenlang_iot.bench import processes


def test_a_thread_that_ends_while_it_is_looked_at_hides_no_other_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    glob = Path.glob
    gone = Path(f"/proc/{os.getpid()}/task/0")

    def tasks(path: Path, pattern: str) -> list[Path]:
        return [gone, *glob(path, pattern)] if path == gone.parent else list(glob(path, pattern))

    monkeypatch.setattr(Path, "glob", tasks)
    try:
        assert not gone.exists()
        assert child.pid in processes.family(os.getpid())
    finally:
        child.communicate(b"\n")
