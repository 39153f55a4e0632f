"""What each stage of `Pipeline.process` costs a message, without sockets, processes and sinks.

    python -m greenlang_iot.bench.pipeline_cost [devices] [messages a batch] [metrics a device]

One thread goes through the reference workload batch by batch, as `Pipeline.process` does, with the clock
read between the stages. Printed are the least and the median of all batches, in ns a message, beside one
`orjson.loads` of the same payloads in the same run.
"""

import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import orjson

from greenlang_iot.acks.ledger import Ledger
from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.bench.workload import Workload, registry
from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices.registry import parse
from greenlang_iot.encode.lines import LineEncoder
from greenlang_iot.encode.records import RecordEncoder
from greenlang_iot.model.batches import SLACK, U8, FrameBatch
from greenlang_iot.observe.counters import Counters
from greenlang_iot.pipeline import StageSeconds
from greenlang_iot.quality.counter import QualityCounter
from greenlang_iot.runtime.meters import BatchMeter
from greenlang_iot.settings.model import (
    AlertSettings,
    DetectSettings,
    InfluxSettings,
    LimitSettings,
    QualitySettings,
)

BATCH = 6_000
LAPS = 60  # before the measurement: detectors have learnt
WARM = 5_000  # batches of it at most: of very many devices some are still learning
PARTITIONS = 12
STAGES = (
    "decode", "score", "quality", "alerts", "ledger", "lines", "records", "seal lines",
    "seal records", "meter",
)  # fmt: skip
_TOPIC_AT = 4


class Cost(NamedTuple):
    """ns a message of one stage, over batches."""

    least: float
    median: float


def measure(devices: int = 10_000, batch: int = BATCH, repeats: int = 200) -> dict[str, Cost]:
    """Per stage; "all" for their sum and "unit" for one `orjson.loads`."""
    return _Bench(devices, batch).run(repeats)


class _Bench:
    def __init__(self, devices: int, batch: int) -> None:
        self.batch = batch
        directory = parse(orjson.dumps(registry(devices)))
        self.decoder = Decoder(
            directory, LimitSettings(), "greenlang/{org}/{site}/{device}/telemetry"
        )
        self.detector = Detector(directory, DetectSettings())
        self.alerter = Alerter(directory, AlertSettings())
        self.start_ms = int(time.time() * 1000) - 600_000
        self.quality = QualityCounter(directory, QualitySettings(), self.start_ms * 1_000_000)
        self.lines = LineEncoder(directory, InfluxSettings())
        self.records = RecordEncoder(directory, PARTITIONS, "none", 524_288)
        self.ledger = Ledger()
        self.meter = BatchMeter(Counters.local())
        self.workload = Workload(np.arange(devices), 1, self.start_ms, fleet=max(devices, 100_000))
        packet = self.workload.packet
        self.packets = self._packets()
        self.buffer: U8 = np.zeros(SLACK + batch * packet + SLACK, np.uint8)
        at = SLACK + np.arange(batch, dtype=np.int32) * packet
        topic = int(self.workload.lap(np.zeros(self.workload.n, np.uint16))[0, 3])
        self.frames = FrameBatch(
            connection=1,
            buffer=self.buffer,
            n=batch,
            topic_off=(at + _TOPIC_AT).astype(np.int32),
            topic_len=np.full(batch, topic, np.int32),
            payload_off=(at + _TOPIC_AT + topic + 3).astype(np.int32),
            payload_len=np.full(batch, packet - (_TOPIC_AT + topic + 3), np.int32),
            packet_id=np.arange(1, batch + 1).astype(np.uint16),
            flags=np.zeros(batch, np.uint8),
        )

    def _packets(self) -> Iterator[U8]:
        """Batches of packets, lap after lap."""
        ids = np.ones(self.workload.n, np.uint16)
        left: U8 = np.empty((0, self.workload.packet), np.uint8)
        while True:
            while len(left) < self.batch:
                left = np.concatenate((left, self.workload.lap(ids)))
            yield left[: self.batch].reshape(-1)
            left = left[self.batch :]

    def run(self, repeats: int) -> dict[str, Cost]:
        per_lap = max(self.workload.n // self.batch, 1)
        for _ in range(min(LAPS * per_lap, WARM)):
            self._one()
        taken = np.array([self._one() for _ in range(repeats)]) / self.batch
        result = {
            name: Cost(float(column.min()), float(np.median(column)))
            for name, column in zip(STAGES, taken.T, strict=True)
        }
        whole = taken.sum(axis=1)
        result["all"] = Cost(float(whole.min()), float(np.median(whole)))
        result["unit"] = self._unit()
        return result

    def _one(self) -> list[int]:
        """Take one batch through; ns of each stage."""
        self.buffer[SLACK:-SLACK] = next(self.packets)
        frames, took = self.frames, []
        now_ns = int(self.workload._ts) * 1_000_000 + 500_000
        frames.received_ns = now_ns
        clock = time.thread_time_ns
        begun = clock()

        def lapse() -> None:
            nonlocal begun
            now = clock()
            took.append(now - begun)
            begun = clock()

        decoded = self.decoder.decode(frames, now_ns)
        lapse()
        readings = decoded.readings
        scores = self.detector.score(readings)
        lapse()
        self.quality.count(readings, scores, decoded.rejects)
        lapse()
        self.alerter.evaluate(readings, scores)
        lapse()
        size = int(np.sum(frames.payload_len[: frames.n], dtype=np.int64))
        ticket = self.ledger.open(1, frames.packet_id, 3, size, 0.0)
        self.ledger.settle(3, ticket, ticket)
        lapse()
        self.lines.append(readings, scores)
        lapse()
        self.records.append(readings, scores)
        lapse()
        if self.lines.rows >= 2 * self.batch:
            self.lines.seal()
        lapse()
        if self.records.rows >= 2 * self.batch:
            self.records.seal()
        lapse()
        self.meter.batch(frames, decoded, scores, StageSeconds(1e-3, 1e-3, 1e-3, 1e-3))
        lapse()
        assert decoded.fast == frames.n
        return took

    def _unit(self) -> Cost:
        payloads = self.workload.payloads()
        times = []
        for _ in range(30):
            begun = time.perf_counter_ns()
            for payload in payloads:
                orjson.loads(payload)
            times.append((time.perf_counter_ns() - begun) / len(payloads))
        return Cost(min(times), float(np.median(times)))


def main(arguments: list[str]) -> None:
    devices, batch = ([int(a) for a in arguments] + [10_000, BATCH][len(arguments) :])[:2]
    for name, cost in measure(devices, batch).items():
        print(f"{name:14} {cost.least:8.1f} {cost.median:8.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
