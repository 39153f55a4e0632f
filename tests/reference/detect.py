"""The slow, obvious twin of `detect/kernels.py`: one object per series, one reading at a time.

Fields that the rows keep as float32 are rounded where they are stored (`f32`).
"""

import math
from dataclasses import dataclass, field

import numpy as np

from greenlang_iot.model import flags as f

SIGMA = 1.2533141373155001
LOG10E = 0.4342944819032518
NO_TS = -(2**63)


def f32(x: float) -> float:
    return float(np.float32(x))


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


@dataclass
class Limits:
    warn_low: float = -math.inf
    warn_high: float = math.inf
    step: float = math.inf
    floor: float = 0.0
    gap_ns: int = 0
    threshold: float = 5.0
    spike: bool = True
    shift: bool = True
    stuck: bool = True
    counter: bool = False


@dataclass
class Remembered:
    ts: int
    seq: int | None
    bits: int
    connection: int


@dataclass
class Judgement:
    flag: int = 0
    score: float = 0.0
    detector: int = f.DETECTOR_NONE
    verdict: int = 0
    expected: float = math.nan
    band: float = math.nan


@dataclass
class Series:
    limits: Limits
    warmup: int
    recent: list[Remembered] = field(default_factory=list)
    floor_ts: int = NO_TS
    last_ts: int | None = None
    last_value: float = 0.0
    level: float = 0.0
    spread: float = 0.0
    other_level: float = 0.0
    other_spread: float = 0.0
    n: int = 0
    outside: int = 0
    run: int = 0
    usual_run: float = 0.0
    spike_excess: float = f32(0.373)
    shift_excess: float = 0.5
    up: float = 0.0
    down: float = 0.0

    def read(self, ts: int, x: float, seq: int | None, connection: int, flag: int = 0) -> Judgement:
        if not math.isfinite(x):
            return Judgement(flag)
        flag |= self.identify(ts, x, seq, connection)
        if flag & f.NOT_LEARNT:
            return Judgement(flag)
        result = self.judge(ts, x)
        result.flag = flag
        return result

    def identify(self, ts: int, x: float, seq: int | None, connection: int) -> int:
        bits = int(np.float64(x).view(np.int64))
        for known in self.recent:
            if (known.ts, known.seq) == (ts, seq):
                same, here = known.bits == bits, known.connection == connection
                known.bits, known.connection = bits, connection
                if not same:
                    return f.TS_COLLISION
                return f.DUPLICATE if here else f.REPLAYED
        if ts <= self.floor_ts:
            return f.LATE
        self.recent.append(Remembered(ts, seq, bits, connection))
        if len(self.recent) > 4:
            forgotten = min(self.recent[:4], key=lambda known: known.ts)
            if ts < forgotten.ts:
                forgotten = self.recent[4]
                self.recent.pop()
            else:
                self.recent[self.recent.index(forgotten)] = self.recent.pop()
            self.floor_ts = max(self.floor_ts, forgotten.ts)
        return 0

    def judge(self, ts: int, x: float) -> Judgement:
        limits = self.limits
        newest = self.last_ts is None or ts > self.last_ts
        last, seconds = self.last_value, 0.0
        if newest:
            if self.last_ts is not None:
                if 0 < limits.gap_ns < ts - self.last_ts:
                    self.n = self.outside = 0
                    self.up = self.down = 0.0
                seconds = (ts - self.last_ts) * 1e-9
            self.follow_run(x)
            self.last_ts, self.last_value = ts, x

        base, unit, y = 0.0, 1.0, x
        if limits.counter:
            if seconds == 0.0 or x < last:
                return Judgement()
            base, unit, y = last, seconds, min((x - last) / seconds, 1e308)

        deviation = clip(y - self.level, -1e308, 1e308)
        sigma = max(SIGMA * self.spread, limits.floor or 1e-4 * abs(self.level))
        if self.n < self.warmup:
            self.learn(y, deviation, sigma)
            return Judgement(verdict=f.LEARNING)

        z = min(abs(deviation) / sigma, 1e6) if sigma > 0 else 0.0
        excess = self.spike_excess
        shift = self.shift_score(z, deviation > 0)
        judged = [(self.spike_score(z), f.DETECTOR_SPIKE) if limits.spike else (0.0, 0)]
        if limits.shift:
            judged.append((shift, f.DETECTOR_SHIFT))
        if limits.stuck and newest and self.usual_run > 0:
            judged.append((2.0 * (self.run - 1) / max(self.usual_run, 10.0), f.DETECTOR_STUCK))
        score, detector = max(judged, key=lambda one: one[0])  # the first of equals
        suspect = score >= limits.threshold

        band = sigma * (2.0 + excess * max(limits.threshold - 1.342, 0.0) / LOG10E)
        moved = min(abs(x - last), 1e308)
        comes_back = not limits.counter and abs(x - self.level) < abs(last - self.level)
        if seconds > 0 and moved > limits.step * seconds + band and not comes_back:
            suspect, score, detector = True, max(score, 12.0), f.DETECTOR_RATE
        if not limits.warn_low <= x <= limits.warn_high:
            suspect, score, detector = True, max(score, 12.0), f.DETECTOR_RANGE

        expected = base + self.level * unit
        if z > 2.0 and self.outside == 0:
            moved = excess + (min(z - 2.0, 4.0 * excess) - excess) / 64
            self.spike_excess = f32(max(moved, 0.373))
        if z > 4.0:
            self.stay_outside(y)
        else:
            self.outside = 0
            self.learn(y, deviation, sigma)
        verdict = f.SUSPECT if suspect else 0
        return Judgement(
            0, f32(min(score, 30.0)), detector, verdict, f32(expected), f32(band * unit)
        )

    def spike_score(self, z: float) -> float:
        if z <= 2.0:
            return LOG10E * z * (0.416 * z + 0.717)
        return 1.342 + LOG10E * (z - 2.0) / self.spike_excess

    def shift_score(self, z: float, above: bool) -> float:
        excess = self.shift_excess
        signed = min(z, 4.0) if above else -min(z, 4.0)
        up = clip(self.up + signed - 1.0, 0.0, 20.0 * excess)
        down = clip(self.down - signed - 1.0, 0.0, 20.0 * excess)
        self.up, self.down = f32(up), f32(down)
        total = max(up, down)
        if total > 0 and z <= 4.0:
            moved = excess + (min(total, 4.0 * excess) - excess) / 256
            self.shift_excess = f32(max(moved, 0.5))
        if z <= 1.0:
            return 0.0
        return LOG10E * (up if above else down) / excess

    def follow_run(self, x: float) -> None:
        if x == self.last_value:
            self.run += 1
            return
        if self.run:
            longest = 3.0 * max(self.usual_run, 10.0)
            self.usual_run = f32(max(self.usual_run * 0.9995, min(self.run, longest)))
        self.run = 1

    def learn(self, y: float, deviation: float, sigma: float) -> None:
        step = deviation
        if self.n >= 8 and sigma > 0:
            step = clip(deviation, -3.0 * sigma, 3.0 * sigma)
        if self.n == 0:
            self.level, self.spread = y, 0.0
        else:
            self.level += step * max(1.0 / (self.n + 1), 0.15)
            self.spread += (abs(step) - self.spread) * max(1.0 / self.n, 0.02)
        self.n += 1

    def stay_outside(self, y: float) -> None:
        if self.outside == 0:
            self.other_level, self.other_spread = y, self.spread
        else:
            deviation = clip(y - self.other_level, -1e308, 1e308)
            self.other_level += 0.1 * deviation
            self.other_spread += 0.1 * (abs(deviation) - self.other_spread)
        self.outside += 1
        if self.outside >= 60:
            self.level, self.spread = self.other_level, self.other_spread
            self.outside, self.up, self.down = 0, 0.0, 0.0
