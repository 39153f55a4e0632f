"""The general path: payloads through orjson or another format into rows, and every decision to reject."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from greenlang_iot.decode.guests import Guests
from greenlang_iot.decode.lookup import Lookup, Target
from greenlang_iot.decode.rows import Rows, Window
from greenlang_iot.formats.base import Reading
from greenlang_iot.formats.catalog import Route
from greenlang_iot.formats.shape import shaped
from greenlang_iot.model.batches import Reject
from greenlang_iot.model.flags import CONVERTED, HAS_SEQ
from greenlang_iot.model.reasons import Reason
from greenlang_iot.settings.model import LimitSettings

MALFORMED: Any = object()
"""Stands for a payload that is not JSON."""

_OF_SHAPE = (Reason.BAD_SHAPE, Reason.UNKNOWN_ALIAS)
"""Reasons of readings whose metric is not known."""

# No payload can end its own element of the joined array and begin another one, because whoever
# writes it does not know the number that has to stand between two elements.
_BETWEEN = secrets.randbits(62)
_SEPARATOR = b",%d," % _BETWEEN


def parse_payloads(payloads: list[bytes]) -> list[Any]:
    """Each payload as orjson reads it, or MALFORMED; in one call where all of them are JSON."""
    try:
        joined = orjson.loads(b"[" + _SEPARATOR.join(payloads) + b"]")
    except orjson.JSONDecodeError:
        return [_parse(payload) for payload in payloads]
    between = joined[1::2]
    if len(joined) == 2 * len(payloads) - 1 and between == [_BETWEEN] * len(between):
        documents: list[Any] = joined[0::2]
        return documents
    return [_parse(payload) for payload in payloads]


def _parse(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return MALFORMED


@dataclass(slots=True)
class Message:
    """One MQTT message on its way through the general path."""

    frame: int
    device: int  # −1 where it is not known
    flags: int  # of each of its rows
    topic: bytes
    payload: bytes
    route: Route | None = None  # None: our JSON
    metric: str = ""  # of the topic


class MessageReader:
    """Judges the readings of one batch: good ones to `rows`, the others to rejects."""

    def __init__(
        self,
        lookup: Lookup,
        guests: Guests | None,
        limits: LimitSettings,
        window: Window,
        rows: Rows,
    ) -> None:
        self._lookup = lookup
        self._guests = guests
        self._max_readings = limits.max_readings_per_message
        self._window = window
        self._rows = rows
        self._message: Message
        self._reject: Reject | None

    def whole(self, message: Message, reason: Reason) -> Reject:
        """The Reject of a message of which nothing was decoded."""
        reject = self._new_reject(message)
        reject.paths.append(("", reason.value))
        reject.series.append(-1)
        reject.values.append(math.nan)
        reject.ts_ns.append(0)
        return reject

    def read(self, message: Message, document: Any) -> Reject | None:
        """Decode a message of our JSON; the Reject holds what was not good in it."""
        try:
            readings = shaped(document)
        except ValueError:
            return self.whole(message, Reason.MALFORMED)
        return self.take(message, readings, self._window.receive_ns)

    def take(
        self, message: Message, readings: Sequence[Reading], receive_ns: int | None
    ) -> Reject | None:
        """Decode a message whose readings were read; receive_ns stands for a missing time stamp."""
        if len(readings) > self._max_readings:
            return self.whole(message, Reason.TOO_MANY_READINGS)
        self._message = message
        self._reject = None
        missing = Reason.TS_MISSING if receive_ns is None else receive_ns
        window = self._window
        for path, metric, number, ts, unit, seq in readings:
            if type(number) is Reason and number in _OF_SHAPE:
                self._refuse(path, number)
                continue
            at: int | Reason
            if ts is None:
                at = missing
            elif isinstance(ts, Reason):
                at = ts
            elif ts < window.oldest_ns:
                at = Reason.TS_TOO_OLD
            else:
                at = Reason.TS_IN_FUTURE if ts > window.newest_ns else ts
            self._reading(path, metric, number, unit, at, seq)
        return self._reject

    def _reading(
        self, path: str, metric: str, number: Any, unit: str | None, ts: int | Reason, seq: int
    ) -> None:
        """One reading to `rows`, or its first problem to the Reject."""
        message, guests = self._message, self._guests
        target = self._lookup.targets(message.device).get(metric)
        series = -1 if target is None else target.series
        if target is None and not (guests and guests.can_learn(message.device, metric, unit)):
            return self._refuse(path, Reason.UNKNOWN_METRIC)
        if isinstance(ts, Reason):
            return self._refuse(path, ts, series)
        if type(number) is not float and type(number) is not int:
            reason = number if type(number) is Reason else Reason.NOT_A_NUMBER
            return self._refuse(path, reason, series)
        if type(number) is int and not -(2**63) <= number < 2**64:
            number = _as_float(number)  # as JSON's are read
        flags = message.flags | (HAS_SEQ if seq >= 0 else 0)
        value, text = float(number), repr(number)
        if target is None:
            target = self._learn(metric, unit)
        elif unit is not None:
            conversion = self._lookup.conversion(unit, target.unit)
            if conversion is None:
                return self._refuse(path, Reason.UNKNOWN_UNIT, series)
            if conversion != (1.0, 0.0):
                value = value * conversion[0] + conversion[1]
                text = repr(value)
                flags |= CONVERTED
        if not math.isfinite(value):
            return self._refuse(path, Reason.NON_FINITE, series)
        if not target.low <= value <= target.high:
            return self._refuse(path, Reason.OUT_OF_RANGE, series, value, ts)
        self._rows.add(target.series, ts, value, max(seq, 0), flags, message.frame, text)
        return None

    def _learn(self, metric: str, unit: str | None) -> Target:
        assert self._guests is not None
        device = self._message.device
        series, unit_index = self._guests.learn(device, metric, unit)
        target = Target(series, -math.inf, math.inf, unit_index)
        self._lookup.add_metric(device, metric, unit or "1", target)
        return target

    def _refuse(
        self, path: str, reason: Reason, series: int = -1, value: float = math.nan, ts_ns: int = 0
    ) -> None:
        reject = self._reject
        if reject is None:
            reject = self._reject = self._new_reject(self._message)
        reject.paths.append((path, reason.value))
        reject.series.append(series)
        reject.values.append(value)
        reject.ts_ns.append(ts_ns)
        reject.readings += 1

    def _new_reject(self, message: Message) -> Reject:
        device = self._lookup.place(message.device).device if message.device >= 0 else ""
        return Reject(message.topic, message.payload, device, [], 0)


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
