"""`python -m tests.faults.chaos [--seed N] [--runs N] [--seconds S] [--parts PART…]`: faults that overlap.

The matrix proves each fault alone. Here a seed gives a schedule: at random times random faults strike random
parts of the site, one at a time for each part, all of them side by side. When the last has ended everything must
be ready, empty and whole again. The schedule is printed; the last line is one JSON object with the seed. The same
seed and seconds give the same schedule, though not the same interleaving.
"""

import argparse
import contextlib
import heapq
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.fakes.influxdb2 import Fault, busy
from tests.faults.__main__ import COUNTED, Result, run_row
from tests.faults.alerts import CYCLE, alarms
from tests.faults.alerts import SETTINGS as ALERTS
from tests.faults.network import isolate
from tests.faults.rows import Row, one_device
from tests.faults.site import FLOODER, Field, Site
from tests.services import influxdb1, kafka_server, mosquitto_server

Act = Callable[[Field, random.Random], Iterator[str]]
FAULTS: dict[str, list[Callable[..., AbstractContextManager[str]]]] = defaultdict(list)
"""Part of the site → what can happen to it: a context manager that gives its details in words."""
CALM = {"gateway": 10.0, "broker": 15.0}
"""Seconds between two faults of a part, in the mean; 4 for others."""
LAKE = {"enabled": True, "segment_age": 3.0, "compact_every": 2.0, "segment_bytes": 65_536}
BAR = 30.0
"""Seconds from the end of the last fault until the gateway is ready and acknowledges; longer on a busy machine."""
LOST = "spool records lost"
"""Nothing here damages a spool."""
SETTINGS: list[dict[str, Any]] = [
    *({"runtime": {"shards": n}} for n in (1, 2, 3)),
    *({"spool": {"after": s}} for s in (0.0, 0.2, 3.0)),
    *({"spool": {"gather": s}} for s in (0.0, 1.0)),
    *({"spool": {"max_bytes": n, "segment_bytes": 65_536}} for n in (300_000, 1 << 30)),
    *({"sinks": {"kafka": {"compression": name}}} for name in ("none", "gzip", "zstd")),
    *({"sinks": {"kafka": {"in_flight": n, "chunk_rows": 50 * n}}} for n in (1, 8)),
    *({"sinks": {"influxdb": {"in_flight": n, "chunk_rows": 50 * n}}} for n in (1, 8)),
    *({"sinks": {"dead_letter": {"target": name}}} for name in ("files", "kafka")),
    *({"brokers": {"connections_per_shard": n}} for n in (1, 3)),
    *({"brokers": {"receive_maximum": n}} for n in (20, 65_535)),
    *({"brokers": {"protocol": name}} for name in ("3.1.1", "5")),
]
"""What a person may change before a start; `brokers` stands for the one broker of `mqtt.brokers`."""


def fault(part: str) -> Callable[[Act], Act]:
    def add(act: Act) -> Act:
        FAULTS[part].append(contextmanager(act))
        return act

    return add


# ---- the gateway's own processes ----------------------------------------------------------------


def _strike(f: Field, number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _some_shards(f: Field, chance: random.Random) -> list[int]:
    pids = f.gateway.shard_pids()
    return chance.sample(pids, chance.randint(1, len(pids))) if pids else []


@fault("shards")
def shard_killed(f: Field, chance: random.Random) -> Iterator[str]:
    pids = _some_shards(f, chance)
    _strike(f, signal.SIGSTOP, pids)
    f.may_be_sent_again()  # what it had not yet said to be delivered
    _strike(f, signal.SIGKILL, pids)
    yield f"{len(pids)}"


@fault("shards")
def shard_frozen(f: Field, chance: random.Random) -> Iterator[str]:
    pids = _some_shards(f, chance)
    with f.kafka_cut():  # answers may come too late
        _strike(f, signal.SIGSTOP, pids)
        yield f"{len(pids)}"
        _strike(f, signal.SIGCONT, pids)


@fault("gateway")
def gateway_killed(f: Field, chance: random.Random) -> Iterator[str]:
    f.down = True
    _strike(f, signal.SIGSTOP, f.gateway.shard_pids())
    f.may_be_sent_again()
    _strike(f, signal.SIGKILL, f.gateway.shard_pids())
    f.gateway.kill_all()
    yield from _start(f, chance)


@fault("gateway")
def supervisor_frozen(f: Field, chance: random.Random) -> Iterator[str]:
    process = f.gateway._process
    process.send_signal(signal.SIGSTOP)
    yield ""
    process.send_signal(signal.SIGCONT)


@fault("gateway")
def gateway_terminated(f: Field, chance: random.Random) -> Iterator[str]:
    f.down = True
    process = f.gateway._process
    process.terminate()
    yield from _start(f, chance)


def _start(f: Field, chance: random.Random) -> Iterator[str]:
    changes = chance.choice([{}, chance.choice(SETTINGS), chance.choice(SETTINGS)])
    yield json.dumps(changes)
    f.gateway._process.communicate(timeout=60)
    f.may_be_sent_again()  # what a drain could not wait for
    if broker := changes.get("brokers"):
        changes = {"mqtt": {"brokers": [f.settings["mqtt"]["brokers"][0] | broker]}}
    f.restart(changes)
    f.down = False


# ---- who runs it ----------------------------------------------------------------------------------


@fault("operator")
def device_removed(f: Field, chance: random.Random) -> Iterator[str]:
    whole = f.registry.read_text()
    document = json.loads(whole)
    document["devices"] = [d for d in document["devices"] if d["id"] != FLOODER]
    f.registry.write_text(json.dumps(document))
    _reload(f)
    yield ""
    f.registry.write_text(whole)
    _reload(f)


@fault("operator")
def devices_added(f: Field, chance: random.Random) -> Iterator[str]:
    document = json.loads(f.registry.read_text())
    first = document["devices"][0]
    count = chance.randint(1, 300)
    document["devices"] += [first | {"id": f"new-{chance.random()}"} for _ in range(count)]
    f.registry.write_text(json.dumps(document))
    _reload(f)
    yield f"{count}"
    _reload(f)


@fault("operator")
def registry_halved(f: Field, chance: random.Random) -> Iterator[str]:
    whole = f.registry.read_bytes()
    f.registry.write_bytes(whole[: len(whole) // 2])
    _reload(f)
    yield ""
    f.registry.write_bytes(whole)
    _reload(f)


def _reload(f: Field) -> None:
    """Only where somebody listens: before that SIGHUP ends a process, as it does any other."""
    if f.gateway.get("/readyz")[0]:
        f.reload()


# ---- the broker and the way to it -----------------------------------------------------------------


@fault("broker")
def broker_restarted(f: Field, chance: random.Random) -> Iterator[str]:
    f.site.mosquitto.stop()
    yield ""
    f.site.mosquitto.start()


@fault("broker")
def broker_forgets(f: Field, chance: random.Random) -> Iterator[str]:
    f.site.mosquitto.forget()
    yield ""


@fault("line")
def connections_cut(f: Field, chance: random.Random) -> Iterator[str]:
    f.proxy.hide_dup = chance.random() < 0.5
    f.proxy.cut()
    yield ""
    f.proxy.cut()
    f.proxy.hide_dup = False


@fault("line")
def connections_refused(f: Field, chance: random.Random) -> Iterator[str]:
    f.proxy.refuse()
    yield ""
    f.proxy.listen()


@fault("line")
def half_open(f: Field, chance: random.Random) -> Iterator[str]:
    f.proxy.hold = True
    yield ""
    f.proxy.hold = False


@fault("line")
def slow(f: Field, chance: random.Random) -> Iterator[str]:
    f.proxy.delay = chance.uniform(0.05, 0.5)
    yield f"{f.proxy.delay:.2f} s"
    f.proxy.delay = 0.0


@fault("line")
def acks_swallowed(f: Field, chance: random.Random) -> Iterator[str]:
    f.proxy.swallow_acks = True
    yield ""
    f.proxy.swallow_acks = False
    f.proxy.cut()


# ---- InfluxDB -------------------------------------------------------------------------------------


@fault("influxdb")
def influxdb_away(f: Field, chance: random.Random) -> Iterator[str]:
    f.site.stand_in.stop()
    yield ""
    f.site.stand_in.start()


@fault("influxdb")
def influxdb_answers(f: Field, chance: random.Random) -> Iterator[str]:
    answer = chance.choice(
        [
            busy(503),
            busy(503, "1"),
            busy(429),
            busy(429, "1"),
            Fault(400, {"code": "invalid", "message": "go away"}),
            Fault(422, {"code": "unprocessable entity", "message": "partial write: dropped=1"}),
            Fault(500, {"code": "internal error", "message": "oops"}),
            Fault(hang=True),
            Fault(reset=True),
            Fault(reset=True, written=True),
        ]
    )
    times = chance.choice([1, 3, 1_000]) if answer.status != 400 else chance.randint(1, 3)
    f.site.stand_in.fault(*[answer] * times)
    yield f"{answer} {times} times"
    f.site.stand_in.heal()


@fault("influxdb")
def influxdb_slow(f: Field, chance: random.Random) -> Iterator[str]:
    seconds = chance.choice([0.3, 1.5, 4.0])  # the time-out is 3 s
    f.site.stand_in.slow(seconds)
    yield f"{seconds} s"
    f.site.stand_in.slow(0.0)


@fault("influxdb")
def influxdb_token(f: Field, chance: random.Random) -> Iterator[str]:
    f.site.stand_in.change_token("another")
    yield ""
    f.site.stand_in.change_token(f.site.stand_in.token)


# ---- Kafka ----------------------------------------------------------------------------------------


@fault("kafka")
def kafka_away(f: Field, chance: random.Random) -> Iterator[str]:
    with f.kafka_cut():
        f.site.kafka_proxy.away = True
        f.site.kafka_proxy.cut()
        yield ""
        f.site.kafka_proxy.away = False


@fault("kafka")
def kafka_unanswered(f: Field, chance: random.Random) -> Iterator[str]:
    with f.kafka_cut():
        f.site.kafka_proxy.hold = True
        yield ""
        f.site.kafka_proxy.cut()
        f.site.kafka_proxy.hold = False


@fault("kafka")
def kafka_frozen(f: Field, chance: random.Random) -> Iterator[str]:
    with f.kafka_cut():
        os.kill(f.site.kafka.pid, signal.SIGSTOP)
        yield ""
        os.kill(f.site.kafka.pid, signal.SIGCONT)


@fault("kafka")
def kafka_slow(f: Field, chance: random.Random) -> Iterator[str]:
    with f.kafka_cut():
        f.site.kafka_proxy.delay = chance.choice([0.2, 1.5, 6.0])  # the time-out is 5 s
        yield f"{f.site.kafka_proxy.delay} s"
        f.site.kafka_proxy.delay = 0.0


@fault("kafka")
def kafka_answers(f: Field, chance: random.Random) -> Iterator[str]:
    code = chance.choice([2, 3, 5, 6, 7, 10, 19, 29, 45, 47, 56, 59, 87, 89])
    with f.kafka_cut():
        f.site.kafka_proxy.refuse(code, times := chance.choice([1, 5, 1_000]))
        yield f"error {code}, {times} times"
        f.site.kafka_proxy.refuse(0, 0)


# ---- the host -------------------------------------------------------------------------------------


@fault("disk")
def disk_full(f: Field, chance: random.Random) -> Iterator[str]:
    f.fill_disk(leave := chance.choice([0, 150_000]))
    yield f"{leave} bytes left"
    f.free_disk()


@fault("disk")
def disk_fails(f: Field, chance: random.Random) -> Iterator[str]:
    calls = ["create", "write", "sync", "sync_path", "sync_folder", "rename", "unlink"]
    some = chance.sample(calls, chance.randint(1, len(calls)))
    words = f"{chance.choice(['EIO', 'ENOSPC', 'EROFS'])} {' '.join(some)}"
    f.switch("disk", words)
    yield words
    f.switch("disk")


@fault("disk")
def disk_slow(f: Field, chance: random.Random) -> Iterator[str]:
    """As a disk of many tenants is: some syncs take a while, and others do not."""
    calls = chance.choice([["sync"], ["sync", "sync_path", "sync_folder"]])
    words = f"slow {chance.choice([0.1, 0.5, 2.0])} {' '.join(calls)}"
    f.switch("disk", words)
    yield words
    f.switch("disk")


@fault("clock")
def clock_wrong(f: Field, chance: random.Random) -> Iterator[str]:
    step = chance.choice([-3_600, -20, 20, 3_600])
    begun = time.monotonic()
    f.switch("clock", str(step))
    yield f"{step} s"
    f.switch("clock")
    f.clock_wrong.append((begun, time.monotonic() + 0.1))


# ---- the schedule -----------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Planned:
    """A fault from `begins` to `ends`, in seconds from the first; `number` gives it its own chance."""

    part: str
    act: Callable[..., AbstractContextManager[str]]
    begins: float
    ends: float
    number: int


def schedule(seed: int, seconds: float, parts: list[str]) -> list[Planned]:
    """Every part has its own faults and pauses; without `parts` the seed chooses some."""
    chance = random.Random(seed)
    chosen = parts or chance.sample(list(FAULTS), chance.randint(3, len(FAULTS)))
    planned: list[Planned] = []
    for part in chosen:
        mean = CALM.get(part, 4.0)
        at = chance.expovariate(1 / mean)
        while at < seconds:
            ends = min(seconds, at + chance.choice([0.1, 1.0, 4.0, 8.0]) * chance.uniform(0.5, 1.0))
            act = chance.choice(FAULTS[part])
            planned.append(Planned(part, act, at, ends, len(planned)))
            at = ends + chance.expovariate(1 / mean)
    return planned


def strike(plan: list[Planned], seed: int, f: Field) -> float:
    """Have it all happen; the seconds until the gateway is ready and acknowledges again."""
    moments = [(p.begins, True, p) for p in plan] + [(p.ends, False, p) for p in plan]
    begun = time.monotonic()
    lasting: dict[int, ExitStack] = {}
    with ExitStack() as everything:
        for at, begins, planned in sorted(moments, key=lambda moment: moment[0]):
            time.sleep(max(0.0, begun + at - time.monotonic()))  # the load runs meanwhile
            stack = lasting.setdefault(planned.number, everything.enter_context(ExitStack()))
            detail = "ends"
            if begins:
                chance = random.Random(f"{seed} {planned.number}")
                detail = stack.enter_context(planned.act(f, chance))
            else:
                stack.close()
            name = planned.act.__name__.replace("_", " ")
            print(f"     {time.monotonic() - begun:5.1f} {name}: {detail}", flush=True)
            _revive(plan, f)
    _revive(plan, f)
    seconds = f.recovered(timeout=BAR * 4)
    f.retired()
    f.run_for(3 * CYCLE)  # alerts that are open resolve
    assert f.load is not None
    f.load.stop()
    f.settled(BAR * 4, forgotten="broker" in {planned.part for planned in plan})
    f.alerts_settled(BAR * 4)
    _, trace, rest = f.gateway.log.read_text().partition("\nTraceback")
    assert not trace, f"a stack trace in the log: {rest[:6_000]}"
    return seconds


def _revive(plan: list[Planned], f: Field) -> None:
    """Only a disk that fails may end the gateway, and half a registry its start."""
    if ended := f.revive():
        parts = {planned.part for planned in plan}
        assert "disk" in parts or ("operator" in parts and "not JSON" in ended), ended
        print(f"     the gateway ended and is started again: {ended[-300:]}", flush=True)


def run(site: Site, seed: int, seconds: float, parts: list[str], bug: str) -> dict[str, Any]:
    plan = schedule(seed, seconds, parts)
    struck = sorted({planned.part for planned in plan})
    print(f"seed {seed}: {len(plan)} faults at {', '.join(struck)}", flush=True)
    row = Row(
        f"chaos-{seed}",
        "overlapping faults",
        partial(strike, plan, seed),
        bar=BAR,
        seeded=bug,
        loses_broker="broker" in struck,
        extra=lambda: heapq.merge(
            one_device(20, int(20 * seconds)),
            alarms(20 * seconds),
            key=lambda message: message.when,
        ),
        seconds=seconds * 20,
        options={
            "influx": "2",
            "proxied": True,
            "switched": True,
            "disk": "64m",
            "alerts": True,
            "settings": {"sinks": {"lake": LAKE}, "alerts": ALERTS},
        },
    )
    result = run_row(site, row, seeded=bool(bug))
    site.stand_in.heal()
    return report(result, seed, seconds, struck, len(plan))


def report(
    result: Result, seed: int, seconds: float, struck: list[str], faults: int
) -> dict[str, Any]:
    verdict = result.verdict
    result.problems += [error for error in result.errors if error.startswith(LOST)]
    if verdict.letters_unexplained:
        result.problems.append(f"{verdict.letters_unexplained} dead letters have no reason")
    for line in (*result.problems, *verdict.examples, *result.errors):
        print(f"     {line}")
    return {
        "seed": seed,
        "seconds": seconds,
        "faults": faults,
        "parts": struck,
        "acked": verdict.acked,
        "acked_lost": verdict.acked_lost,
        "unexplained_duplicates": verdict.unexplained_duplicates,
        "duplicates": verdict.duplicates,
        "alert_transitions": result.alerts,
        "recovery": result.recovery and round(result.recovery, 1),
        "load": round(result.load, 1),
        **{name: int(result.counts.get(name, 0)) for name in COUNTED},
        "problems": [problem.partition("\n")[0][:200] for problem in result.problems],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1, help="so many seeds, from --seed on")
    parser.add_argument("--seconds", type=float, default=30.0, help="of faults, in each run")
    parser.add_argument("--parts", nargs="*", default=[], choices=list(FAULTS))
    parser.add_argument(
        "--folder", type=Path, help="keep what the servers and gateways leave there"
    )
    parser.add_argument(
        "--bug", default="", help="one of tests.faults.seeded, which must be noticed"
    )
    given = parser.parse_args()
    for why in (mosquitto_server.missing(), kafka_server.missing(), influxdb1.missing()):
        if why:
            sys.exit(why)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are stopped on the way
    isolate()
    failed = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        site = Site(given.folder or Path(folder) / "site")
        try:
            for seed in range(given.seed, given.seed + given.runs):
                told = run(site, seed, given.seconds, given.parts, given.bug)
                print(json.dumps(told), flush=True)
                failed += [seed] if told["problems"] else []
        finally:
            site.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
