"""Latency: from the moment a message is due at the loader to its PUBACK there, at low rates and shares of capacity and with
sinks that answer at once or late, and what a message costs then. Beside it the same without what was due while the machine stalled and until that was
worked off (`stalls`).
"""

import json
import time
from collections.abc import Callable

from greenlang_iot.bench import rung
from greenlang_iot.bench.ladders import Ladder
from greenlang_iot.bench.measure import sustain, wait_for_empty_spool
from greenlang_iot.bench.processes import cpu_ns, family
from greenlang_iot.bench.rung import Rung
from greenlang_iot.bench.stage import Setup, Stage
from greenlang_iot.bench.stalls import felt, watch
from greenlang_iot.model.errors import GatewayError

SHARES = (0.1, 0.5, 0.8, 0.95)
RATES = (1_000, 10_000, 50_000)
DELAYS_MS = (0, 5, 20)


TRIES = 4


def _capacity(measured: Callable[[float], float], seconds: float) -> float:
    """Messages a second; over twice the time where a stall took all of it. Raises GatewayError."""
    for n in range(TRIES):
        if capacity := measured(seconds * 2**n):
            return capacity
    raise GatewayError(
        f"Nothing was acknowledged within {seconds * 2 ** (TRIES - 1):g} s: a machine that stands still "
        "cannot be measured."
    )


def run(seconds: float, say: Callable[[str], None], kafka: str = "", influxdb: str = "") -> Ladder:
    """Capacity first, over so many seconds; then every rate for as long.

    kafka, influxdb: addresses of real servers in the place of a sink of ours; then no sink is late but for what they need.
    """
    done = Ladder()
    setup = Setup(kafka=kafka, influxdb=influxdb)
    real = " and ".join(name for name, at in (("Kafka", kafka), ("InfluxDB", influxdb)) if at)
    with rung.stage_of(setup) as stage:
        gateway, _ = rung.started(stage, Rung("latency"))
        pids = family(gateway.process.pid)
        capacity = _capacity(lambda longer: sustain(stage, longer, {})["messages_per_s"], seconds)
        say(f"capacity: {capacity:,} messages/s")
        rates = {f"{share:.0%} of capacity": capacity * share for share in SHARES}
        for delay in (0,) if real else DELAYS_MS:
            for sink in (stage.influxdb, stage.kafka):
                sink.ask(f"delay {delay / 1000}")
            low = {f"{rate:,} a second": rate for rate in (RATES[-1:] if delay else RATES)}
            for name, rate in (low | rates).items():
                title = f"{name}, real {real}" if real else f"{name}, sinks +{delay} ms"
                say(title)
                row = _at(stage, pids, rate, seconds, capacity)
                done.rows.append({"name": title, "asked": round(rate)} | row)
        wait_for_empty_spool(stage)
        done.wrong += _unverified(stage)
    return done


def _unverified(stage: Stage) -> list[str]:
    """What does not agree: all is acknowledged in order, and the real servers hold all of it."""
    counts = stage.loader.ask()
    wrong = []
    if counts["sent"] != counts["acked"] or counts["disorder"] or counts["lost"]:
        wrong.append(f"acknowledgements: {counts}")
    held = stage.arrived() if stage.setup.kafka or stage.setup.influxdb else {}
    return wrong + [
        f"{sink} holds {n} of {counts['acked']} messages"
        for sink, n in held.items()
        if n != counts["acked"]
    ]


def _at(
    stage: Stage, pids: list[int], rate: float, seconds: float, capacity: float
) -> dict[str, float]:
    stage.loader.ask(f"rate {rate}")
    stage.loader.ask("go")
    time.sleep(min(1.0, seconds))
    before, used = stage.loader.ask("fresh"), cpu_ns(pids)
    found = watch(seconds, stage.other_cores)
    stage.loader.ask("beside " + json.dumps(felt(found, rate / capacity)))
    after, used = stage.loader.ask(), cpu_ns(pids) - used
    stage.loader.ask("pause")
    taken = after["time"] - before["time"]
    messages = after["acked"] - before["acked"]
    beside = {f"{k} beside": v for k, v in after["latency_beside_ms"].items() if k != "max"}
    figures = {k: round(v, 2) for k, v in (after["latency_ms"] | beside).items()}
    stalled = sum(b - a for a, b in found) / taken
    cost = {"cpu_ns_per_message": round(used / max(messages, 1))}
    return (
        {"messages_per_s": round(messages / taken)}
        | figures
        | {"stalled": round(stalled, 4)}
        | cost
    )
