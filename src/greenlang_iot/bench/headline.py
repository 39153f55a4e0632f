"""The headline: CPU of one whole gateway per message, everything on, as a ratio to the unit.

Runs, each with processes of its own: the shipped production profile; the same with both sinks away, so that
every chunk is spooled and acknowledged after its fsync; with zstd; with one message in a TLS record; and
what one writes by hand.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from greenlang_iot.bench import peers, rung
from greenlang_iot.bench.rung import Outcome, Rung
from greenlang_iot.bench.stage import Setup
from greenlang_iot.bench.workload import PACKET

EVERYTHING = "everything on"
ZSTD = {"sinks": {"kafka": {"compression": "zstd"}}}


@dataclass(slots=True, frozen=True)
class Options:
    """seconds of load that count; sustain: seconds without a pause; devices, with one series each;
    record_bytes: of a TLS record."""

    seconds: float = 20.0
    sustain: float = 60.0
    devices: int = 10_000
    record_bytes: int = 16_384
    spool: bool = True
    zstd: bool = True
    small_records: bool = True
    by_hand: bool = True


def headline(options: Options, say: Callable[[str], None]) -> Outcome:
    """Run all that is asked for, telling `say` what comes next; raises GatewayError where a process does
    not start. `row` has the spool's, zstd's, small records' and the one by hand in it."""
    first = Rung(EVERYTHING, setup=Setup(options.devices, options.record_bytes))
    small = replace(first.setup, record_bytes=PACKET)
    # a quarter of the seconds: a second of spooled load is a gigabyte on disk
    others = {
        "spool": (options.spool, rung.spooled(first)),
        "zstd": (options.zstd, Rung("Kafka zstd", ZSTD, first.setup)),
        "small_records": (options.small_records, Rung("a message a TLS record", {}, small)),
    }
    say(EVERYTHING)
    done = rung.run(first, options.seconds, options.sustain)
    for key, (wanted, other) in others.items():
        if wanted:
            say(other.name)
            outcome = rung.run(other, options.seconds / 4)
            done.row[key] = outcome.row
            done.wrong += [f"{other.name}: {sentence}" for sentence in outcome.wrong]
    if options.by_hand:
        say("by hand")
        done.row["by_hand"] = peers.run(peers.BY_HAND, min(options.seconds / 10, 3.0)).row
    return done
