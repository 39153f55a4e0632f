"""The verdict on one row: acked on the wire ⊆ each required sink ∪ its spool ∪ dead letter. Pure."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from tests.faults.proxy import Key
from tests.faults.readers import Found

from greenlang_iot.simulate.manifest import Message, Reading

EXAMPLES = 5
FLOOD = "flood"
"""Kind of a message that may be over the rate of its device."""


@dataclass(slots=True)
class Verdict:
    """Counts of messages, but for `duplicates…`: copies of readings in Kafka.

    explained_by_forward: the proxy forwarded the message more than once. explained_by_cut: a request
    to Kafka was cut without an answer while the reading was on its way. digested: dead letters of
    which only a digest was kept; as many acked messages may be missing from the dead letters.
    letters_unexplained: dead letters of messages that were good, or that nobody published.
    unknown: acked messages that nobody published. unacked: messages that the broker confirmed and the
    gateway never acknowledged. stray_acks: PUBACKs of packets that were not open.
    """

    acked: int = 0
    acked_lost: int = 0
    unknown: int = 0
    unacked: int = 0
    stray_acks: int = 0
    digested: int = 0
    letters_unexplained: int = 0
    duplicates: int = 0
    explained_by_forward: int = 0
    explained_by_cut: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def unexplained_duplicates(self) -> int:
        return self.duplicates - self.explained_by_forward - self.explained_by_cut


def judge(
    sent: Mapping[Key, Message],
    forwarded: Counter[Key],
    acked: Counter[Key],
    found: Found,
    cut: set[Key],
    required: Collection[str] = ("kafka", "influxdb"),
    doubtful: Collection[Key] = (),
) -> Verdict:
    """sent: what was published. cut: messages that a cut request to Kafka may have held. required:
    sinks that must have what was acknowledged. doubtful: good messages that may be dead letters all the same."""
    verdict = Verdict(acked=len(acked))
    missing_letters = 0
    for key in acked:
        message = sent.get(key)
        if message is None:
            verdict.unknown += 1
            continue
        lost = _missing(message, found, required)
        # What floods is over a rate: a dead letter, or in the digest, where it is nowhere else.
        refused = bool(lost) and (message.kind == FLOOD or key in doubtful)
        if refused:
            lost = []
        if (message.rejects or refused) and key not in found.letters:
            missing_letters += 1
            if missing_letters > found.digested:
                lost.append("dead letter")
        if lost:
            verdict.acked_lost += 1
            if len(verdict.examples) < EXAMPLES:
                verdict.examples.append(f"{key[0]} {key[1][:120]!r}: not in {', '.join(lost)}")
    verdict.digested = min(missing_letters, found.digested)
    for letter in found.letters:
        origin = sent.get(letter)
        good = origin is not None and not origin.rejects
        if origin is None or (good and origin.kind != FLOOD and letter not in doubtful):
            verdict.letters_unexplained += 1
            if len(verdict.examples) < EXAMPLES:
                verdict.examples.append(f"a dead letter without a reason: {letter}"[:300])
    _count_duplicates(verdict, sent, forwarded, found, cut)
    return verdict


def _missing(message: Message, found: Found, required: Collection[str]) -> list[str]:
    places = []
    for reading in message.readings:
        if "kafka" in required and not (
            reading in found.kafka
            or reading in found.spooled_kafka
            or reading in found.refused_kafka
        ):
            places.append(f"kafka ({reading.metric})")
        identity = reading.device, reading.metric, reading.ts_ns
        if "influxdb" in required and not (
            identity in found.influx
            or identity in found.spooled_influx
            or identity in found.refused_influx
        ):
            places.append(f"influxdb ({reading.metric})")
        if "lake" in required and identity not in found.lake:
            places.append(f"lake ({reading.metric})")
    return places


def _count_duplicates(
    verdict: Verdict,
    sent: Mapping[Key, Message],
    forwarded: Counter[Key],
    found: Found,
    cut: set[Key],
) -> None:
    forwards: Counter[Reading] = Counter()
    in_cut: set[Reading] = set()
    for key, message in sent.items():
        for reading in set(message.readings):
            forwards[reading] += forwarded[key]
            if key in cut:
                in_cut.add(reading)
    for reading, copies in found.kafka.items():
        extra = copies - 1
        if extra <= 0:
            continue
        by_forward = min(extra, max(0, forwards[reading] - 1))
        verdict.duplicates += extra
        verdict.explained_by_forward += by_forward
        if reading in in_cut:
            verdict.explained_by_cut += extra - by_forward
        elif extra > by_forward and len(verdict.examples) < EXAMPLES:
            verdict.examples.append(
                f"{reading}: {copies} copies, forwarded {forwards[reading]} times"
            )
