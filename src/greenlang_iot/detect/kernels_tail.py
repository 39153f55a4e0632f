"""What a score is worth here: a raw score against the tail of the series' own raw scores.

A raw score is the −log10 of a tail share for well-behaved noise. A series that wanders, or whose noise
has a heavy tail, reaches it more often. Two figures a series say how often: the raw score that one
normal reading in a hundred exceeds (`start`), and by how much such readings exceed it on average
(`excess`). Both are followed online, and the tail beyond is taken for exponential.

A series is believed as far as it was seen: the figures count for nothing at first and for all of it
after so many readings. Scores are only ever lowered. What was just told as an anomaly is not learnt,
and one reading never counts for more than CLIP usual excesses, so that an anomaly is no habit.
"""

from greenlang_iot.model.jit import fused

SHARE = 0.01
"""Share of readings beyond `start`."""
START = 2.0
"""−log10 of it: where it is for well-behaved noise."""
EXCESS = 0.4342944819032518
"""Mean excess of a score that is exactly a −log10: that of a decade."""
CLIP = 4.0
PRIOR = 20.0
"""Readings beyond `start` that the first figures count for."""
LEAST = 1.0
"""`start` never sinks below."""
SMALLEST = 0.05
"""`excess` never sinks below: a series without noise has no tail."""


@fused
def lowered(raw: float, start: float, excess: float, light: float, belief: float) -> float:
    """The score of a raw one.

    light: mean excess up to which no tail counts as heavier than that of a −log10 (EXCESS or more).
    belief: from 0, the score as it is, to 1, the score that the series' own tail says.
    """
    if raw > start:
        own = START + (raw - start) * (light / excess)
    else:
        own = raw * (START / start)
    return raw + belief * min(own - raw, 0.0)


@fused
def raised(score: float, start: float, excess: float, light: float, belief: float) -> float:
    """The raw score that `lowered` makes this of."""
    doubt = 1.0 - belief
    # both sides of the fraction times `excess`
    above = score * excess - belief * (START * excess - start * light)
    at_start = doubt * start + belief * START
    far = above / (doubt * excess + belief * light)
    return max(score, far if score > at_start else score * start / at_start)


@fused
def pace(seen: int) -> float:
    """How fast `start` and `excess` move after so many readings."""
    return 1.0 / (seen * SHARE + PRIOR)


@fused
def beyond(raw: float, start: float, excess: float, rate: float) -> tuple[float, float]:
    """`start` and `excess` after a reading. rate: the `pace` before it."""
    if raw <= start:
        return max(start - rate * SHARE * excess, LEAST), excess
    excess = max(excess + rate * (min(raw - start, CLIP * excess) - excess), SMALLEST)
    return start + rate * (1.0 - SHARE) * excess, excess
