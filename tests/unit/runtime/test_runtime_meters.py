"""What a batch adds to the metrics, against the slow twin."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.frames import frames
from tests.fakes.readings import readings, scores
from tests.reference import meter as twin

from greenlang_iot.model import flags as f
from greenlang_iot.model.batches import Decoded
from greenlang_iot.observe.catalog import BATCH_BUCKETS, STAGE_BUCKETS, cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.pipeline import StageSeconds
from greenlang_iot.runtime.meters import BatchMeter

NAMES = (
    "messages_received",
    "messages_retained",
    "batches",
    *(f"readings_{name}" for name in twin.READINGS),
    *twin.VERDICTS,
)
SECONDS = st.one_of(st.sampled_from(STAGE_BUCKETS), st.floats(0, 2))


def counted(counters: Counters) -> Counter[str]:
    found = Counter({name: int(counters.get(cell(name))) for name in NAMES})
    firsts = {stage: cell("stage_seconds", stage=stage) for stage in StageSeconds._fields}
    for name, first, bounds in (
        *((stage, first, STAGE_BUCKETS) for stage, first in firsts.items()),
        ("batch", cell("batch_messages"), BATCH_BUCKETS),
    ):
        for i in range(len(bounds) + 1):
            found[f"{name}:{i}"] = int(counters.get(first + i))
    return +found


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.sampled_from((0, f.FRAME_RETAIN, f.FRAME_DUP)), max_size=70),
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFF)), max_size=70),
    st.tuples(SECONDS, SECONDS, SECONDS, SECONDS),
)
def test_a_batch_adds_what_the_twin_adds(
    frame_flags: list[int], rows: list[tuple[int, int]], took: tuple[float, float, float, float]
) -> None:
    n = len(rows)
    messages = frames([("t", b"123")] * len(frame_flags))
    messages.flags[:] = frame_flags
    bits, verdicts = [a for a, _ in rows], [b for _, b in rows]
    batch = readings(range(n), [0] * n, [0.0] * n, flags=bits)
    decoded = Decoded(batch, [], len(frame_flags), 0, max(len(frame_flags) - 1, 0))
    counters, seconds = Counters.local(), StageSeconds(*took)
    meter = BatchMeter(counters)
    for _ in range(2):
        meter.batch(messages, decoded, scores([0.0] * n, [0] * n, verdicts), seconds)
    once = twin.counted(frame_flags, bits, verdicts, seconds._asdict())
    assert counted(counters) == once + once
    assert counters.get(cell("received_bytes")) == 2 * 4 * len(frame_flags)
    assert counters.get(cell("messages_decoded")) == 2 * len(frame_flags)
    assert counters.get(cell("messages_fast")) == 2 * decoded.fast
    assert counters.get(cell("readings_decoded")) == 2 * n
    np.testing.assert_allclose(counters.get(cell("process_seconds")), 2 * sum(took))
    np.testing.assert_allclose(counters.sum_of("batch_messages"), 2 * len(frame_flags))
