"""What the parent remembers of earlier layouts."""

from pathlib import Path

import pytest

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.runtime import earlier_layouts
from greenlang_iot.runtime.earlier_layouts import mark_drained, retired_connections
from greenlang_iot.runtime.layout import ConnectionPlan, ShardPlan

OLD = ConnectionPlan(0, "gateway-0-0-aaaa", ("a/+",))
NEW = ConnectionPlan(0, "gateway-0-0-bbbb", ("b/+",))


def test_client_ids_of_an_earlier_layout_are_retired_until_drained(tmp_path: Path) -> None:
    assert retired_connections(tmp_path, [ShardPlan(0, (OLD,))], ["default"]) == []
    assert retired_connections(tmp_path, [ShardPlan(0, (NEW,))], ["default"]) == [OLD]
    assert retired_connections(tmp_path, [ShardPlan(0, (NEW,))], ["default"]) == [OLD]
    (tmp_path / "run").mkdir()
    mark_drained(tmp_path, OLD.client_id)
    assert retired_connections(tmp_path, [ShardPlan(0, (NEW,))], ["default"]) == []


@pytest.mark.parametrize("damage", [b"", b"[{", b'[{"client_id": 1, "broker": "default"}]', b"7"])
def test_a_damaged_layout_is_put_aside(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "layout.json").write_bytes(damage)
    assert retired_connections(tmp_path, [ShardPlan(0, (NEW,))], ["default"]) == []
    assert (tmp_path / "layout.damaged").read_bytes() == damage
    assert retired_connections(tmp_path, [ShardPlan(0, (OLD,))], ["default"]) == [NEW]


def test_a_full_disk_at_the_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry's columns had fitted, and layout.json had not: a stack trace."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(earlier_layouts, "replace_durably", full)
    with pytest.raises(GatewayError, match=r"layout.json cannot be written \(No space left on"):
        retired_connections(tmp_path, [ShardPlan(0, (NEW,))], ["default"])


def test_a_layout_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    """Begun without it, the sessions of an earlier layout would be forgotten, with what they hold."""
    (tmp_path / "layout.json").mkdir()  # root may read any file
    with pytest.raises(GatewayError, match=r"layout\.json cannot be read or moved \(Is a dir"):
        retired_connections(tmp_path, [ShardPlan(0, (NEW,))], ["default"])
