import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from greenlang_iot.model.reasons import Reason
from greenlang_iot.observe.catalog import CATALOG, METRICS, SIZE, cell, render_markdown
from greenlang_iot.observe.counters import HEARTBEAT, Counters


def test_every_cell_belongs_to_exactly_one_metric() -> None:
    owned: list[int] = []
    for metric in CATALOG:
        if metric.scope == "site":
            continue  # as many as the registry has: not in cells
        names = [name for name, _ in metric.labels]
        for values in metric.combinations():
            first = cell(metric.name, **dict(zip(names, values, strict=True)))
            owned += range(first, first + metric.width)
    assert owned == list(range(SIZE))


def test_names_are_unique_and_say_their_unit() -> None:
    assert len(METRICS) == len(CATALOG)
    for metric in CATALOG:
        assert metric.help.endswith("."), metric.name
        assert metric.name.replace("_", "").isalnum()
        assert metric.name.islower()
        if metric.unit:
            assert metric.unit in metric.name, metric.name
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_every_reject_reason_has_its_cell() -> None:
    for reason in Reason:
        if reason is Reason.SINK_REFUSED:
            continue
        name = "messages_undecodable" if reason.is_message else "readings_rejected"
        assert cell(name, reason=reason) >= 0


def test_an_unlisted_value_counts_as_other_only_where_other_is_listed() -> None:
    assert cell("sink_retries", sink="kafka", reason="http_999") == cell(
        "sink_retries", sink="kafka", reason="other"
    )
    with pytest.raises(KeyError):
        cell("sink_up", sink="nosuch")
    with pytest.raises(KeyError):
        cell("sink_up")
    with pytest.raises(KeyError):
        cell("messages_received", sink="kafka")
    with pytest.raises(KeyError):
        cell("no_such_metric")


def test_add_set_get_total() -> None:
    counters = Counters.local()
    first = cell("messages_undecodable", reason="malformed")
    second = cell("messages_undecodable", reason="device_disabled")
    counters.add(first)
    counters.add(first, 4)
    counters.add(second, 2)
    counters.set(cell("devices"), 1_000)
    assert counters.get(first) == 5
    assert counters.total("messages_undecodable") == 7
    assert counters.get(cell("devices")) == 1_000
    assert np.isnan(counters.get(cell("series")))
    assert counters.snapshot()[second] == 2
    counters.close()


def test_observe_uses_inclusive_upper_bounds() -> None:
    counters = Counters.local()
    first = cell("batch_messages")
    buckets = METRICS["batch_messages"].buckets
    counters.observe(first, buckets[0])  # equal to a bound: in that bucket
    counters.observe(first, buckets[0] + 0.5, 3)
    counters.observe(first, buckets[-1] * 2, 2)
    cells = counters.snapshot()[first : first + len(buckets) + 2]
    assert cells[0] == 1
    assert cells[1] == 3
    assert cells[len(buckets)] == 2
    assert cells.sum() - cells[-1] == 6
    assert cells[-1] == buckets[0] + 3 * (buckets[0] + 0.5) + 4 * buckets[-1]


def test_ages_are_infinite_until_the_first_event() -> None:
    counters = Counters.local()
    assert counters.age(HEARTBEAT, 10**18) == float("inf")
    counters.set(HEARTBEAT, 5_000_000_000)
    assert counters.age(HEARTBEAT, 7_500_000_000) == 2.5
    counters.heartbeat()
    assert counters.get(HEARTBEAT) > 0


def _count_and_die(path: Path) -> None:
    counters = Counters.open(path)
    counters.add(cell("messages_received"), 7)
    os.kill(os.getpid(), signal.SIGKILL)


def test_counts_survive_a_killed_process_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "run" / "shard-0.counters"
    parent = Counters.create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    context = multiprocessing.get_context("fork")
    for _ in range(2):
        process = context.Process(target=_count_and_die, args=(path,))
        process.start()
        process.join(10)
        assert process.exitcode == -signal.SIGKILL
    assert parent.get(cell("messages_received")) == 14


def test_create_starts_at_zero_and_leaves_the_old_file_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "shard-0.counters"
    stray = Counters.create(path)
    fresh = Counters.create(path)
    stray.add(cell("batches"))
    assert fresh.get(cell("batches")) == 0


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard-0.counters"
    Counters.create(path).close()
    body = bytearray(path.read_bytes())
    body[16] ^= 1
    path.write_bytes(body)
    with pytest.raises(ValueError, match="another version"):
        Counters.open(path)
    path.write_bytes(body[:-8])
    with pytest.raises(ValueError, match="another version"):
        Counters.open(path)
    with pytest.raises(FileNotFoundError):
        Counters.open(tmp_path / "missing")


def test_the_documentation_names_every_metric() -> None:
    text = render_markdown()
    for metric in CATALOG:
        assert f"`{metric.exported}`" in text
