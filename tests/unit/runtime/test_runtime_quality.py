"""Windows of quality between the shards and the parent: files, what is due, what is missing."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.fakes.directory import directory

from greenlang_iot.observe.counters import Counters
from greenlang_iot.quality.figures import FIGURES, Scopes, widened
from greenlang_iot.quality.record import (
    ARRIVED,
    FIELDS,
    LEAST_LAG,
    NO_LAG,
    RECEIVED,
    REJECTED,
    Window,
)
from greenlang_iot.runtime import quality as module
from greenlang_iot.runtime import quality_windows as windows_module
from greenlang_iot.runtime.quality import QualityWatch
from greenlang_iot.runtime.quality_windows import (
    joined,
    load_window,
    reported,
    save_window,
    window_file,
)
from greenlang_iot.settings.model import QualitySettings, Settings

SECOND = 1_000_000_000
END = 1_800_000_000 * SECOND
COMPLETENESS = FIGURES.index("completeness")


def window(expected: list[float], **counts: list[int]) -> Window:
    """One row per device; counts by the name of their field."""
    fields = {"received": RECEIVED, "arrived": ARRIVED, "rejected": REJECTED}
    records = np.zeros((len(expected), FIELDS), np.int64)
    records[:, LEAST_LAG] = NO_LAG
    for name, column in counts.items():
        records[:, fields[name]] = column
    return Window(END - 3_600 * SECOND, END, np.array(expected), records)


def read(tmp_path: Path, found: Window, owned: Sequence[bool]) -> Scopes:
    path = tmp_path / "quality-0.npz"
    save_window(path, found, directory(len(owned)), np.array(owned))
    scopes = load_window(path, END)
    assert scopes is not None
    return scopes


def test_a_meter_that_speaks_every_two_hours_is_complete(tmp_path: Path) -> None:
    """In 50 minutes 0.417 of its readings are due: 5 of 12 such meters have spoken."""
    received = [1] * 5 + [0] * 7
    found = read(tmp_path, window([3_000 / 7_200] * 12, received=received), [True] * 12)
    sites, fleet = widened(joined([found]))
    assert fleet.figures()[0, COMPLETENESS] == pytest.approx(1.0)
    assert sites.counts[:, RECEIVED].sum() == 5


def test_a_device_that_no_shard_of_a_share_hears_is_not_complete(tmp_path: Path) -> None:
    owned = np.zeros(2, np.bool_)  # by nobody
    windows = [
        read(
            tmp_path,
            window([50.0] * 2, received=[25, 0], arrived=[25, 0]),
            reported(owned, "shared").tolist(),
        )
        for _ in range(2)
    ]
    found = joined(windows)
    assert found.device == ["d000", "d001"]
    assert found.figures()[:, COMPLETENESS].tolist() == [1.0, 0.0]
    assert reported(owned, "sites").tolist() == [False, False]


def test_what_is_sent_beyond_the_interval_hides_nobody_elses_gap(tmp_path: Path) -> None:
    found = read(tmp_path, window([50.0, 50.0], received=[500, 0]), [True, True])
    _, fleet = widened(joined([found]))
    assert fleet.figures()[0, COMPLETENESS] == pytest.approx(0.5)


def test_a_device_of_another_shard_counts_also_where_all_it_sent_was_rejected(
    tmp_path: Path,
) -> None:
    """With `mqtt.layout: shared` a shard hears devices that others own."""
    found = read(tmp_path, window([1.0] * 3, rejected=[0, 4, 0]), [True, False, False])
    assert found.device == ["d000", "d001"]
    assert found.counts[:, REJECTED].tolist() == [0, 4]


@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_a_file_that_was_cut_off_is_a_damaged_one(tmp_path: Path, left: int) -> None:
    """After a power cut; -1: another kind of file."""
    path = window_file(tmp_path, 0)
    path.parent.mkdir()
    save_window(path, window([1.0]), directory(1), np.array([True]))
    path.write_bytes(path.read_bytes()[:left] if left >= 0 else b"not a window of quality")
    with pytest.raises(ValueError, match=r"quality-0\.npz is damaged"):
        load_window(path, END)


@pytest.mark.parametrize(("back", "moved"), [(0, 0), (500, 0), (1_000, 1_200), (86_400, 86_400)])
async def test_a_clock_that_is_set_back_is_waited_for_a_little_only(
    monkeypatch: pytest.MonkeyPatch, back: int, moved: int
) -> None:
    slot = 600 * SECOND
    clock = SimpleNamespace(now=END)
    steps = [-back * SECOND]

    async def sleep(seconds: float) -> None:
        assert 0 < seconds <= module.LOOK_EVERY
        clock.now += int(seconds * 1e9) + (steps.pop() if steps else 0)

    fake = SimpleNamespace(time_ns=lambda: clock.now)
    monkeypatch.setattr(module, "time", fake)
    monkeypatch.setattr(windows_module, "time", fake)
    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    assert await module._over(END + slot, slot) == END + slot - moved * SECOND


class Enough(Exception):
    """Ends a watch."""


async def test_a_machine_that_slept_is_not_asked_for_what_it_slept_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten seconds were spent on each window of the night, and meanwhile none was judged."""
    slot = 10 * SECOND
    settings = Settings(data_dir=tmp_path, quality=QualitySettings(window=60.0))
    watch = QualityWatch(settings, Counters.create(tmp_path / "counters"))
    clock = SimpleNamespace(now=END + 1)
    monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=lambda: clock.now))
    monkeypatch.setattr(module, "wait_until", lambda _: 0.0)
    steps = itertools.chain(
        [slot + SECOND, 8 * 3_600 * SECOND, 2 * SECOND, slot], itertools.repeat(0)
    )
    asked: list[int] = []

    async def windows(end: int) -> tuple[list[Scopes], bool]:
        asked.append(end)
        if len(asked) == 5:
            raise Enough
        clock.now = max(clock.now, end) + next(steps)
        return [], False

    monkeypatch.setattr(watch, "_windows", windows)
    with pytest.raises(Enough):
        await watch.run()
    night = END + 3 * slot + 8 * 3_600 * SECOND
    assert asked == [END + slot, END + 2 * slot, night - slot, night, night + slot]
