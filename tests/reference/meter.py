"""What a batch adds to the metrics, by name: what `runtime/kernels_meter.count_batch` must add to their cells."""

from collections import Counter
from collections.abc import Sequence

from greenlang_iot.model import flags as f
from greenlang_iot.observe.catalog import BATCH_BUCKETS, STAGE_BUCKETS

READINGS = {
    "duplicate": f.DUPLICATE,
    "replayed": f.REPLAYED,
    "ts_collision": f.TS_COLLISION,
    "late": f.LATE,
    "retained": f.RETAINED,
    "clock_suspect": f.CLOCK_SUSPECT,
}
VERDICTS = {
    "scores_suspect": f.SUSPECT,
    "scores_learning": f.LEARNING,
    "second_stage_scores": f.SECOND_STAGE,
    "second_stage_shed": f.SHED,
}


def bucket(bounds: Sequence[float], value: float) -> int:
    """Index of the first bound that is not below the value; one past the last where none is."""
    return next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))


def counted(
    frame_flags: Sequence[int],
    flags: Sequence[int],
    verdict: Sequence[int],
    seconds: dict[str, float],
) -> Counter[str]:
    """By name, histograms as name:bucket and name:sum; only what is not zero."""
    messages = len(frame_flags)
    found: Counter[str] = Counter(
        messages_received=messages,
        messages_retained=sum(flag & f.FRAME_RETAIN != 0 for flag in frame_flags),
        batches=1,
    )
    for name, bit in READINGS.items():
        found[f"readings_{name}"] = sum(flag & bit != 0 for flag in flags)
    for name, bit in VERDICTS.items():
        found[name] = sum(one & bit != 0 for one in verdict)
    for stage, took in seconds.items():
        found[f"{stage}:{bucket(STAGE_BUCKETS, took)}"] += messages
    found[f"batch:{bucket(BATCH_BUCKETS, messages)}"] += 1
    return +found
