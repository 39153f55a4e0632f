"""Kernels and codecs, each beside its slow twin, in messages a second.

    .venv/bin/python -m pytest bench/test_kernels.py --benchmark-columns=min,median,ops

A benchmark goes through the same batch of the reference workload again and again, so caches are warm:
figures to compare two versions of a kernel with (`--benchmark-compare`), not what a message costs under
load. For that there are `greenlang-iot bench headline` and `greenlang_iot.bench.pipeline_cost`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mqtt5
import numpy as np
import orjson
import pytest
from tests.reference import decode as slow_decode
from tests.reference import lines as slow_lines
from tests.reference import mqtt as slow_mqtt
from tests.reference import records as slow_records
from tests.reference.detect import Limits, Series

from greenlang_iot.bench.workload import Workload, registry, topic
from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices.registry import parse
from greenlang_iot.encode.lines import LineEncoder
from greenlang_iot.encode.records import RecordEncoder
from greenlang_iot.model.batches import SLACK
from greenlang_iot.mqtt.framing import Framer
from greenlang_iot.settings.model import DetectSettings, InfluxSettings, LimitSettings

N = 1_000
NOW_MS = 1_750_000_000_000
NOW = NOW_MS * 1_000_000
TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
PARTITIONS = 12

DIRECTORY = parse(orjson.dumps(registry(N)))
WORKLOAD = Workload(np.arange(N), 1, NOW_MS - 1_000)
PACKETS = WORKLOAD.lap(np.arange(1, N + 1).astype(np.uint16)).tobytes()
PAYLOADS = WORKLOAD.payloads()


def framed() -> Any:
    framer = Framer(len(PACKETS), version5=True)
    framer.space()[: len(PACKETS)] = PACKETS
    framer.received(len(PACKETS))
    framer.scan()
    frames = framer.take(1, NOW)
    assert frames.n == N
    return frames


FRAMES = framed()
DECODED = Decoder(DIRECTORY, LimitSettings(), TEMPLATE).decode(FRAMES, NOW)
READINGS = DECODED.readings
SCORES = Detector(DIRECTORY, DetectSettings()).score(READINGS)
TOPICS = [
    FRAMES.buffer[at : at + size].tobytes()
    for at, size in zip(FRAMES.topic_off.tolist(), FRAMES.topic_len.tolist(), strict=True)
]
SUBSET = 100
"""Messages for the twins, which are a hundred times slower and more."""


def run(benchmark: Any, work: Callable[[], Any], messages: int = N) -> Any:
    """Time `work`, which is about so many messages; its result."""
    benchmark.extra_info["messages"] = messages
    result = benchmark(work)
    if benchmark.stats is not None:  # not with --benchmark-disable
        benchmark.extra_info["ns_per_message"] = round(benchmark.stats["min"] / messages * 1e9, 1)
    return result


@pytest.mark.benchmark(group="unit")
def test_one_orjson_loads(benchmark: Any) -> None:
    run(benchmark, lambda: [orjson.loads(payload) for payload in PAYLOADS])


@pytest.mark.benchmark(group="framing")
def test_framing(benchmark: Any) -> None:
    assert run(benchmark, framed).n == N


@pytest.mark.benchmark(group="framing")
def test_framing_twin(benchmark: Any) -> None:
    some = PACKETS[: SUBSET * len(PACKETS) // N]
    assert len(run(benchmark, lambda: slow_mqtt.frame(some), SUBSET).rows) == SUBSET


@pytest.mark.benchmark(group="framing")
def test_framing_by_mqtt5(benchmark: Any) -> None:
    def work() -> int:
        rest, count = memoryview(PACKETS), 0
        while rest:
            _, size = mqtt5.read(rest)
            rest, count = rest[size:], count + 1
        return count

    assert run(benchmark, work) == N


@pytest.mark.benchmark(group="decode")
def test_decode(benchmark: Any) -> None:
    decoder = Decoder(DIRECTORY, LimitSettings(), TEMPLATE)
    decoded = run(benchmark, lambda: decoder.decode(FRAMES, NOW))
    assert (decoded.readings.n, decoded.fast) == (N, N)


@pytest.mark.benchmark(group="decode")
def test_decode_by_the_general_path(benchmark: Any) -> None:
    decoder = Decoder(DIRECTORY, LimitSettings(), TEMPLATE, fast=False)
    assert run(benchmark, lambda: decoder.decode(FRAMES, NOW)).readings.n == N


@pytest.mark.benchmark(group="decode")
def test_decode_twin(benchmark: Any) -> None:
    messages = [
        (name, payload, False)
        for name, payload in zip(TOPICS[:SUBSET], PAYLOADS[:SUBSET], strict=True)
    ]

    def work() -> slow_decode.Twin:
        twin = slow_decode.Twin(DIRECTORY, LimitSettings(), NOW, NOW)
        twin.decode(messages)
        return twin

    assert len(run(benchmark, work, SUBSET).rows) == SUBSET


class Laps:
    """Readings that go on in time, so that no reading is a duplicate."""

    def __init__(self) -> None:
        self.detector = Detector(DIRECTORY, DetectSettings())
        self.lap = 0

    def __call__(self) -> Any:
        self.lap += 1
        READINGS.ts_ns[:] = NOW + self.lap * 60_000_000_000
        READINGS.seq[:] = self.lap
        READINGS.flags[:] = DECODED_FLAGS
        return self.detector.score(READINGS)


DECODED_FLAGS = READINGS.flags.copy()


@pytest.mark.benchmark(group="score")
def test_score(benchmark: Any) -> None:
    laps = Laps()
    for _ in range(50):
        laps()  # past the learning phase
    assert run(benchmark, laps).n == N


@pytest.mark.benchmark(group="score")
def test_score_twin(benchmark: Any) -> None:
    series = Series(Limits(), warmup=30)
    values = READINGS.value[:SUBSET].tolist()
    minute = 60_000_000_000
    lap = iter(range(1, 10_000_000))

    def work() -> None:
        start = next(lap) * SUBSET
        for i, value in enumerate(values):
            series.read(NOW + (start + i) * minute, value, start + i, 1)

    run(benchmark, work, SUBSET)
    assert series.n > 30


@pytest.mark.benchmark(group="line protocol")
def test_lines(benchmark: Any) -> None:
    encoder = LineEncoder(DIRECTORY, InfluxSettings())

    def work() -> bytes:
        encoder.append(READINGS, SCORES)
        return encoder.seal()

    assert run(benchmark, work).count(b"\n") == N


@pytest.mark.benchmark(group="line protocol")
def test_lines_twin(benchmark: Any) -> None:
    some = first(SUBSET)
    assert len(run(benchmark, lambda: slow_lines.encode(DIRECTORY, some, SCORES), SUBSET)) == SUBSET


@pytest.mark.benchmark(group="Kafka records")
def test_records(benchmark: Any) -> None:
    encoder = RecordEncoder(DIRECTORY, PARTITIONS, "none", 524_288)

    def work() -> int:
        rows = encoder.append(READINGS, SCORES)
        encoder.seal()
        return rows

    assert run(benchmark, work) == N


@pytest.mark.benchmark(group="Kafka records")
def test_records_twin(benchmark: Any) -> None:
    some = first(SUBSET)
    body = run(
        benchmark,
        lambda: slow_records.body(DIRECTORY, [(some, SCORES)], PARTITIONS, 524_288),
        SUBSET,
    )
    assert body[0] == 1


def first(n: int) -> Any:
    """The first readings of the batch, as a batch."""
    return replace(READINGS, n=n)


def test_the_batch_is_the_reference_workload() -> None:
    assert len(PACKETS) == N * 128
    assert TOPICS[0].decode() == topic(int(TOPICS[0].split(b"/")[3][1:]))
    assert SLACK >= 64
