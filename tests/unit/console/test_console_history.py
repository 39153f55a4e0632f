"""The past of a series in the console: from the lake, whole or thinned."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import readings, scores

from greenlang_iot.console.history import MAX_POINTS, THINNED, History
from greenlang_iot.encode.arrow import ArrowEncoder
from greenlang_iot.model.batches import F32
from greenlang_iot.settings.model import LakeSettings
from greenlang_iot.sinks.lake import LakeSender

SECOND = 1_000_000_000
BEGIN = 1_800_000_000 * SECOND


async def store(folder: Path, values: Sequence[float], odd: Sequence[float]) -> None:
    """One reading a second of d000's temperature."""
    encoder = ArrowEncoder(directory(2))
    n = len(values)
    times = [BEGIN + i * SECOND for i in range(n)]
    encoder.append(readings([0] * n, times, list(values), seq=list(range(n))), scores(list(odd)))
    sender = LakeSender(LakeSettings(fsync_every=0.0), folder / "shard-0")
    await sender.open()
    await sender.send(encoder.seal(), n)
    await sender.close()


def judge(ts_ns: Sequence[int], value: Sequence[float]) -> tuple[F32, F32]:
    return np.full(len(ts_ns), 20.0, np.float32), np.full(len(ts_ns), 2.0, np.float32)


async def test_a_few_readings_are_all_drawn(tmp_path: Path) -> None:
    await store(tmp_path, [20.0] * 100, [1.0] * 100)
    history = History(tmp_path)
    points, note = await history.series("d000", "temperature", BEGIN + 10 * SECOND, judge)
    history.close()
    assert note == ""
    assert [point[0] for point in points] == [1_800_000_010 + i for i in range(90)]
    assert points[0][1:] == [20.0, pytest.approx(0.9), 20.0, 2.0, False]


async def test_many_readings_are_thinned_and_no_extreme_is_lost(tmp_path: Path) -> None:
    """A picture of a day ended after its newest 2,000 readings, and did not say so."""
    values = [20.0 + (i % 7) * 0.01 for i in range(20_000)]
    odd = [1.0] * 20_000
    values[3_333], values[7_777], odd[11_111] = 95.0, -40.0, 3.0
    await store(tmp_path, values, odd)
    history = History(tmp_path)
    points, note = await history.series("d000", "temperature", BEGIN, judge)
    history.close()
    assert note == "Of each 40 s the lowest, the highest and the least usual reading."
    times = [round(point[0]) - BEGIN // SECOND for point in points]
    assert times == sorted(set(times))
    assert len(times) <= min(3 * THINNED, MAX_POINTS)
    assert times[0] < 40
    assert times[-1] > 19_960
    assert {3_333, 7_777, 11_111} <= set(times)
    drawn = dict(zip(times, points, strict=True))
    assert (drawn[3_333][1], drawn[7_777][1]) == (95.0, -40.0)
    assert drawn[3_333][3:5] == [None, None], "what was expected so long ago is not made up"
    assert points[-1][3:5] == [20.0, 2.0]
