"""One shard's whole way, top to bottom: `Pipeline.process` is the life of a batch.

Everything in `process` is synchronous: when it returns, every byte that is still needed has been copied
into an open chunk, a dead letter or the outbox, and the receive buffer may be reused. Runners, dead letter
and outbox settle tickets later; `_settle` turns that into PUBACKs in receive order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from greenlang_iot.acks.ledger import Ledger
from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model.batches import (
    U16,
    Decoded,
    FrameBatch,
    Publication,
    ReadingBatch,
    Reject,
    ScoreBatch,
)
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.quality.counter import QualityCounter
from greenlang_iot.sinks.runner import Runner

# Bits of the ledger: who has to settle a ticket.
INFLUXDB, KAFKA, LAKE, DEAD_LETTER, OUTBOX = 1, 2, 4, 8, 16


class DeadLetters(Protocol):
    """Where rejects go; the ticket settles when they are durable."""

    def submit(self, rejects: Sequence[Reject], received_ns: int, ticket: int) -> None: ...


class AlertOutbox(Protocol):
    """Where transitions go; the ticket (0 = none) settles when they are durable."""

    def submit(self, transitions: Sequence[Transition], ticket: int) -> None: ...


class StageSeconds(NamedTuple):
    """How long the stages of one batch took."""

    decode: float
    score: float
    alert: float
    encode: float  # for all sinks, and what goes to dead letter and outbox


class PipelineMeter(Protocol):
    """What a batch reports, once."""

    def batch(
        self, frames: FrameBatch, decoded: Decoded, scores: ScoreBatch, seconds: StageSeconds
    ) -> None: ...
    def transitions(self, transitions: Sequence[Transition]) -> None: ...
    def acked(self, messages: int, seconds: float) -> None: ...


@dataclass(slots=True)
class Clock:
    """Wall and monotonic time, given so that tests can move them."""

    wall_ns: Callable[[], int]
    monotonic: Callable[[], float]


class Pipeline:
    """Decode, score, alert, encode, and open the ticket that the acknowledgements wait for."""

    def __init__(
        self,
        decoder: Decoder,
        detector: Detector,
        alerter: Alerter,
        quality: QualityCounter | None,
        ledger: Ledger,
        runners: Sequence[Runner],
        dead_letters: DeadLetters,
        outbox: AlertOutbox,
        meter: PipelineMeter,
        acknowledge: Callable[[int, U16], None],
        publish: Callable[[int, Sequence[Publication]], None],
        clock: Clock,
    ) -> None:
        self.decoder = decoder
        self.detector = detector
        self.alerter = alerter
        self.quality = quality
        self.ledger = ledger
        self.runners = list(runners)
        self.clock_suspect: Callable[[int, float], bool] = lambda wall_ns, monotonic: False
        self._directory = decoder.directory
        self._dead_letters = dead_letters
        self._outbox = outbox
        self._meter = meter
        self._acknowledge = acknowledge
        self._publish = publish
        self._clock = clock
        self._required = sum(runner.bit for runner in self.runners if runner.required)

    def process(self, frames: FrameBatch) -> None:
        """Take one flush of one connection through to open chunks."""
        now_ns, monotonic = self._clock.wall_ns(), self._clock.monotonic
        begun = monotonic()
        decoded = self.decoder.decode(frames, now_ns, self.clock_suspect(now_ns, begun))
        if self.decoder.directory is not self._directory:
            self.grow(self.decoder.directory)
        decoded_at = monotonic()
        readings = decoded.readings
        scores = self.detector.score(readings)
        if self.quality is not None:
            self.quality.count(readings, scores, decoded.rejects)
        scored_at = monotonic()
        transitions = self.alerter.evaluate(readings, scores)
        if decoded.rejects:
            transitions += self.alerter.evaluate_rejects(decoded.rejects)
        alerted_at = monotonic()

        ticket = self._open_ticket(frames, decoded, bool(transitions))
        self._append(readings, scores, ticket, frames.received)
        if decoded.rejects:
            self._dead_letters.submit(decoded.rejects, frames.received_ns, ticket)
        if transitions:
            self._outbox.submit(transitions, ticket)
            self._meter.transitions(transitions)
        if decoded.publications:
            self._publish(frames.connection, decoded.publications)
        took = StageSeconds(
            decoded_at - begun,
            scored_at - decoded_at,
            alerted_at - scored_at,
            monotonic() - alerted_at,
        )
        self._meter.batch(frames, decoded, scores, took)
        self.settle(0, ticket, ticket)

    def settle(self, bit: int, first: int, last: int) -> None:
        """`bit` (0: nobody) is done with these tickets: acknowledge what is free, in receive order."""
        for connection, packet_ids, opened in self.ledger.settle(bit, first, last):
            self._acknowledge(connection, packet_ids)
            self._meter.acked(len(packet_ids), self._clock.monotonic() - opened)

    def announce(self, transitions: Sequence[Transition]) -> None:
        """Alerts that no message caused: silence, outages, the clock."""
        if transitions:
            self._outbox.submit(transitions, 0)
            self._meter.transitions(transitions)

    def grow(self, directory: Directory) -> None:
        """Go on with a newer Directory in which known series keep their index."""
        self._directory = directory
        self.detector.grow(directory)
        if self.quality is not None:
            self.quality.grow(directory)
        self.announce(self.alerter.grow(directory))
        for runner in self.runners:
            runner.grow(directory)

    def reload(self, directory: Directory) -> None:
        """Go on with a reloaded Directory, made from the decoder's: known series keep their index.

        What is in open chunks belongs to the names that held when it came, so chunks end here.
        """
        for runner in self.runners:
            runner.seal()
        self.decoder.grow(directory)
        self.grow(directory)

    def _open_ticket(self, frames: FrameBatch, decoded: Decoded, alerts: bool) -> int:
        required = self._required if decoded.readings.n else 0
        if decoded.rejects:
            required |= DEAD_LETTER
        if alerts:
            required |= OUTBOX
        return self.ledger.open(
            frames.connection,
            frames.packet_id[: frames.n],
            required,
            frames.nbytes,
            frames.received,
        )

    def _append(
        self, readings: ReadingBatch, scores: ScoreBatch, ticket: int, received: float
    ) -> None:
        if readings.n == 0:
            return
        for runner in self.runners:
            runner.append(readings, scores, ticket, received)
