"""Bits of the flag columns. Plain ints, so that kernels can use them as constants."""

# FrameBatch.flags (uint8)
FRAME_RETAIN = 1
FRAME_DUP = 2
FRAME_CUT = 4
"""The message was over the largest packet: what is here of its payload is its first bytes."""
CUT = 1_024
"""As many as are kept of such a message."""

# ReadingBatch.flags (uint16)
HAS_SEQ = 1
"""`seq` of this row is meaningful."""
TEXT_IN_ARENA = 2
"""The value's text lies in `ReadingBatch.arena`, not in `ReadingBatch.buffer`."""
CONVERTED = 4
"""The value was converted from another unit."""
CLOCK_SUSPECT = 8
"""The gateway's own clock stepped; time verdicts are suspended."""
RETAINED = 16
"""Came from a retained message: delivered and counted, not learnt."""
DUPLICATE = 32
"""Same identity and value, first seen on this connection: not delivered again, not learnt."""
REPLAYED = 64
"""Same identity and value, first seen on another connection or before a restart: delivered, not learnt."""
TS_COLLISION = 128
"""Same identity, another value: delivered, counted, not learnt."""
LATE = 256
"""Older than the series' memory: delivered, counted, not learnt."""

NOT_LEARNT = RETAINED | DUPLICATE | REPLAYED | TS_COLLISION | LATE

# ScoreBatch.verdict (uint8)
SUSPECT = 1
"""The score passed the series' threshold."""
LEARNING = 2
"""The series' detectors are warming up; the score is 0 and nothing is suspect."""
SHED = 4
"""The second stage was due but over its budget; the first stage's score stands."""
SECOND_STAGE = 8
"""The second stage looked at this reading."""
TOLD = 16
"""Suspect, and so was this series a short while ago: it extends an anomaly and is not a new one."""
HABIT = 32
"""Told as well, because it comes at this time of every day."""
FARTHER = 64
"""Told as well, but much farther off than what was far off before it: it opens an alert."""

# ScoreBatch.detector (uint8): which detector decided the score
DETECTOR_NONE = 0
DETECTOR_SPIKE = 1
DETECTOR_RATE = 2
DETECTOR_STUCK = 3
DETECTOR_RANGE = 4
DETECTOR_SILENCE = 5
DETECTOR_SHIFT = 6
DETECTOR_RIVER = 7
DETECTOR_CONTEXT = 8
DETECTOR_SWING = 9
DETECTOR_NAMES = (
    "none",
    "spike",
    "rate",
    "stuck",
    "range",
    "silence",
    "shift",
    "river",
    "context",
    "swing",
)
