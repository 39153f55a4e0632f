"""The slow, obvious twin of the kernels of `detect/`: one object per series, one reading at a time.

Fields that the rows keep as float32 are rounded where they are stored (`f32`).
"""

import math
from dataclasses import dataclass, field

import numpy as np

from greenlang_iot.model import flags as f

SIGMA = 1.2533141373155001
LOG10E = 0.4342944819032518
LN2 = 0.6931471805599453
NO_TS = -(2**63)
HOUR = 3_600_000_000_000


def f32(x: float) -> float:
    """As a float32 column keeps it: what is beyond its range is infinite there."""
    with np.errstate(over="ignore"):
        return float(np.float32(x))


def log(x: float) -> float:
    """The kernels' logarithm: powers of two, and a series for what is left."""
    m, power = math.frexp(x)
    if m < math.sqrt(0.5):
        m, power = 2 * m, power - 1
    s = (m - 1) / (m + 1)
    return LN2 * power + 2 * s * horner(s * s, *(1 / n for n in range(1, 13, 2)))


def exp(x: float) -> float:
    """And their exponential, of what is not negative."""
    power = math.floor(x / LN2 + 0.5)
    return math.ldexp(horner(x - LN2 * power, *(1 / math.factorial(n) for n in range(9))), power)


def horner(x: float, *coefficients: float) -> float:
    """The polynomial with these coefficients, that of the constant first."""
    total = coefficients[-1]
    for one in coefficients[-2::-1]:
        total = one + x * total
    return total


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
    context: bool = True
    swing: bool = True
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
    other_level: float = 0.0  # above the level
    other_spread: float = 0.0
    n: int = 0
    outside: int = 0
    run: int = 0
    usual_run: float = 0.0
    drift: float = 0.0
    spike_tail: float = f32(0.235)
    shift_excess: float = 0.5
    up: float = 0.0
    down: float = 0.0
    quiet: int = 0
    usual: "Tail" = field(default_factory=lambda: Tail(1.2, 0.3))
    stray: "Tail" = field(default_factory=lambda: Tail(1.0))
    context: "Context" = field(default_factory=lambda: Context())
    habit: "Habit" = field(default_factory=lambda: Habit())

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

        level = self.level + self.drift
        deviation = clip(y - level, -1e308, 1e308)
        sigma = max(SIGMA * self.spread, self.floor(level))
        if self.n < self.warmup:
            self.learn(y, deviation, sigma)
            return Judgement(verdict=f.LEARNING)

        z = min(abs(deviation) / sigma, 1e6) if sigma > 0 else 0.0
        seen = self.context.seen
        new = 1.0 + 0.5 * max(1.0 - seen / 400, 0.0) ** 2 if limits.threshold <= 6 else 1.0
        weight = 0.112 + 2.2 * max(self.spike_tail - 0.235, 0.0)
        tail = new * weight
        shift = self.shift_score(z, deviation > 0, seen) / new
        usual, which = (self.spike_score(z, tail), f.DETECTOR_SPIKE) if limits.spike else (0.0, 0)
        if limits.shift and shift > usual:
            usual, which = shift, f.DETECTOR_SHIFT
        context, resolution, missed = self.context, self.floor(level), False
        if limits.context or limits.swing:
            context.meet(y, ts, seconds if newest else -1.0, self.quiet > 0)
            error = max(SIGMA * context.error, resolution)
            if context.settled and 0 < error < 0.7 * sigma and abs(context.residual) > z * error:
                missed = True
                if limits.spike:
                    spike = self.spike_score(min(abs(context.residual) / error, 1e6), tail)
                    if not (limits.shift and shift > spike):
                        usual, which = spike, f.DETECTOR_CONTEXT
                    else:
                        usual, which = shift, f.DETECTOR_SHIFT
        belief = min(seen / 4000, 0.8)
        judged = [(self.usual.lowered(usual, belief), which)]
        needed = self.usual.raised(limits.threshold, belief)
        stray = -1.0
        if limits.context or limits.swing:
            stray, expected_now = context.read(seconds, resolution)
            if expected_now:
                judged[0] = 0.75 * judged[0][0], which
            strange = self.stray.lowered(stray, min(seen / 20_000, 1.0) ** 2)
            if context.record > 0.0:
                strange += 1.5 if strange > 2.0 else 0.0
                strange = max(strange, context.record if z > 2.0 else 0.0)
            if not limits.counter:
                moved = min(abs(x - last), 1e18) if seconds > 0 else None
                strange = max(strange, context.roughness(moved, seen))
                if moved is not None:
                    strange = max(strange, context.outside_range(x - last, seen, resolution))
            strange = strange if limits.context else 0.0
            agreed = 0.5 * min(0.2 / weight, 1.0) * max(min(judged[0][0], strange) - 2.0, 0.0)
            higher = max(judged[0], (strange, f.DETECTOR_CONTEXT), key=lambda one: one[0])
            judged[0] = higher[0] + agreed, higher[1]
            judged.append((context.swung if limits.swing else 0.0, f.DETECTOR_SWING))
        if limits.stuck and newest and self.usual_run > 0:
            judged.append((1.5 * (self.run - 1) / max(self.usual_run, 10.0), f.DETECTOR_STUCK))
        score, detector = max(judged, key=lambda one: one[0])  # the first of equals
        suspect = score >= limits.threshold
        quiet = self.quiet
        calm = quiet == 0
        told = self.is_told(suspect, detector, score)

        decades = max(needed - 1.342, 0.0)
        band = sigma * (2.0 * exp(min(tail * decades / LOG10E, 13.0)))
        moved = min(abs(x - last), 1e308)
        comes_back = not limits.counter and abs(x - level) < abs(last - level)
        violated = False
        if seconds > 0 and moved > limits.step * seconds + band and not comes_back:
            suspect, told, score, detector = True, False, max(score, 12.0), f.DETECTOR_RATE
            violated = True
        if not limits.warn_low <= x <= limits.warn_high:
            suspect, told, score, detector = True, False, max(score, 12.0), f.DETECTOR_RANGE
            violated = True

        daily = False
        if suspect and not violated and detector != f.DETECTOR_STUCK:
            if told:
                daily = quiet <= 12 and self.habit.goes_on(ts)
            else:
                told = daily = self.habit.has(ts, score)
            self.quiet = 12 if daily else self.quiet
        if told:
            score = limits.threshold * (1.0 - 0.3 * limits.threshold / score)
        elif not violated and seen >= 50:
            if calm and not missed:
                self.usual.learn(usual, seen)
            if stray >= 0.0:
                self.stray.learn(stray, seen)

        expected = base + level * unit
        if z > 2.0 and self.outside == 0 and not violated:
            tail = self.spike_tail
            rate = (1.0 if calm else 0.2) / 64
            self.spike_tail = f32(tail + rate * (log(z / 2.0) - tail))
        farther = False
        if z > 4.0:
            farther = told and not daily and self.outside == 0
            farther = farther and abs(deviation) >= 3.0 * abs(self.other_level)
            self.stay_outside(deviation)
        else:
            self.outside = 0
            self.learn(y, deviation, sigma)
        verdict = (f.SUSPECT if suspect else 0) | (f.TOLD if told else 0)
        verdict |= f.HABIT if daily else 0
        verdict |= f.FARTHER if farther else 0
        return Judgement(
            0, f32(min(score, 30.0)), detector, verdict, f32(expected), f32(band * unit)
        )

    def floor(self, level: float) -> float:
        return self.limits.floor or 1e-4 * abs(level)

    def is_told(self, suspect: bool, detector: int, score: float) -> bool:
        threshold = self.limits.threshold
        if detector == f.DETECTOR_STUCK:
            return suspect and score * (self.run - 2) >= threshold * (self.run - 1)
        was_quiet = self.quiet > 0
        if suspect:
            self.quiet = int(clip(0.06 * self.context.seen, 25, 140))
        else:
            self.quiet = max(self.quiet - 1, 0)
        return suspect and was_quiet

    def spike_score(self, z: float, tail: float) -> float:
        if z <= 2.0:
            return LOG10E * z * (0.416 * z + 0.717)
        return 1.342 + LOG10E * log(z / 2.0) / tail

    def shift_score(self, z: float, above: bool, seen: int) -> float:
        excess = self.shift_excess
        signed = min(z, 4.0) if above else -min(z, 4.0)
        up = clip(self.up + signed - 1.0, 0.0, 20.0 * excess)
        down = clip(self.down - signed - 1.0, 0.0, 20.0 * excess)
        self.up, self.down = f32(up), f32(down)
        total = max(up, down)
        if total > 0:
            moved = excess + max(1.0 / (seen + 64), 1 / 256) * (min(total, 4.0 * excess) - excess)
            self.shift_excess = f32(max(moved, 0.5))
        if z <= 1.0:
            return 0.0
        doubt = excess + 2.0 * max(excess - 0.6, 0.0)
        return LOG10E * (up if above else down) / doubt

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
            self.level, self.spread, self.drift = y, 0.0, 0.0
        else:
            self.level += (step + self.drift) * max(1.0 / (self.n + 1), 0.15)
            self.drift = f32(clip(self.drift + 0.02 * step, -1e37, 1e37))
            spread = self.spread + (abs(step) - self.spread) * max(1.0 / self.n, 0.02)
            self.spread = f32(min(spread, 1e37))
        self.n += 1

    def stay_outside(self, deviation: float) -> None:
        x = clip(deviation, -1e37, 1e37)
        if self.outside == 0:
            self.other_level, self.other_spread = f32(x), self.spread
        else:
            other = self.other_level
            self.other_level = f32(other + 0.1 * (x - other))
            spread = self.other_spread + 0.1 * (abs(x - other) - self.other_spread)
            self.other_spread = f32(min(spread, 1e37))
        self.outside += 1
        if self.outside >= 60:
            self.level = self.level + self.drift + self.other_level
            self.spread = self.other_spread
            self.outside, self.drift, self.up, self.down = 0, 0.0, 0.0, 0.0


@dataclass
class Tail:
    """The tail of raw scores: what one reading in a hundred exceeds, and by how much on average."""

    light: float  # in decades: excesses up to this are those of a decade
    more: float = 0.0  # how much higher the first figure may be, because two detectors share it
    start: float = 2.0
    excess: float = f32(LOG10E)

    def own(self, raw: float) -> float:
        """−log10 of the share of readings at least as extreme, as the two figures say."""
        start = self.start - self.more
        if raw <= start:
            return 2.0 * raw / start
        return 2.0 + self.light * LOG10E * (raw - start) / self.excess

    def lowered(self, raw: float, belief: float) -> float:
        return min(raw, (1.0 - belief) * raw + belief * self.own(raw))

    def raised(self, score: float, belief: float) -> float:
        """What `lowered` makes this score of, found by halving."""
        low, high = score, 1e9
        for _ in range(200):
            middle = 0.5 * (low + high)
            if self.lowered(middle, belief) < score:
                low = middle
            else:
                high = middle
        return low

    def learn(self, raw: float, seen: int) -> None:
        rate = 1.0 / (0.01 * seen + 20.0)
        if raw <= self.start:
            self.start = f32(max(self.start - rate * 0.01 * self.excess, 1.0))
            return
        over = min(raw - self.start, 4.0 * self.excess)
        excess = max(self.excess + rate * (over - self.excess), 0.05)
        self.start, self.excess = f32(self.start + rate * 0.99 * excess), f32(excess)


@dataclass
class Usual:
    """What a quantity was over a long time: mean and standard deviation."""

    share: float  # the deviation is at least this share of the mean
    mean: float = 0.0
    sd: float = 0.0

    def away(self, x: float, least: float) -> float:
        unit = max(self.sd, self.share * self.mean, least)
        return (x - self.mean) / unit if x > self.mean and unit > 0 else 0.0

    def learn(self, x: float, least: float, seen: int) -> None:
        if seen >= 20:
            x = min(x, self.mean + 20.0 * max(self.sd, self.share * self.mean, least))
        rate, d = max(1.0 / (seen + 1), 2e-4), x - self.mean
        self.mean = f32(self.mean + rate * d)
        self.sd = f32(math.sqrt((1.0 - rate) * (self.sd * self.sd + rate * (d * d))))


@dataclass
class Habit:
    """An anomaly of one time of the day: when, on how many days, how strong in eighths of a decade."""

    minute: int = 0
    hour: int = 0  # since 1970
    days: int = 0
    peak: int = 0

    def off(self, minute: int) -> int | None:
        """Minutes from the usual time of day, None where it is more than an hour."""
        near = [self.minute + away for away in range(-60, 61)]  # on a day of 1,440 minutes
        return next((m - self.minute for m in near if m % 1440 == minute), None)

    def goes_on(self, ts: int) -> bool:
        near = self.off(ts // (HOUR // 60) % 1440) is not None
        return self.days >= 3 and near and ts // HOUR - self.hour < 12

    def has(self, ts: int, score: float) -> bool:
        minute, hour = ts // (HOUR // 60) % 1440, ts // HOUR
        eighths = min(int(8 * score), 255)
        since = hour - self.hour
        if since > 180:
            self.days = 0
        off = self.off(minute)
        if off is None and self.days > 1:
            self.days -= 1
            return False
        if off is None or self.days == 0:
            self.minute, self.hour, self.days, self.peak = minute, hour, 1, eighths
            return False
        known = self.days >= 3 and eighths <= self.peak + 8
        if since >= 12:
            self.minute = (self.minute + off // 2) % 1440
            self.hour, self.days = hour, min(self.days + 1, 7)
            self.peak = max(eighths, self.peak - 2)
        return known


@dataclass
class Context:
    seen: int = 0
    first_hour: int = 0
    anchor: float = 0.0
    slow: float = 0.0
    slow_error: float = 0.0
    hour_error: float = 0.0
    hours: dict[int, tuple[float, int]] = field(default_factory=dict)  # level, readings
    pieces: dict[int, float] = field(default_factory=dict)  # of the week: above the hour's level
    week_errors: list[float] = field(default_factory=lambda: [0.0, 0.0])  # of either half
    farthest: list[float] = field(
        default_factory=lambda: [0.0, 0.0]
    )  # from the slow level, by half of the day
    record: float = 0.0  # score of the newest reading where it was clearly farther
    residual: float = 0.0  # of the newest reading, and how far it usually is
    error: float = 0.0
    settled: bool = False
    knows_a_day: bool = False
    size: float = 0.0
    square: float = 0.0
    lean: float = 0.0
    usual_size: Usual = field(default_factory=lambda: Usual(0.3))
    usual_square: Usual = field(default_factory=lambda: Usual(0.6))
    usual_lean: Usual = field(default_factory=lambda: Usual(0.3))
    swing: "Swing" = field(default_factory=lambda: Swing())
    rough: float = 0.0  # mean size of the newest steps, and the largest that this was
    roughest: float = 0.0
    rough_now: float = 0.0  # before it is rounded
    highest: float = 0.0  # that two readings in a row ever reached, above the anchor
    lowest: float = 0.0
    place: float = 0.0  # of the newest reading, above the anchor
    swung: float = 0.0  # score of the newest reading as part of a swing

    def meet(self, y: float, ts: int, seconds: float, doubt: bool) -> None:
        """What was expected of this reading, and what is known of the series."""
        hours = ts // HOUR
        if self.seen == 0:
            self.anchor, self.first_hour = f32(clip(y, -3e38, 3e38)), hours
        age = hours - self.first_hour
        self.knows_a_day = self.seen >= 100 and age >= 48
        self.settled = self.knows_a_day or self.seen >= max(500, 720 * age)
        x = clip(y - self.anchor, -1e18, 1e18)
        if self.seen == 0:
            self.highest = self.lowest = f32(x)
        self.place = x
        self.swung = 0.0
        if seconds >= 0.0:
            swung = self.swing.read(x, x - self.slow, self.slow_error, seconds)
            self.swung = swung if self.settled else 0.0
        self.residual, self.error = self.expect(x, hours, max(seconds, 0.0), doubt)

    def read(self, seconds: float, resolution: float) -> tuple[float, bool]:
        """The raw score, −1 where nothing is judged yet, and whether the value is what was expected."""
        r, error = self.residual, self.error
        size = self.size + 0.1 * (abs(r) - self.size)
        sooner = 1.0 - min(seconds, 300.0) / 300.0
        square = self.square + 0.05 * (1.0 - 0.4 * sooner) * (r * r - self.square)
        lean = self.lean + 0.02 * (1.0 - 0.7 * sooner) * (r - self.lean)
        self.size, self.square, self.lean = f32(size), f32(square), f32(lean)
        judged = (
            (self.usual_size, size, resolution),
            (self.usual_square, square, resolution * resolution),
            (self.usual_lean, abs(lean), resolution),
        )
        score, judges, as_expected = 0.0, False, False
        if self.settled:
            judges, as_expected = True, abs(r) < 2.5 * self.usual_size.mean
            a, b, c = (1.0 + usual.away(x, least) for usual, x, least in judged)
            d = 1.0 + self.usual_size.away(error, resolution)
            score = log(min(a * b, 1e300)) + 0.7 * log(min(c, 1e300)) + 0.4 * log(min(d, 1e300))
        for usual, x, least in judged:
            usual.learn(x, least, self.seen)
        self.seen += 1
        return 1.19 * score if judges else -1.0, as_expected

    def roughness(self, moved: float | None, seen: int) -> float:
        """The score of a series that is rougher than it ever was."""
        rough, roughest, score = self.rough, self.roughest, 0.0
        if moved is not None:
            rough += 0.05 * (moved - rough)
        if self.knows_a_day and 0.0 < roughest * 1.5 < rough:
            score = LOG10E * (log(seen) + 6.0 * log(min(f32(rough) / roughest, 10.0)))
        if rough > roughest:
            roughest += (1.0 if seen < 100 else 0.01) * (rough - roughest)
        self.rough_now = rough
        self.rough, self.roughest = f32(rough), f32(roughest)
        return score

    def outside_range(self, moved: float, seen: int, resolution: float) -> float:
        """The score of a series that left its range for two readings in a row, the last of which moved it by `moved`."""
        up = self.place - max(moved, 0.0) - self.highest
        down = self.lowest - self.place + min(moved, 0.0)
        width, score = max(self.highest - self.lowest, resolution), 0.0
        beyond = max(up, down) - 2.0 * self.rough_now
        if self.knows_a_day and beyond > 0.02 * width > 0.0:
            power = clip(160.0 * self.usual_size.mean / width, 6.0, 25.0)
            score = LOG10E * (log(seen) + power * log(min(1.0 + 2.0 * beyond / width, 10.0)))
        rate = 0.05 if self.settled else 1.0
        self.highest = f32(self.highest + rate * max(up, 0.0))
        self.lowest = f32(self.lowest - rate * max(down, 0.0))
        return score

    def expect(self, x: float, hours: int, seconds: float, doubt: bool) -> tuple[float, float]:
        """How far from the best of three expectations, and how far that usually is."""
        hour, piece = hours % 24, hours // 6 % 28
        level, learnt = self.hours.get(hour, (0.0, 0))
        slow_residual = result = x - self.slow
        error = 0.0
        if learnt == 0:
            level, result = x, 0.0
        else:
            hour_residual = x - level
            hour_error = self.hour_error + 0.01 * (abs(hour_residual) - self.hour_error)
            self.hour_error = f32(hour_error)
            error = self.slow_error
            if not error < hour_error:
                result, error = hour_residual, hour_error
            self.slow_error = f32(self.slow_error + 0.01 * (abs(slow_residual) - self.slow_error))
            offset, week_error = self.pieces.get(piece, 0.0), self.week_errors[piece // 14]
            week_residual = hour_residual - offset
            if hours - self.first_hour >= 168:
                week_error += 0.01 * (abs(week_residual) - week_error)
                if week_error < error:
                    result, error = week_residual, week_error
            else:
                week_error = max(week_error, hour_error)
            self.week_errors[piece // 14] = f32(week_error)
            doubted = 0.2 if doubt else 1.0
            rate = max(28 / (self.seen + 28), 0.005) * doubted
            self.pieces[piece] = f32(offset + rate * week_residual)
            pace = clip(0.05 * seconds / 300, 0.0125, 0.05)
            if seconds > 1_200:
                pace = min(0.05 * seconds / 1_200, 0.3)
            pace = max(1.0 / (learnt + 1), pace) if learnt < 20 else pace
            level += pace * doubted * hour_residual
        self.hours[hour] = f32(level), learnt + 1
        self.slow = f32(self.slow + 0.005 * slow_residual)
        far, half = abs(slow_residual), hour // 12
        self.record = 0.0
        if self.knows_a_day and far > 1.2 * self.farthest[half]:
            factor = min(far / self.farthest[half], 10.0) if self.farthest[half] > 0 else 10.0
            self.record = LOG10E * (log(self.seen) + 4.0 * log(factor))
        self.farthest[half] = max(self.farthest[half], f32(far))
        return result, error


@dataclass
class Side:
    """The stays of a series on one side of its slow level."""

    sign: int
    stay: float = 0.0  # readings: usual, and most
    longest: float = 0.0
    turn: float = 0.0  # how far it goes, and how much that varies
    varies: float = 0.0
    count: int = 0
    known: bool = False
    long: float = math.inf  # readings that are too many, a whole number
    far: float = math.inf  # and too far, beyond the turn

    def learn(self, length: float, farthest: float, whole: float) -> None:
        rate = max(1.0 / (self.count + 1), 0.05)
        off = farthest - self.turn
        if self.count >= 10:
            length = min(length, 2.0 * self.longest)
            most = 3.0 * self.varies + 0.1 * whole
            off = clip(off, -most, most)
        self.stay += rate * (length - self.stay)
        self.longest = f32(max(self.longest - 0.002 * (self.longest - self.stay), length))
        if self.count == 0:
            self.turn, self.varies = farthest, 0.0
        else:
            self.turn += rate * off
            self.varies += rate * (abs(off) - self.varies)
        self.count = min(self.count + 1, 255)

    def expect(self, other: "Side", seconds: float) -> None:
        """What is too long and too far from now on."""
        self.long = self.far = math.inf
        counted = min(self.count, other.count)
        self.known = counted >= 10 and max(self.stay, other.stay) * seconds <= 21_600.0
        if self.known:
            whole = self.sign * (self.turn - other.turn)
            room = 8.0 * self.varies + 0.1 * whole
            if 1e-6 * abs(self.turn) < room < 0.4 * whole:
                self.far = self.sign * (f32(self.turn + self.sign * room) - f32(self.turn))
            between = self.count >= 60 and max(self.varies, other.varies) < 0.1 * whole
            if between or self.longest < 2.0 * self.stay:
                grows = max(11.5 / log(self.count) - 1.0, 0.5)
                more = max(grows * (self.longest - self.stay), 0.3 * self.stay)
                limit = max(self.longest + more, 12.0)
                self.long = math.ceil(limit) if limit * seconds < 21_600.0 else math.inf
        self.stay, self.turn, self.varies = f32(self.stay), f32(self.turn), f32(self.varies)


@dataclass
class Swing:
    """What repeats, but not by the day."""

    low: Side = field(default_factory=lambda: Side(-1))
    high: Side = field(default_factory=lambda: Side(1))
    up: bool = False
    length: int = 0
    farthest: float = 0.0

    def read(self, x: float, apart: float, usual: float, seconds: float) -> float:
        now, other = (self.high, self.low) if self.up else (self.low, self.high)
        if now.sign * apart < -0.25 * usual:
            score = 0.0
            if self.length >= 5:
                score = self.over(now)
                whole = now.sign * (now.turn - other.turn)
                if 0 < now.count < 60 and other.count and abs(self.farthest - now.turn) > whole:
                    now.count = other.count = 0
                now.learn(self.length, self.farthest, whole)
                now.expect(other, seconds)
            self.up, self.length, self.farthest = not self.up, 1, f32(x)
            return score
        self.length = min(self.length + 1, 32_766)
        self.farthest = f32(max(x, self.farthest) if self.up else min(x, self.farthest))
        score = 0.0
        if now.known:
            if self.length - 1 >= now.long:
                score = 5.0 * self.length / now.long
            score = max(score, self.off(now.sign * (x - now.turn), now.far))
        return score

    def off(self, distance: float, room: float) -> float:
        """The score of a turn that is this far out of the way."""
        return 5.0 * distance / room if distance > room else 0.0

    def over(self, now: Side) -> float:
        """The score of a stay that did not go far enough, or was too short."""
        if not now.known:
            return 0.0
        score = self.off(now.sign * (now.turn - self.farthest), now.far)
        short, less = 0.3 * now.stay + (now.longest - now.stay), now.stay - self.length
        if short < now.stay - 5.0 and less > short:
            score = max(score, 5.0 * less / short)
        return score


@dataclass
class Metric:
    """One of a device's metrics, and how it follows the mean of the others."""

    newest: float | None = None  # its z in the newest set
    own: float = 0.0  # mean squares and product
    both: float = 0.0
    others: float = 0.0
    apart: float = 0.0
    sets: int = 0

    def usual(self) -> float | None:
        """Mean squared residual, None where it does not follow the others."""
        if self.sets < 300 or self.both * self.both <= 0.5 * self.own * self.others:
            return None
        return max(self.own - self.both * self.both / self.others, 0.02 * self.own)

    def learn(self, z: float, mean: float) -> None:
        usual = self.usual()
        if usual is None:
            self.apart = 0.0
        else:
            residual = z - self.both / self.others * mean
            self.apart = f32(self.apart + 0.2 * (min(residual * residual, 16 * usual) - self.apart))
        rate = max(1 / (self.sets + 1), 1 / 512)
        self.own = f32(self.own + rate * (z * z - self.own))
        self.both = f32(self.both + rate * (z * mean - self.both))
        self.others = f32(self.others + rate * (mean * mean - self.others))
        self.sets += 1


class Siblings:
    """The metrics of one device."""

    def __init__(self, metrics: int) -> None:
        self.metrics = [Metric() for _ in range(metrics)]
        self.ts: int | None = None

    def read(self, at: int, ts: int, z: float) -> float:
        if self.ts is None or ts > self.ts:
            there = [(m, m.newest) for m in self.metrics if m.newest is not None]
            total = sum(z for _, z in there)
            for metric, its in there:
                metric.newest = None
                if len(there) > 1:
                    metric.learn(its, (total - its) / (len(there) - 1))
            self.ts = ts
        one = self.metrics[at]
        if ts == self.ts:
            one.newest = f32(clip(z, -4.0, 4.0))
        usual = one.usual()
        if usual is None or one.apart <= usual:
            return 0.0
        x = one.apart / usual
        return 1.3 * (x - 1 - log(x))
