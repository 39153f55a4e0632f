"""One shard's way on fakes: what is acknowledged, when, and what arrives where."""

import asyncio
import json
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from tests.fakes.directory import directory
from tests.fakes.frames import frames
from tests.fakes.sinks import ListEncoder, ScriptedSender

from greenlang_iot.acks.ledger import Ledger
from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model.batches import U16, Reject
from greenlang_iot.model.errors import SinkError
from greenlang_iot.model.outcomes import Outcome, Refused, Transition
from greenlang_iot.observe.catalog import LATENCY_BUCKETS, STAGE_BUCKETS, STAGES, cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.pipeline import DEAD_LETTER, OUTBOX, Clock, Pipeline
from greenlang_iot.quality.counter import QualityCounter
from greenlang_iot.runtime.meters import BatchMeter, SinkMeter
from greenlang_iot.settings.model import (
    AlertSettings,
    DetectSettings,
    LimitSettings,
    QualitySettings,
    RunnerSettings,
    SecondStageSettings,
    SpoolSettings,
)
from greenlang_iot.sinks.runner import Runner

TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
NOW = 1_800_000_000_000_000_000
A, B = 1, 2


class Shelf:
    """Dead letters and outbox of a test: durable when the test says so."""

    def __init__(self, settle: Callable[[int, int, int], None], bit: int) -> None:
        self.items: list[Reject | Transition] = []
        self.tickets: list[int] = []
        self._settle, self._bit = settle, bit

    def submit(self, items: Sequence[Reject] | Sequence[Transition], *rest: int) -> None:
        self.items += items
        if rest[-1]:
            self.tickets.append(rest[-1])

    def durable(self) -> None:
        for ticket in self.tickets:
            self._settle(self._bit, ticket, ticket)
        self.tickets.clear()


class Shard:
    """A pipeline with two required sinks, `a` and `b`."""

    def __init__(self) -> None:
        self.acked: list[tuple[int, list[int]]] = []
        self.counters = Counters.local()
        self.registry = directory(4, sites=2)
        clock = Clock(lambda: NOW, lambda: 5.0)
        self.senders = {A: ScriptedSender(), B: ScriptedSender()}
        self.runners = [
            Runner(
                {A: "influxdb", B: "kafka"}[bit],
                bit,
                ListEncoder(),
                sender,
                RunnerSettings(backoff_initial=0.001, backoff_max=0.002),
                spool=None,
                spool_settings=SpoolSettings(),
                settle=self.settle,
                refuse=self.refuse,
                meter=SinkMeter(self.counters, {A: "influxdb", B: "kafka"}[bit]),
                clock=clock.monotonic,
            )
            for bit, sender in self.senders.items()
        ]
        self.dead = Shelf(self.settle, DEAD_LETTER)
        self.outbox = Shelf(self.settle, OUTBOX)
        self.refused: list[Refused] = []
        detect = DetectSettings(second_stage=SecondStageSettings(enabled=False))
        self.pipeline = Pipeline(
            Decoder(self.registry, LimitSettings(), TEMPLATE),
            Detector(self.registry, detect),
            Alerter(self.registry, AlertSettings()),
            QualityCounter(self.registry, QualitySettings(), NOW),
            Ledger(),
            self.runners,
            self.dead,
            self.outbox,
            BatchMeter(self.counters),
            self.acknowledge,
            lambda connection, publications: None,
            clock,
        )
        self.tasks = [asyncio.ensure_future(runner.run()) for runner in self.runners]

    def settle(self, bit: int, first: int, last: int) -> None:
        self.pipeline.settle(bit, first, last)

    async def refuse(self, sink: str, refused: list[Refused]) -> None:
        self.refused += refused

    def acknowledge(self, connection: int, packet_ids: U16) -> None:
        self.acked.append((connection, packet_ids.tolist()))

    @property
    def acked_ids(self) -> list[int]:
        return [i for _, ids in self.acked for i in ids]

    def publish(self, *messages: tuple[str, bytes], first: int = 1, connection: int = 1) -> None:
        self.pipeline.process(frames(messages, first_packet_id=first, connection=connection))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0)

    def count(self, name: str, **labels: str) -> int:
        return int(self.counters.get(cell(name, **labels)))


@pytest.fixture
async def shard() -> AsyncIterator[Shard]:
    made = Shard()
    yield made
    for runner in made.runners:
        await runner.close()
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


def reading(
    device: int, ts: int, value: object = 21.5, metric: str = "temperature"
) -> tuple[str, bytes]:
    topic = f"greenlang/acme/site-{device % 2}/d{device:03d}/telemetry"
    return topic, json.dumps({"ts": ts, "metric": metric, "value": value}).encode()


async def test_a_message_is_acknowledged_after_both_sinks_have_it(shard: Shard) -> None:
    shard.senders[B].gate.clear()
    shard.publish(reading(0, NOW), reading(1, NOW + 1))
    await shard.until(lambda: shard.senders[A].delivered == [str(NOW), str(NOW + 1)])
    assert shard.acked == []
    shard.senders[B].gate.set()
    await shard.until(lambda: shard.acked == [(1, [1, 2])])
    assert shard.count("acks_sent") == 2


async def test_acknowledgements_keep_receive_order(shard: Shard) -> None:
    """The second batch needs no sink (all duplicates), and still waits for the first."""
    shard.senders[A].gate.clear()
    shard.publish(reading(0, NOW))
    shard.publish(reading(0, NOW), first=2)
    assert shard.acked == []
    shard.senders[A].gate.set()
    await shard.until(lambda: shard.acked_ids == [1, 2])
    assert shard.count("readings_duplicate") == 1
    assert shard.senders[B].delivered == [str(NOW)]


async def test_a_bad_message_is_acknowledged_when_its_dead_letter_is_durable(shard: Shard) -> None:
    shard.publish(("greenlang/acme/site-0/d000/telemetry", b"{nonsense"))
    assert shard.acked == []
    assert [r.paths for r in shard.dead.items] == [[("", "malformed")]]  # type: ignore[union-attr]
    shard.dead.durable()
    assert shard.acked == [(1, [1])]
    assert shard.count("messages_undecodable", reason="malformed") == 1


async def test_the_good_readings_of_a_message_pass_and_the_bad_ones_do_not(shard: Shard) -> None:
    body = {"ts": NOW, "values": {"temperature": 20.0, "humidity": 1e9}}
    shard.publish(("greenlang/acme/site-0/d000/telemetry", json.dumps(body).encode()))
    await shard.until(lambda: shard.senders[B].delivered == [str(NOW)])
    assert shard.acked == []
    shard.dead.durable()
    shard.outbox.durable()  # out of range is an alert too
    await shard.until(lambda: shard.acked_ids == [1])
    assert shard.count("readings_decoded") == 2
    assert shard.count("readings_rejected", reason="out_of_range") == 1


async def test_an_alert_is_durable_before_its_message_is_acknowledged(shard: Shard) -> None:
    second = 1_000_000_000
    start = NOW - 3600 * second
    for i in range(200):
        shard.publish(reading(0, start + i * second, 20.0 + (i * 7 % 11) / 10), first=i + 1)
    await shard.until(lambda: len(shard.acked_ids) == 200)
    assert shard.outbox.items == []
    shard.publish(reading(0, start + 201 * second, 95.0), first=201)
    await shard.until(lambda: len(shard.senders[B].delivered) == 201)
    assert len(shard.acked_ids) == 200
    [opening] = shard.outbox.items
    assert isinstance(opening, Transition)
    assert (opening.state, opening.device, opening.metric, opening.value) == (
        "open",
        "d000",
        "temperature",
        95.0,
    )
    shard.outbox.durable()
    await shard.until(lambda: len(shard.acked_ids) == 201)


async def test_after_a_reconnect_the_old_connection_gets_no_acks(shard: Shard) -> None:
    shard.senders[A].gate.clear()
    shard.publish(reading(0, NOW), connection=1)
    shard.pipeline.ledger.disconnected(1)
    shard.publish(reading(0, NOW), connection=2)
    shard.senders[A].gate.set()
    await shard.until(lambda: bool(shard.acked))
    await shard.until(lambda: shard.pipeline.ledger.tickets == 0)
    assert shard.acked == [(2, [1])]
    # redelivered on another connection: delivered again, learnt once
    assert shard.senders[B].delivered == [str(NOW), str(NOW)]
    assert shard.count("readings_replayed") == 1


async def test_qos_0_needs_no_acknowledgement(shard: Shard) -> None:
    shard.pipeline.process(frames([reading(0, NOW)], qos=0))
    await shard.until(lambda: shard.senders[B].delivered == [str(NOW)])
    await shard.until(lambda: shard.pipeline.ledger.tickets == 0)
    assert shard.acked_ids == []


async def test_a_failing_sink_holds_the_acknowledgement_until_it_delivers(shard: Shard) -> None:
    answers = iter([SinkError("busy", reason="busy")] * 2)
    shard.senders[A].answer = lambda rows: next(answers, None)
    shard.publish(reading(0, NOW))
    await shard.until(lambda: shard.acked_ids == [1])
    assert len(shard.senders[A].attempts) == 3
    assert shard.count("sink_retries", sink="influxdb", reason="busy") == 2


async def test_a_refused_line_is_a_dead_letter_and_acknowledged(shard: Shard) -> None:
    shard.senders[A].answer = lambda rows: Outcome(0, [Refused(b"x", "type conflict")])
    shard.publish(reading(0, NOW))
    await shard.until(lambda: shard.acked_ids == [1])
    assert [r.answer for r in shard.refused] == ["type conflict"]


async def test_messages_and_readings_add_up(shard: Shard) -> None:
    body = {"ts": NOW, "values": {"temperature": 20.0, "humidity": 40.0, "pressure": 1.0}}
    shard.publish(
        ("greenlang/acme/site-0/d000/telemetry", json.dumps(body).encode()),
        reading(1, NOW),
        reading(1, NOW),
        ("greenlang/acme/site-1/d000/telemetry", b"{}"),
        ("elsewhere", b"{}"),
    )
    shard.dead.durable()
    await shard.until(lambda: len(shard.acked_ids) == 5)
    assert shard.count("messages_received") == 5
    assert shard.count("messages_decoded") == 3
    assert shard.count("messages_undecodable", reason="wrong_place") == 1
    assert shard.count("messages_undecodable", reason="bad_topic") == 1
    assert shard.count("readings_decoded") == 5
    assert shard.count("readings_rejected", reason="unknown_metric") == 1
    assert shard.count("readings_duplicate") == 1
    assert shard.count("sink_delivered_readings", sink="kafka") == 3


async def test_stages_and_answers_are_measured_per_message(shard: Shard) -> None:
    batch = frames([reading(0, NOW), reading(1, NOW + 1)])
    batch.received = 4.9  # the clock stands at 5.0
    shard.pipeline.process(batch)
    await shard.until(lambda: shard.count("acks_sent") == 2)
    assert shard.counters.sum_of("ack_seconds") == pytest.approx(2 * 0.1)
    cells = shard.counters.snapshot()
    for stage in STAGES:
        first = cell("stage_seconds", stage=stage)
        assert cells[first : first + len(STAGE_BUCKETS) + 1].sum() == 2
    answered = cell("sink_answer_seconds", sink="kafka")
    assert cells[answered + bisect_left(LATENCY_BUCKETS, 0.1)] == 2
