"""A seeded fleet: what every device publishes, when, and what must become of it.

Event time is real time in the live part: a device sends one step every `interval` seconds, and its
time stamps are the moments of sending. Before that every device uploads a backlog of `history` steps
(arrays of up to 20, time stamps up to the start), so that detectors know each series when the faults
begin. A "day" of the seasonal signals is 1,440 steps. The registry that belongs to the fleet expects
a reading every two intervals, so that a busy machine does not make a device look silent.

The same options and start give the same messages, byte for byte.
"""

import heapq
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from greenlang_iot.devices.catalog import make_registry
from greenlang_iot.devices.registry import parse
from greenlang_iot.model.batches import F64
from greenlang_iot.simulate.faults import DUPLICATE_AFTER, FaultMix, Run, plan
from greenlang_iot.simulate.manifest import Expected, Header, Message, Reading
from greenlang_iot.simulate.payloads import BAD_PAYLOADS, Moment, Writer
from greenlang_iot.simulate.signals import Signals

BACKLOG_STEPS = 20
"""Steps in one message of the backlog."""
SILENCE_INTERVALS = 5
"""A gateway must notice a silent device within so many of the registry's intervals."""


@dataclass(slots=True, frozen=True)
class FleetOptions:
    """seconds: length of the run, backlog included. interval: seconds between two steps of a device.

    faults: None = the usual mix for this many devices.
    """

    devices: int = 1_000
    seed: int = 1
    seconds: float = 20.0
    interval: float = 0.5
    history: int = 60
    sites: int = 8
    faults: FaultMix | None = None
    topic: str = "greenlang/{org}/{site}/{device}/telemetry"

    @property
    def backlog_steps(self) -> int:
        """How many live steps the upload of the backlog takes the place of."""
        return max(3, math.ceil(1.0 / self.interval)) if self.history else 0

    @property
    def backlog_seconds(self) -> float:
        """How long the upload of the backlog takes."""
        return self.backlog_steps * self.interval

    @property
    def expected_interval(self) -> float:
        """Seconds between readings that the fleet's registry says."""
        return max(1.0, 2 * self.interval)


@dataclass(slots=True)
class _Device:
    writer: Writer
    topic: str
    phase_ms: int
    series: slice
    limit: float
    seq: int = field(default=0)


class Fleet:
    """document: the registry (JSON). directory: its columns. header, expected: for the manifest."""

    def __init__(self, options: FleetOptions, start_ns: int) -> None:
        """start_ns: wall clock at which publishing starts, ns since 1970."""
        self.options = options
        self.document = fleet_registry(options)
        self.directory = parse(orjson.dumps(self.document))
        self._rng = np.random.default_rng(options.seed)
        self._signals = Signals(self.directory, options.interval, self._rng)
        self._interval_ms = max(1, round(options.interval * 1000))
        self._start_ms = start_ns // 1_000_000
        self._devices = [self._device(i) for i in range(self.directory.n_devices)]
        live_ms = round((options.seconds - options.backlog_seconds) * 1000)
        self._steps = max(0, live_ms // self._interval_ms)
        self._live_ms = self._start_ms + round(options.backlog_seconds * 1000)
        end_ns = (self._live_ms + self._steps * self._interval_ms) * 1_000_000
        mix = options.faults or FaultMix.usual(options.devices)
        silence = SILENCE_INTERVALS * options.expected_interval / options.interval
        run = Run(
            self.directory, self._signals, self._steps, round(silence), end_ns, self._ts_of_step
        )
        self._plan = plan(mix, run, self._rng)
        self.expected: list[Expected] = self._plan.expected
        self.header = Header(options.seed, options.devices, self._live_ms * 1_000_000, end_ns)
        odd = sorted([*self._plan.gaps, *self._plan.skew_ms])  # they may look silent, or not
        self.header.unjudged += [self.directory.device[i] for i in odd]

    def messages(self) -> Iterator[Message]:
        """Everything the fleet publishes, in the order of `when`. To be called once."""
        yield from self._backlog()
        extra: list[tuple[float, int, Message]] = []
        number = itertools.count()  # messages themselves have no order
        order = sorted(range(len(self._devices)), key=lambda i: self._devices[i].phase_ms)
        for step in range(self._steps):
            values = self._values(step)
            for i in order:
                for message in self._step_messages(i, step, values):
                    while extra and extra[0][0] <= message.when:
                        yield heapq.heappop(extra)[2]
                    yield message
                    if message.kind == "" and (i, step) in self._plan.duplicates:
                        again = _again(message)
                        heapq.heappush(extra, (again.when, next(number), again))
        while extra:
            yield heapq.heappop(extra)[2]

    def _device(self, i: int) -> _Device:
        """Device i with its habits, drawn from the seed."""
        d, rng = self.directory, self._rng
        series = slice(int(d.series_start[i]), int(d.series_start[i + 1]))
        writer = Writer(
            device=d.device[i],
            metrics=tuple(d.metric[m] for m in d.series_metric[series]),
            units=tuple(d.unit[u] for u in d.series_unit[series]),
            form=("values", "single", "array")[int(rng.choice(3, p=[0.75, 0.15, 0.1]))],
            ts_style=("ms", "iso", "iso-offset", "ns")[
                int(rng.choice(4, p=[0.7, 0.15, 0.1, 0.05]))
            ],
            has_seq=bool(rng.random() < 0.5),
            fahrenheit=bool(rng.random() < 0.3),
        )
        place = {"org": d.org[int(d.org_of[i])], "site": d.site[int(d.site_of[i])]}
        return _Device(
            writer,
            self.options.topic.format(device=writer.device, **place),
            phase_ms=int(rng.integers(self._interval_ms)),
            series=series,
            limit=float(d.high[series.start]),
        )

    def _ts_of_step(self, device: int, step: int) -> int:
        """Event time of a live step, ns since 1970."""
        at_ms = self._live_ms + step * self._interval_ms + self._devices[device].phase_ms
        return at_ms * 1_000_000

    def _when(self, ts_ns: int) -> float:
        return (ts_ns // 1_000_000 - self._start_ms) / 1000

    def _backlog(self) -> Iterator[Message]:
        """Every device's history up to the start, spread over `backlog_seconds`."""
        history = self.options.history
        steps = [self._signals.step() for _ in range(history)]
        for _ in range(self.options.backlog_steps):
            self._signals.step()  # time passes while the backlog is uploaded
        chunks = range(0, history, BACKLOG_STEPS)
        total, sent = len(chunks) * len(self._devices), 0
        for first in chunks:
            block = np.array(steps[first : first + BACKLOG_STEPS])
            for device in self._devices:
                texts, readings = [], []
                for k, values in enumerate(block[:, device.series].tolist(), first):
                    at_ms = self._start_ms - (history - k) * self._interval_ms + device.phase_ms
                    text, found = device.writer.sample(at_ms * 1_000_000, values, device.seq)
                    device.seq += 1
                    texts.append(text)
                    readings += found
                when = self.options.backlog_seconds * sent / total
                sent += 1
                yield Message(when, device.topic, f"[{','.join(texts)}]".encode(), readings)

    def _values(self, step: int) -> F64:
        """What all series measure in a live step, anomalies included."""
        values = self._plan.disturb(step, self._signals.step())
        return self._signals.round(np.clip(values, self.directory.low, self.directory.high))

    def _step_messages(self, i: int, step: int, all_values: F64) -> Iterator[Message]:
        """What device i publishes in a live step, except for repetitions."""
        if step >= self._plan.silent.get(i, self._steps) or step in self._plan.gaps.get(i, ()):
            return
        device = self._devices[i]
        ts_ns = self._ts_of_step(i, step)
        when = self._when(ts_ns)
        ts_ns += self._plan.skew_ms.get(i, 0) * 1_000_000
        values = all_values[device.series].tolist()
        seq, device.seq = device.seq, device.seq + 1
        if (kind := self._plan.bad.get((i, step))) is not None:
            moment = Moment(device.writer, ts_ns, values, seq, device.limit)
            payload, readings, rejects = BAD_PAYLOADS[kind](moment)
            topic = self._wrong_topic(i, kind) or device.topic
            yield Message(when, topic, payload, readings, rejects, kind)
            return
        for payload, readings in device.writer.write(ts_ns, values, seq):
            yield Message(when, device.topic, payload, readings)
        if (i, step) in self._plan.collisions:
            first = int(device.series.start)
            values[0] = float(np.round(values[0] * 0.999, int(self._signals.digits[first])))
            text, readings = device.writer.sample(ts_ns, values, seq)
            yield Message(when, device.topic, text.encode(), readings, kind="collision")
        if (i, step) in self._plan.late:
            yield self._late(device, when, values)

    def _late(self, device: _Device, when: float, values: list[float]) -> Message:
        """A reading that was forgotten in the middle of the history, half way between two steps."""
        steps_ago = max(1, self.options.history // 2)
        at_ms = self._start_ms - steps_ago * self._interval_ms
        at_ms += device.phase_ms + self._interval_ms // 2
        text, readings = device.writer.sample(at_ms * 1_000_000, values, device.seq)
        device.seq += 1
        return Message(when, device.topic, text.encode(), readings, kind="late")

    def _wrong_topic(self, i: int, kind: str) -> str | None:
        d = self.directory
        site = int(d.site_of[i])
        if kind == "unknown_device":
            place = {"org": d.org[int(d.org_of[i])], "site": d.site[site]}
            return self.options.topic.format(device=f"unregistered-{i}", **place)
        if kind == "wrong_place":
            other = int(np.flatnonzero(d.site_of != site)[0])
            place = {"org": d.org[int(d.org_of[other])], "site": d.site[int(d.site_of[other])]}
            return self.options.topic.format(device=d.device[i], **place)
        return None


def fleet_registry(options: FleetOptions) -> dict[str, Any]:
    """The registry document of a fleet: generated devices, their intervals as the fleet's."""
    orgs = ("acme", "borealis")
    sites = tuple((orgs[i % 2], f"site-{i + 1:02d}") for i in range(max(2, options.sites)))
    document = make_registry(options.devices, seed=options.seed, sites=sites)
    return document | {
        "types": {
            name: body
            | {
                "metrics": {
                    metric: spec | {"interval": options.expected_interval}
                    for metric, spec in body["metrics"].items()
                }
            }
            for name, body in document["types"].items()
        }
    }


def _again(message: Message) -> Message:
    """The same bytes a moment later."""
    return Message(
        message.when + DUPLICATE_AFTER,
        message.topic,
        message.payload,
        list[Reading](message.readings),
        message.rejects,
        "duplicate",
    )
