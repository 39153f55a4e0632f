"""The rows of the fault matrix: what is done to the gateway, and what it must do then.

A row's function is called under load and returns the seconds from the end of the cause to the recovery
(None: there is nothing to recover from, or nothing that can).
"""

import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tests.fakes.influxdb2 import Fault, busy
from tests.faults.check import FLOOD
from tests.faults.kafka_proxy import NOT_ENOUGH_REPLICAS, NOT_LEADER, OUT_OF_ORDER, UNKNOWN_PRODUCER
from tests.faults.network import Network, lossy_missing, missing
from tests.faults.site import FLOODER, TOPIC_SETTINGS, Field, slack

from greenlang_iot.simulate.fleet import FleetOptions, fleet_registry
from greenlang_iot.simulate.manifest import Message, Reading

Act = Callable[[Field], float | None]


@dataclass(slots=True, frozen=True)
class Row:
    """One row.

    bar: most seconds of recovery. seeded: the bug (tests.faults.seeded)
    with which the row was seen failing. short: part of the short form. drains: ends with nothing
    unacknowledged. loses_broker: the broker itself may forget messages it had confirmed. ready: the
    gateway can be ready before the fault. extra: messages to publish beside the fleet's. says, logs:
    words that /readyz and the log must have said. counts: a metric that must have counted. explains: words of an error
    that would be a mistake of ours without this fault. needs: why it cannot run here, or nothing.
    seconds: the load lasts at most so long.
    """

    name: str
    what: str
    act: Act
    bar: float = 5.0
    seeded: str = ""
    short: bool = False
    drains: bool = True
    loses_broker: bool = False
    ready: bool = True
    extra: Callable[[], Iterable[Message]] = tuple
    says: str = ""
    logs: str = ""
    counts: str = ""
    explains: str = ""
    needs: Callable[[], str] = str
    seconds: float = 120.0
    options: dict[str, Any] = field(default_factory=dict)


START = 10.0
"""Bar in seconds of rows that end with the start of a whole gateway, from the start of its process."""
ROWS: list[Row] = []


def row(what: str, **options: Any) -> Callable[[Act], Act]:
    def add(act: Act) -> Act:
        ROWS.append(Row(act.__name__.replace("_", "-"), what, act, **options))
        return act

    return add


# ---- the gateway's own processes ----------------------------------------------------------------


@row("no fault", seeded="forgets_chunks")
def no_fault(f: Field) -> None:
    return None


@row(
    "SIGKILL of a shard",
    bar=10.0,
    short=True,
    seeded="acks_first",
    says="shard",  # it "is not running", or is back so soon that it only "has 0 of 2 connections subscribed"
    logs="shard restarts",
)
def shard_killed(f: Field) -> float:
    killed = time.monotonic()
    f.proxy.hold_new = True  # else it may be back before anybody has asked /readyz
    f.replaced(f.kill_shard(), 40)
    f.wait(lambda: bool(f.said), 10, "found not ready")
    f.proxy.hold_new = False
    return f.recovered(killed)


@row(
    "SIGKILL of the supervisor (its shards die with it), then a start",
    bar=START,
    seeded="acks_first",
)
def supervisor_killed(f: Field) -> float:
    f.kill_all()
    f.restart()
    return f.recovered()


@row("SIGKILL of every process at once, then a start", bar=START, short=True, seeded="acks_first")
def all_killed(f: Field) -> float:
    for pid in f.gateway.shard_pids():
        os.kill(pid, signal.SIGKILL)
    f.kill_all()
    f.restart()
    return f.recovered()


@row("SIGTERM under load, then a start", bar=START, seeded="drain_forgets")
def terminated(f: Field) -> float:
    f.gateway.stop()
    f.restart()
    return f.recovered()


@row("SIGTERM right after the start, then a start", bar=START, seeded="drain_forgets")
def terminated_early(f: Field) -> float:
    f.gateway.stop()
    for pause in (0.0, 0.3, 1.0, 2.0, 3.0):
        f.restart()
        f.run_for(pause)
        f.stop_early()
    f.restart()
    return f.recovered()


@row(
    "SIGSTOP of a shard: the heartbeat is missed and it is replaced",
    bar=10.0,
    seeded="acks_first",
    says="has not ticked",
    logs="shard stopped beating",
)
def shard_frozen(f: Field) -> float:
    victim = f.gateway.shard_pids()[0]
    os.kill(victim, signal.SIGSTOP)
    f.replaced(victim, 40)
    return f.recovered()


@row(
    "two shards become one while both sinks are down: what they left is adopted",
    bar=START,
    logs="a spool of an earlier layout is delivered",
    seeded="no_adoption",
)
def fewer_shards(f: Field) -> float:
    return _other_layout(f, 1)


@row("two shards become three while both sinks are down", bar=START, seeded="forgets_backlog")
def more_shards(f: Field) -> float:
    return _other_layout(f, 3)


def _other_layout(f: Field, shards: int) -> float:
    with f.kafka_cut():
        f.site.kafka.stop()
        f.site.influx.stop()
        f.wait(lambda: f.spool_records() > 3, 20, "spooling")
        f.run_for(1.0)
        f.gateway.stop()
        f.site.kafka.start()
        f.site.influx.start()
    f.restart({"runtime": {"shards": shards}})
    seconds = f.recovered()
    f.retired()
    return seconds


@row(
    "the gateway starts while both sinks are down",
    bar=START,
    seeded="forgets_backlog",
)
def started_without_sinks(f: Field) -> float:
    with f.kafka_cut():
        f.gateway.stop()
        f.site.kafka.stop()
        f.site.influx.stop()
        f.restart()
        f.wait(lambda: f.spool_records() > 3, 30, "spooling")
        f.run_for(1.0)
        f.site.kafka.start()
        f.site.influx.start()
    return f.recovered()


@row(
    "SIGTERM while Kafka is frozen and InfluxDB is down, then a start",
    bar=START,
    seeded="forgets_backlog",
)
def terminated_without_sinks(f: Field) -> float:
    with f.kafka_cut():
        os.kill(f.site.kafka.pid, signal.SIGSTOP)
        f.site.influx.stop()
        f.run_for(0.5)
        f.gateway.stop()
        os.kill(f.site.kafka.pid, signal.SIGCONT)
        f.site.influx.start()
    f.restart()
    return f.recovered()


# ---- the broker ---------------------------------------------------------------------------------


@row(
    "every connection to the broker is cut",
    seeded="stale_acks",
    says="connections subscribed",
    logs="not_connected",
)
def connections_cut(f: Field) -> float:
    f.proxy.cut()
    return f.recovered()


@row("connections are cut 10 times in 5 s", counts="disconnects", seeded="stale_acks")
def connections_cut_often(f: Field) -> float:
    for _ in range(10):
        f.proxy.cut()
        f.run_for(0.5)
    return f.recovered()


@row(
    "broker killed and restarted",
    loses_broker=True,
    seeded="never_reconnects",
    says="connections subscribed",
    logs="not_connected",
)
def broker_killed(f: Field) -> float:
    f.site.mosquitto.stop()
    f.run_for(2.0)
    f.site.mosquitto.start()
    return f.recovered()


@row(
    "broker refuses connections for 4 s",
    seeded="never_reconnects",
    says="connections subscribed",
    logs="not_connected",
)
def broker_refuses(f: Field) -> float:
    f.proxy.refuse()
    f.run_for(4.0)
    f.proxy.listen()
    return f.recovered()


@row(
    "half-open: nothing passes for 12 s, connections stay (keep-alive 6 s)",
    seeded="never_reconnects",
    says="connections subscribed",
    logs="not_connected",
)
def broker_half_open(f: Field) -> float:
    f.proxy.hold = True
    f.run_for(12.0)
    f.proxy.hold = False
    return f.recovered()


@row("half-open for 2 s: shorter than the keep-alive", seeded="forgets_chunks")
def broker_stalls(f: Field) -> float:
    f.proxy.hold = True
    f.run_for(2.0)
    f.proxy.hold = False
    return f.recovered()


@row("broker slow: every piece 300 ms late", seeded="forgets_chunks")
def broker_slow(f: Field) -> float:
    f.proxy.delay = 0.3
    f.run_for(5.0)
    f.proxy.delay = 0.0
    return f.recovered()


@row("broker one byte at a time for 5 s", seeded="forgets_chunks")
def broker_dribbles(f: Field) -> float:
    f.proxy.dribble = True
    f.run_for(5.0)
    f.proxy.dribble = False
    return f.recovered()


@row("PUBACKs are lost, then the connection: redelivered with DUP", short=True, seeded="stale_acks")
def broker_redelivers(f: Field) -> float:
    return _redeliver(f)


@row("redelivered without DUP", seeded="stale_acks")
def broker_redelivers_without_dup(f: Field) -> float:
    f.proxy.hide_dup = True
    return _redeliver(f)


def _redeliver(f: Field) -> float:
    f.proxy.swallow_acks = True
    f.run_for(2.0)
    f.proxy.swallow_acks = False
    f.proxy.cut()
    return f.recovered()


# ---- the network between gateway and broker -------------------------------------------------------

NETWORK: dict[str, Any] = {"options": {"network": "whole"}, "needs": missing}


def _network(f: Field) -> Network:
    assert f.network is not None
    return f.network


@row(
    "network partition for 12 s: packets vanish (keep-alive 6 s)",
    seeded="never_reconnects",
    says="connections subscribed",
    logs="not_connected",
    **NETWORK,
)
def partition(f: Field) -> float:
    _network(f).cut()
    f.run_for(12.0)
    _network(f).join()
    return f.recovered()


@row("network partition for 2 s: TCP sends again", seeded="forgets_chunks", **NETWORK)
def partition_short(f: Field) -> float:
    _network(f).cut()
    f.run_for(2.0)
    _network(f).join()
    return f.recovered()


@row(
    "a thin line for 8 s: 300 kbit/s, what does not fit into its queue is dropped",
    seeded="forgets_chunks",
    **NETWORK,
)
def line_thin(f: Field) -> float:
    _network(f).shape("tbf", "rate", "300kbit", "burst", "4kb", "limit", "8kb")
    f.run_for(8.0)
    dropped = _network(f).dropped()
    _network(f).shape()
    assert dropped, "the line dropped nothing"
    return f.recovered()


@row(
    "latency of 200 ± 50 ms and 5 % of the packets lost, for 8 s",
    seeded="forgets_chunks",
    options={"network": "lossy"},
    needs=lossy_missing,
)
def line_lossy(f: Field) -> float:
    _network(f).lossy(0.2, 0.05, 0.05)
    f.run_for(8.0)
    dropped = _network(f).dropped()
    _network(f).shape()
    assert dropped, "the line dropped nothing"
    return f.recovered()


# ---- InfluxDB ------------------------------------------------------------------------------------


@row(
    "InfluxDB down for 5 s (real, 1.x)",
    short=True,
    seeded="forgets_failed",
    says="is down",
    logs="sink failed",
)
def influxdb_down(f: Field) -> float:
    f.site.influx.stop()
    f.run_for(5.0)
    f.site.influx.start()
    return f.recovered()


@row(
    "InfluxDB frozen for 6 s (real, 1.x, SIGSTOP)",
    seeded="forgets_backlog",
    says="is down",
    logs="sink failed",
)
def influxdb_frozen(f: Field) -> float:
    process = f.site.influx._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    f.run_for(6.0)
    process.send_signal(signal.SIGCONT)
    return f.recovered()


TWO = {"influx": "2"}


def _answers(f: Field, fault: Fault, times: int) -> float:
    f.site.stand_in.fault(*[fault] * times)
    f.wait(lambda: not f.site.stand_in.faults_left, 30, "all faults used up")
    return f.recovered()


@row(
    "InfluxDB hangs: 8 writes are never answered",
    says="is down",
    logs="sink failed",
    options=TWO,
    seeded="forgets_failed",
)
def influxdb_hangs(f: Field) -> float:
    # two shards with two writes each may hang at once; those that follow find the sink down
    return _answers(f, Fault(hang=True), 8)


@row(
    "InfluxDB answers 503 without Retry-After, 15 times",
    options=TWO,
    seeded="forgets_failed",
    says="is down",
    logs="sink failed",
)
def influxdb_503(f: Field) -> float:
    return _answers(f, busy(), 15)


@row(
    "InfluxDB answers 503 with Retry-After: 2, twice", options=TWO, seeded="forgets_failed", bar=7.0
)
def influxdb_503_retry_after(f: Field) -> float:
    return _answers(f, busy(503, "2"), 2)


@row(
    "InfluxDB answers 429 with Retry-After: 2, twice",
    says="is down",
    logs="http_429",
    options=TWO,
    seeded="forgets_failed",
    bar=7.0,
)
def influxdb_429(f: Field) -> float:
    return _answers(f, busy(429, "2"), 2)


@row(
    "InfluxDB answers 429 without Retry-After, 5 times",
    counts="sink_retries",
    options=TWO,
    seeded="forgets_failed",
)
def influxdb_429_without_retry_after(f: Field) -> float:
    return _answers(f, busy(429), 5)


@row("InfluxDB answers 400 (not of line protocol), 3 times", options=TWO, seeded="forgets_failed")
def influxdb_400(f: Field) -> float:
    return _answers(f, Fault(400, {"code": "invalid", "message": "go away"}), 3)


@row("InfluxDB takes no body over 4 kB (413)", options=TWO, seeded="forgets_chunks")
def influxdb_413(f: Field) -> float:
    f.site.stand_in.limit_body(4_096)
    f.run_for(4.0)
    f.site.stand_in.limit_body(0)
    return f.recovered()


@row(
    "InfluxDB answers 422 (partial write without saying which), 3 times",
    options=TWO,
    seeded="forgets_chunks",
)
def influxdb_422(f: Field) -> float:
    words = "failure writing points to database: partial write: something dropped=1"
    return _answers(f, Fault(422, {"code": "unprocessable entity", "message": words}), 3)


@row(
    "InfluxDB's token is changed and changed back after 4 s (401)",
    says="is down",
    logs="unauthorized",
    options=TWO,
    seeded="forgets_failed",
)
def influxdb_401(f: Field) -> float:
    f.site.stand_in.change_token("another")
    f.run_for(4.0)
    f.site.stand_in.change_token(f.site.stand_in.token)
    return f.recovered()


@row("InfluxDB writes, then cuts without an answer, 5 times", options=TWO, seeded="forgets_chunks")
def influxdb_resets(f: Field) -> float:
    return _answers(f, Fault(reset=True, written=True), 5)


# ---- Kafka --------------------------------------------------------------------------------------


@row(
    "Kafka stopped for 5 s", short=True, seeded="forgets_chunks", says="is down", logs="sink failed"
)
def kafka_down(f: Field) -> float:
    with f.kafka_cut():
        f.site.kafka.stop()
        f.run_for(5.0)
        f.site.kafka.start()
    return f.recovered()


@row(
    "Kafka killed (SIGKILL), started after 2 s",
    seeded="forgets_chunks",
    says="is down",
    logs="sink failed",
)
def kafka_killed(f: Field) -> float:
    with f.kafka_cut():
        f.site.kafka.kill()
        f.run_for(2.0)
        f.site.kafka.start()
    return f.recovered()


@row("Kafka frozen for 8 s (SIGSTOP)", seeded="forgets_chunks", says="is down", logs="sink failed")
def kafka_frozen(f: Field) -> float:
    with f.kafka_cut():
        os.kill(f.site.kafka.pid, signal.SIGSTOP)
        f.run_for(8.0)
        os.kill(f.site.kafka.pid, signal.SIGCONT)
    return f.recovered()


# ---- both ---------------------------------------------------------------------------------------


@row(
    "both sinks down, a shard killed meanwhile",
    bar=10.0,
    says="is down",
    logs="shard restarts",
    seeded="spool_lies",
)
def sinks_down_shard_killed(f: Field) -> float:
    with f.kafka_cut():
        f.site.kafka.stop()
        f.site.influx.stop()
        f.wait(lambda: f.spool_records() > 3, 20, "spooling")
        f.run_for(1.0)
        f.kill_shard()
        f.run_for(2.0)
        f.site.kafka.start()
        f.site.influx.start()
    return f.recovered()


SMALL_SPOOL = {"settings": {"spool": {"max_bytes": 300_000, "segment_bytes": 65_536}}}


@row(
    "both sinks down until the spools are full: back pressure, then everything",
    says="full spool",
    logs="spooling",
    short=True,
    seeded="full_spool_drops",
    options=SMALL_SPOOL,
)
def spool_full(f: Field) -> float:
    with f.kafka_cut():
        f.site.kafka.stop()
        f.site.influx.stop()
        f.wait(lambda: f.count("sink_spool_full") >= 1, 30, "the spool full")
        f.run_for(3.0)
        f.site.kafka.start()
        f.site.influx.start()
    return f.recovered()


SESSION_TAKEN_OVER = b"\xe0\x01\x8e"
"""A DISCONNECT with that reason code."""


# ---- what a person or another device does -------------------------------------------------------


@row(
    "the session is taken over by another client: said, and healed by a restart",
    bar=START,
    says="connections subscribed",
    logs="a connection is given up",
    seeded="takes_back",
)
def session_taken_over(f: Field) -> float:
    f.proxy.last_word = SESSION_TAKEN_OVER
    f.take_over()
    f.wait(lambda: f.gateway.get("/readyz")[0] == 503, 10, "not ready")
    f.run_for(6.0)  # longer than any wait before a connection is tried again
    assert f.gateway.get("/readyz")[0] == 503, "the session was taken back"
    f.proxy.last_word = b""
    f.gateway.stop()
    f.restart()
    return f.recovered()


@row(
    "the session is taken over and the broker's word of it is lost: it is taken back",
    says="connections subscribed",
    logs="not_connected",
    seeded="never_reconnects",
)
def session_taken_back(f: Field) -> float:
    f.take_over()
    return f.recovered()


@row(
    "certificates are replaced on disk while connections are lost",
    says="connections subscribed",
    logs="tls_files",
    seeded="gives_up_on_files",
    options={"own_ca": True},
)
def certificates_replaced(f: Field) -> float:
    f.own_ca.write_bytes(b"half a certif")
    f.proxy.cut()
    f.run_for(2.0)
    f.renew_certificates()
    f.proxy.cut()
    return f.recovered()


@row(
    "no file descriptor is left for 4 s, connections are cut",
    seeded="never_reconnects",
    says="connections subscribed",
)
def descriptors_exhausted(f: Field) -> float:
    with f.no_descriptors():
        f.proxy.cut()
        f.run_for(4.0)
    return f.recovered()


def _flood(rate: int = 1_000) -> Iterable[Message]:
    topic = "greenlang/acme/site-01/flooding-device/telemetry"
    for number in range(6_000):
        payload = b"no telemetry at all %d" % number
        yield Message(number / rate, topic, payload, [], (("", "any"),), "bad")


@row(
    "one device floods the dead letters: 1,000 bad messages a second",
    short=True,
    extra=_flood,
    seeded="dead_letters_lie",
)
def dead_letters_flooded(f: Field) -> float:
    f.run_for(4.0)
    f.kill_shards()
    return f.recovered()


# ---- Kafka's topic ------------------------------------------------------------------------------


@row(
    "Kafka's topic is missing at the start and made later",
    says="is down",
    logs="topic_missing",
    ready=False,
    seeded="forgets_chunks",
    options={"topic": "iot.late"},
)
def kafka_topic_missing(f: Field) -> float:
    f.wait(lambda: f.spool_records() > 3, 30, "spooling")
    f.site.make_topic("iot.late")
    return f.recovered()


@row("Kafka takes no batch over 1,000 bytes for 4 s: batches are halved", seeded="forgets_chunks")
def kafka_batch_too_large(f: Field) -> float:
    f.site.configure_topic(max_message_bytes=1_000)
    f.run_for(4.0)
    f.site.configure_topic(**TOPIC_SETTINGS)
    return f.recovered()


@row(
    "Kafka takes no batch over 100 bytes for 3 s: every record is a dead letter",
    seeded="forgets_chunks",
)
def kafka_record_too_large(f: Field) -> float:
    f.site.configure_topic(max_message_bytes=100)
    f.run_for(3.0)
    f.site.configure_topic(**TOPIC_SETTINGS)
    return f.recovered()


# ---- the disk -----------------------------------------------------------------------------------


@row(
    "the disk is full while both sinks are down: back pressure; the sinks' return alone heals it",
    seeded="refused_writes_count",
    options={"disk": "12m"},
)
def disk_full(f: Field) -> float:
    with f.kafka_cut():
        f.site.kafka.stop()
        f.site.influx.stop()
        f.fill_disk(leave=150_000)
        f.run_for(8.0)
        f.site.kafka.start()
        f.site.influx.start()
    return f.recovered()


@row(
    "the disk is full for 5 s while the sinks are well",
    short=True,
    seeded="forgets_chunks",
    options={"disk": "12m"},
)
def disk_full_sinks_up(f: Field) -> float:
    f.fill_disk(leave=0)
    f.run_for(5.0)
    f.free_disk()
    return f.recovered()


@row(
    "checkpoint, outbox state, layout and spool ledgers are damaged while everything is down",
    bar=START,
    logs="checkpoint refused",
    seeded="damaged_ledger_releases",
)
def files_damaged(f: Field) -> float:
    with f.kafka_cut():
        f.site.influx.stop()
        f.site.kafka.stop()
        f.wait(lambda: f.spool_records() > 3, 20, "spooling")
        f.site.influx.start()
        f.site.kafka.start()
        f.wait(lambda: not f.spool_records(), 40, "delivered")  # the ledgers say so
        f.site.influx.stop()
        f.site.kafka.stop()
        f.wait(lambda: f.spool_records() > 3, 20, "spooling again")
        f.run_for(1.0)
        f.kill_all()
        f.damage("state/*.state", "outbox/*/open.json", "layout.json", "spool/*/*/ledger.json")
        f.tear("spool/*/*/*.seg")
        f.restart()
        f.run_for(3.0)
        f.site.kafka.start()
        f.site.influx.start()
    return f.recovered()


# ---- Kafka answers with errors ------------------------------------------------------------------


def _kafka_answers(f: Field, code: int, times: int) -> float:
    with f.kafka_cut():  # a new producer hands over again what was not answered yet
        f.site.kafka_proxy.refuse(code, times)
        f.wait(lambda: not f.site.kafka_proxy.left, 30, "all refusals used up")
    return f.recovered()


PROXIED = {"proxied": True}


@row("Kafka answers OUT_OF_ORDER_SEQUENCE, 3 times", options=PROXIED, seeded="forgets_chunks")
def kafka_out_of_order(f: Field) -> float:
    return _kafka_answers(f, OUT_OF_ORDER, 3)


@row("Kafka answers UNKNOWN_PRODUCER_ID, 3 times", options=PROXIED, seeded="forgets_chunks")
def kafka_unknown_producer(f: Field) -> float:
    return _kafka_answers(f, UNKNOWN_PRODUCER, 3)


@row(
    "Kafka's leader has moved (NOT_LEADER_OR_FOLLOWER), 30 times",
    options=PROXIED,
    seeded="forgets_chunks",
)
def kafka_leader_change(f: Field) -> float:
    return _kafka_answers(f, NOT_LEADER, 30)


@row(
    "Kafka's topic has too few replicas for 8 s (NOT_ENOUGH_REPLICAS)",
    counts="sink_spooled_readings",
    seeded="forgets_chunks",
    options=PROXIED,
)
def kafka_too_few_replicas(f: Field) -> float:
    # Not by min.insync.replicas: a topic of one replica is never short of them, whatever that says.
    with f.kafka_cut():
        f.site.kafka_proxy.refuse(NOT_ENOUGH_REPLICAS, 1_000_000)
        f.run_for(8.0)
        f.site.kafka_proxy.refuse(0, 0)
    return f.recovered()


# ---- the disk fails -----------------------------------------------------------------------------

SWITCHED = {"switched": True}


@row(
    "every sync of the disk fails (EIO) for 5 s while InfluxDB is down",
    bar=10.0,
    seeded="spool_lies",
    options=SWITCHED,
)
def disk_eio_on_sync(f: Field) -> float:
    f.site.influx.stop()
    f.wait(lambda: f.spool_records() > 3, 20, "spooling")
    f.switch("disk", "EIO sync sync_path sync_folder")
    f.run_for(5.0)
    f.switch("disk")
    f.kill_shards()
    f.site.influx.start()
    return f.recovered()


@row(
    "the disk is read-only for 6 s, InfluxDB goes and comes back meanwhile",
    logs="Read-only file system",
    seeded="forgets_failed",
    options=SWITCHED,
)
def disk_read_only(f: Field) -> float:
    f.switch("disk", "EROFS create write sync rename unlink sync_folder sync_path")
    f.site.influx.stop()
    f.run_for(3.0)
    f.site.influx.start()
    f.run_for(3.0)
    f.switch("disk")
    return f.recovered()


# ---- time, memory, many -------------------------------------------------------------------------


@row(
    "the clock steps by +1 h, back, −1 h and back within 12 s",
    counts="readings_clock_suspect",
    seeded="trusts_the_clock",
    options=SWITCHED,
)
def clock_steps(f: Field) -> float:
    for step in ("3600", "", "-3600", ""):
        f.switch("clock", step)
        f.run_for(3.0)
    return f.recovered()


@row(
    "a shard can get no more memory",
    bar=10.0,
    logs="shard restarts",
    explains="MemoryError",  # the shard ends at once, wherever it is raised
    seeded="acks_first",
    options=SWITCHED,
)
def shard_out_of_memory(f: Field) -> float:
    begun = time.monotonic()
    f.replaced(f.starve_shard(), 60)
    return f.recovered(begun)


@row(
    "Mosquitto restarts under 2,000 connections, which come back at once",
    loses_broker=True,
    says="connections subscribed",
    seeded="never_reconnects",
    options={"connections": 2_000},
)
def reconnect_storm(f: Field) -> float:
    f.wait(lambda: f.load is not None and bool(f.load.sent), 120, "2,000 connections")
    f.run_for(2.0)
    f.site.mosquitto.stop()
    f.site.mosquitto.start()
    return f.recovered()


# ---- certificates, configuration ---------------------------------------------------------------


@row(
    "the broker's certificate has expired; it is replaced after 3 s",
    says="connections subscribed",
    logs="expired",
    seeded="never_reconnects",
)
def certificate_expired(f: Field) -> float:
    f.expired_certificate()
    f.proxy.cut()
    f.run_for(3.0)
    f.good_certificate()
    return f.recovered()


@row(
    "registry and settings are cut in half: a reload is refused, a start too, until they are mended",
    bar=START,
    logs="reload refused",
    seeded="reload_trusts_files",
)
def operator_files_damaged(f: Field) -> float:
    f.halve_files()
    f.reload()
    f.wait(lambda: f.logged("reload refused"), 10, "the reload refused")
    f.gateway.stop()
    f.refused_start()
    f.mend_files()
    f.restart()
    return f.recovered()


@row(
    "the kernels' cache is cut in half: they are compiled anew",
    bar=240.0,
    seeded="kernels_unchecked",
    options={"own_kernels": True},
)
def kernel_cache_damaged(f: Field) -> float:
    f.gateway.stop()
    f.halve_kernels()
    f.restart()
    return f.recovered(timeout=300)


# ---- dead letters -------------------------------------------------------------------------------

LETTERS_IN_KAFKA = {"settings": {"sinks": {"dead_letter": {"target": "kafka"}}}}


@row(
    "dead letters go to Kafka, and Kafka is down for 5 s: they go to files meanwhile",
    says="is down",
    logs="it goes to the files",
    extra=partial(_flood, 50),
    seeded="letters_forgotten",
    options=LETTERS_IN_KAFKA,
)
def dead_letters_without_kafka(f: Field) -> float:
    with f.kafka_cut():
        f.site.kafka.stop()
        f.run_for(5.0)
        f.site.kafka.start()
    return f.recovered()


# ---- overload -----------------------------------------------------------------------------------

OVERLOAD: dict[str, Any] = {
    "influx": "2",
    "receive_maximum": 400,
    "settings": {
        "sinks": {"influxdb": {"chunk_rows": 400, "in_flight": 1}},
        "spool": {"max_bytes": 300_000, "segment_bytes": 65_536},
    },
}
"""A window of 1,600 messages, and InfluxDB takes at most 400 readings a request and shard."""
SLOW = 2.0
"""Seconds that InfluxDB takes for a request of an overload."""


@row(
    "InfluxDB takes a fifth of what comes, for 20 s: the spool fills, then the broker holds back",
    says="full spool",
    seeded="full_spool_drops",
    options=OVERLOAD,
)
def overload(f: Field) -> float:
    f.site.stand_in.slow(SLOW)
    f.wait(lambda: f.count("sink_spool_full") >= 1, 60, "the spool full")
    f.run_for(15.0)
    assert f.count("ledger_bytes") <= f.count("ledger_bytes_bound")
    assert f.count("disconnects") == 0, "keep-alives were not answered"
    f.site.stand_in.slow(0.0)
    return f.recovered()


BEST_EFFORT = {
    "settings": {
        "sinks": {"kafka": {"policy": "best_effort"}},
        "spool": {"max_bytes": 200_000, "segment_bytes": 65_536},
    }
}


@row(
    "Kafka is best effort and frozen for 12 s: InfluxDB and acknowledgements do not wait",
    counts="sink_dropped_readings",
    seeded="best_effort_waits",
    options=BEST_EFFORT,
)
def slow_best_effort(f: Field) -> float:
    os.kill(f.site.kafka.pid, signal.SIGSTOP)
    f.run_for(12.0)
    os.kill(f.site.kafka.pid, signal.SIGCONT)
    assert f.latency() < 2.0 * slack(), f"acknowledged after {f.latency():.1f} s"
    return f.recovered()


def one_device(rate: int = 2_000, count: int = 12_000) -> Iterable[Message]:
    """Good messages of the flooder, so many a second."""
    registry = fleet_registry(FleetOptions(devices=100, seed=7, history=20))
    device = registry["devices"][0]
    metric, wanted = sorted(registry["types"][device["type"]]["metrics"].items())[0]
    value = float(wanted["range"][0])
    topic = f"greenlang/{device['org']}/{device['site']}/{FLOODER}/telemetry"
    for number in range(count):
        ts_ns = time.time_ns()
        body = f'{{"ts":{ts_ns},"metric":"{metric}","value":{value},"seq":{number}}}'
        reading = Reading(FLOODER, metric, ts_ns, value, number)
        yield Message(number / rate, topic, body.encode(), [reading], (), FLOOD)


@row(
    "one device sends 2,000 messages a second (others 4); the rate of a device is limited to 200",
    counts="messages_undecodable",
    extra=one_device,
    seeded="rates_drop",
    options={"settings": {"limits": {"device_rate": 200}}},
)
def one_device_floods(f: Field) -> float:
    f.run_for(6.0)
    assert f.latency() < 2.0 * slack(), f"others were acknowledged after {f.latency():.1f} s"
    return f.recovered()
