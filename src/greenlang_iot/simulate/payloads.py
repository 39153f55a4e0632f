"""Payloads as devices write them, good ones and every kind of bad one."""

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from greenlang_iot.devices.units import conversion
from greenlang_iot.model.reasons import Reason
from greenlang_iot.simulate.manifest import Reading, Rejects

_OFFSET = dt.timezone(dt.timedelta(hours=1))
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Writer(NamedTuple):
    """How one device writes. All its time stamps are whole milliseconds."""

    device: str
    metrics: tuple[str, ...]
    units: tuple[str, ...]
    form: Literal["values", "single", "array"]
    ts_style: Literal["ms", "iso", "iso-offset", "ns"]
    has_seq: bool
    fahrenheit: bool  # sends Cel series in degF, with the unit

    def ts(self, ts_ns: int) -> str:
        """The JSON text of a time stamp."""
        if self.ts_style == "ms":
            return str(ts_ns // 1_000_000)
        if self.ts_style == "ns":
            return str(ts_ns)
        moment = _EPOCH + dt.timedelta(milliseconds=ts_ns // 1_000_000)
        if self.ts_style == "iso":
            return f'"{moment.replace(tzinfo=None).isoformat(timespec="milliseconds")}Z"'
        return f'"{moment.astimezone(_OFFSET).isoformat(timespec="milliseconds")}"'

    def sample(self, ts_ns: int, values: Sequence[float], seq: int) -> tuple[str, list[Reading]]:
        """One object with all metrics, and the readings in it."""
        pairs = ",".join(f'"{m}":{v!r}' for m, v in zip(self.metrics, values, strict=True))
        number = seq if self.has_seq else None
        tail = f',"seq":{seq}' if self.has_seq else ""
        readings = [
            Reading(self.device, m, ts_ns, v, number)
            for m, v in zip(self.metrics, values, strict=True)
        ]
        return f'{{"ts":{self.ts(ts_ns)},"values":{{{pairs}}}{tail}}}', readings

    def single(self, i: int, ts_ns: int, value: float, seq: int) -> tuple[str, Reading]:
        """One object with metric number `i` alone, and its reading."""
        metric, unit = self.metrics[i], self.units[i]
        sent = value
        if self.fahrenheit and unit == "Cel":
            unit = "degF"
            factor, shift = conversion("Cel", "degF")
            sent = round(value * factor + shift, 3)
            factor, shift = conversion("degF", "Cel")
            value = sent * factor + shift
        tail = f',"seq":{seq}' if self.has_seq else ""
        text = (
            f'{{"ts":{self.ts(ts_ns)},"metric":"{metric}","value":{sent!r},"unit":"{unit}"{tail}}}'
        )
        return text, Reading(self.device, metric, ts_ns, value, seq if self.has_seq else None)

    def write(
        self, ts_ns: int, values: Sequence[float], seq: int
    ) -> list[tuple[bytes, list[Reading]]]:
        """The messages of one step: (payload, readings)."""
        if self.form == "values":
            text, readings = self.sample(ts_ns, values, seq)
            return [(text.encode(), readings)]
        parts = [self.single(i, ts_ns, v, seq) for i, v in enumerate(values)]
        if self.form == "single":
            return [(text.encode(), [reading]) for text, reading in parts]
        return [(f"[{','.join(t for t, _ in parts)}]".encode(), [r for _, r in parts])]


Bad = tuple[bytes, list[Reading], Rejects]
"""(payload, readings that are still good, what is rejected)"""


class Moment(NamedTuple):
    """What a device was about to send when it went wrong. limit: its first metric's upper end."""

    writer: Writer
    ts_ns: int
    values: Sequence[float]
    seq: int
    limit: float

    def good(self) -> tuple[str, list[Reading]]:
        return self.writer.sample(self.ts_ns, self.values, self.seq)

    def all_rejected(self, reason: Reason) -> Rejects:
        return tuple((f"values.{m}", reason.value) for m in self.writer.metrics)

    def with_ts(self, ts: str, reason: Reason) -> Bad:
        """The same values under another time stamp (JSON text), all refused for it."""
        text, _ = self.good()
        old = f'"ts":{self.writer.ts(self.ts_ns)},'
        return text.replace(old, ts, 1).encode(), [], self.all_rejected(reason)

    def with_first(self, value: str, reason: Reason) -> Bad:
        """The first metric's value is the JSON text `value`; the other metrics are good."""
        text, readings = self.good()
        first = self.writer.metrics[0]
        text = text.replace(f'"{first}":{self.values[0]!r}', f'"{first}":{value}', 1)
        return text.encode(), readings[1:], ((f"values.{first}", reason.value),)


def _whole(reason: Reason) -> Rejects:
    return (("", reason.value),)


def _truncated(m: Moment) -> Bad:
    return m.good()[0][:-3].encode(), [], _whole(Reason.MALFORMED)


def _not_utf8(m: Moment) -> Bad:
    return b'{"ts":1,"values":{"\xff\xfe":1}}', [], _whole(Reason.MALFORMED)


def _unknown_metric(m: Moment) -> Bad:
    text, readings = m.good()
    text = text.replace('"values":{', '"values":{"battery_mood":3.5,', 1)
    return text.encode(), readings, (("values.battery_mood", Reason.UNKNOWN_METRIC.value),)


def _unknown_unit(m: Moment) -> Bad:
    ts, metric = m.writer.ts(m.ts_ns), m.writer.metrics[0]
    text = f'{{"ts":{ts},"metric":"{metric}","value":{m.values[0]!r},"unit":"furlong"}}'
    return text.encode(), [], (("value", Reason.UNKNOWN_UNIT.value),)


def _out_of_range(m: Moment) -> Bad:
    return m.with_first(repr(m.limit + max(1.0, abs(m.limit))), Reason.OUT_OF_RANGE)


def _bad_shape(m: Moment) -> Bad:
    text = f'{{"ts":{m.writer.ts(m.ts_ns)},"reading":{m.values[0]!r}}}'
    return text.encode(), [], (("value", Reason.BAD_SHAPE.value),)


def _elsewhere(reason: Reason) -> Callable[[Moment], Bad]:
    return lambda m: (m.good()[0].encode(), [], _whole(reason))


_YEAR_NS = 366 * 86_400 * 1_000_000_000

BAD_PAYLOADS: dict[str, Callable[[Moment], Bad]] = {
    "truncated": _truncated,
    "not_utf8": _not_utf8,
    "unknown_metric": _unknown_metric,
    "unknown_unit": _unknown_unit,
    "out_of_range": _out_of_range,
    "not_a_number": lambda m: m.with_first('"n/a"', Reason.NOT_A_NUMBER),
    "null_value": lambda m: m.with_first("null", Reason.NOT_A_NUMBER),
    "bad_shape": _bad_shape,
    "missing_ts": lambda m: m.with_ts("", Reason.TS_MISSING),
    "invalid_ts": lambda m: m.with_ts('"ts":"yesterday",', Reason.TS_INVALID),
    "future_ts": lambda m: m.with_ts(f'"ts":{m.ts_ns + _YEAR_NS},', Reason.TS_IN_FUTURE),
    "old_ts": lambda m: m.with_ts(f'"ts":{m.ts_ns - _YEAR_NS},', Reason.TS_TOO_OLD),
    # the payload is good, its topic is not
    "unknown_device": _elsewhere(Reason.UNKNOWN_DEVICE),
    "wrong_place": _elsewhere(Reason.WRONG_PLACE),
}
"""Every kind of bad message: one value of `Reason` each that a device can cause."""
