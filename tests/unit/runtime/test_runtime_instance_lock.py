"""One gateway per data_dir, and nobody else who may write there."""

import fcntl
import os
import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.runtime.instance_lock import InstanceLock, is_locked


@pytest.mark.parametrize("place", ["file/data", "/proc/nothing/data"])
def test_a_data_dir_that_cannot_be_is_one_sentence(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(GatewayError, match=r"data_dir .* cannot be written"),
        InstanceLock(tmp_path / place),
    ):
        pass


def test_a_data_dir_that_everybody_may_write_is_closed(tmp_path: Path) -> None:
    """Whoever can put a file there can put the admin token there."""
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    with capture_logs() as said, InstanceLock(data):
        assert data.stat().st_mode & 0o777 == 0o775
    assert [one["event"] for one in said] == [
        "every user of this machine could write to the data_dir: not any more"
    ]


def test_a_data_dir_of_somebody_else_is_said(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives a folder to somebody else")
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 12_345, -1)
    with capture_logs() as said, InstanceLock(data):
        pass
    assert [(one["event"], one["owner"]) for one in said] == [
        ("the data_dir belongs to another user, who can take the gateway over", 12_345)
    ]


def test_a_look_at_the_lock_keeps_no_gateway_from_starting(tmp_path: Path) -> None:
    """A command looks whether a gateway runs; what starts in that moment tries again."""
    path = tmp_path / "run" / "gateway.pid"
    path.parent.mkdir()
    with path.open("w") as look:
        fcntl.flock(look, fcntl.LOCK_SH)
        threading.Timer(0.02, lambda: fcntl.flock(look, fcntl.LOCK_UN)).start()
        with InstanceLock(tmp_path):
            pass


def test_a_second_gateway_is_refused_and_told_which_is_there(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    with InstanceLock(tmp_path):
        assert is_locked(tmp_path)
        with (
            pytest.raises(GatewayError, match=rf"\(process {os.getpid()}\) uses the data_dir"),
            InstanceLock(tmp_path),
        ):
            pass
    assert not is_locked(tmp_path)
