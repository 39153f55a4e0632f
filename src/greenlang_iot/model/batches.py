"""The columns that travel through a shard. Every column is a contiguous 1-D array of length `n`.

Messages and readings are counted apart everywhere: one MQTT message may hold many readings.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.pieces import Body, Pieces

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I16 = npt.NDArray[np.int16]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

SLACK = 64
"""Bytes that are readable before and after every buffer region given to a kernel (wide loads)."""


@dataclass(slots=True)
class FrameBatch:
    """PUBLISH packets of one flush of one connection, as offsets into its receive buffer.

    The buffer is only valid until the pipeline returns: whoever keeps bytes must copy them.
    Topic aliases are resolved already: `topic_off` always points at a full topic.
    """

    connection: int  # number of the connection (never reused in a process; 0 is nobody)
    buffer: U8
    n: int
    topic_off: I32
    topic_len: I32
    payload_off: I32
    payload_len: I32
    packet_id: U16  # 0 = QoS 0
    flags: U8  # model.flags.FRAME_*
    received_ns: int = 0  # wall clock (ns since 1970) when the flush began
    received: float = 0.0  # monotonic seconds when its first bytes came, or reading went on
    cut: bool = False  # some frame has FRAME_CUT
    _nbytes: int | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        """Of topics and payloads, an alias counted as its topic. Below 2³², as a flush is."""
        if self._nbytes is None:
            add, u32, n = np.add.reduce, np.uint32, self.n
            topics = add(self.topic_len[:n].view(u32), dtype=u32)
            self._nbytes = int(topics) + int(add(self.payload_len[:n].view(u32), dtype=u32))
        return self._nbytes

    def topic(self, frame: int) -> bytes:
        start = int(self.topic_off[frame])
        return self.buffer[start : start + int(self.topic_len[frame])].tobytes()

    def payload(self, frame: int) -> bytes:
        start = int(self.payload_off[frame])
        return self.buffer[start : start + int(self.payload_len[frame])].tobytes()


@dataclass(slots=True)
class ReadingBatch:
    """Valid readings of one FrameBatch, in (message, document) order.

    The value's JSON text is `(arena if flags & TEXT_IN_ARENA else buffer)[text_off:text_off+text_len]`;
    it is always the text of a JSON number, and parsing it as float64 gives `value` bit for bit
    (a converted value has its shortest round-trip text in the arena).
    """

    n: int
    series: I32  # index into Directory's series columns
    ts_ns: I64  # event time, ns since 1970
    value: F64
    seq: I64  # meaningful only with HAS_SEQ
    flags: U16
    frame: I32  # which frame of the FrameBatch
    text_off: I32
    text_len: I16
    buffer: U8
    arena: U8
    connection: int
    received_ns: int


@dataclass(slots=True)
class ScoreBatch:
    """Scores of a ReadingBatch, row by row.

    score: −log10 of the share of normal readings at least as extreme (0 = ordinary, ≥ 0, finite).
    expected, band: the detector's expectation and half width (value within expected ± band is normal);
    NaN while learning. Outside a batch the score is `1 − 10**−score`, in [0, 1].
    """

    n: int
    score: F32
    detector: U8
    verdict: U8
    expected: F32
    band: F32


@dataclass(slots=True)
class Reject:
    """What was rejected of one message: the dead letter keeps its original bytes.

    paths: (path in the document, reason), for example ("values.temperature", "out_of_range");
    for a message-level reason one entry with path "".
    readings: number of readings rejected (0 for a message-level reason).
    series: per entry of `paths` the series index, or −1 where it is not known.
    """

    topic: bytes
    payload: bytes
    device: str  # "" where it is not known
    paths: list[tuple[str, str]]
    readings: int
    series: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)  # per entry; NaN where there is none
    ts_ns: list[int] = field(default_factory=list)  # per entry; 0 where there is none


@dataclass(slots=True, frozen=True)
class Publication:
    """A message that the gateway publishes of its own accord, at QoS 0."""

    topic: str
    payload: bytes


@dataclass(slots=True)
class Decoded:
    """Everything that became of a FrameBatch: messages = decoded + undecodable."""

    readings: ReadingBatch
    rejects: list[Reject]
    messages: int
    undecodable: int  # messages with a message-level reject
    fast: int  # messages that took the kernel path (the rest took the general one)
    gaps: int = 0  # messages that the sequence numbers of a format say are missing
    publications: list[Publication] = field(default_factory=list)


@dataclass(slots=True)
class Chunk:
    """Encoded bytes for one sink, covering the tickets first..last (inclusive) of the ack ledger.

    `body` is self-contained: the spool stores it as it is and the sink can send it after a restart.
    A chunk read back from the spool has no tickets (first > last).
    """

    body: Body | Pieces
    rows: int  # readings (or records) in the body
    first_ticket: int
    last_ticket: int
    received: float  # monotonic seconds when its oldest row was received; 0 = read back
