"""Which rows the second stage looks at, row by row: what `detect/kernels_bank.choose` must find."""

from collections.abc import Sequence

from greenlang_iot.model.flags import LEARNING, NOT_LEARNT, SECOND_STAGE, SHED, SUSPECT


def choose(
    verdict: Sequence[int],
    flags: Sequence[int],
    sample: int,
    stride: int,
    earns: float,
    purse: float,
    most: float,
    *,
    ready: bool,
) -> tuple[list[int], list[bool], list[int], float]:
    """Rows, whether each is of the sample, the verdicts after it, and what is left; budgets in observations."""
    rows, sampled, after = [], [], list(verdict)
    for row, (verdict_of, flags_of) in enumerate(zip(verdict, flags, strict=True)):
        purse = min(purse + earns, most)
        is_sample = row >= sample and (row - sample) % stride == 0
        is_sample = is_sample and not (verdict_of & (SUSPECT | LEARNING) or flags_of & NOT_LEARNT)
        if not is_sample and not verdict_of & SUSPECT:
            continue
        if purse < 1 or not ready:
            after[row] |= SHED
            continue
        purse -= 1
        after[row] |= SECOND_STAGE
        rows.append(row)
        sampled.append(is_sample)
    return rows, sampled, after, purse
