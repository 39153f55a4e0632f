"""The slow, obvious twin of the decoder: one message at a time, plain Python, no shared code.

Registered devices only (`unknown_devices: reject`).
"""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson

from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import CLOCK_SUSPECT, CONVERTED, HAS_SEQ, RETAINED
from greenlang_iot.settings.model import LimitSettings

Row = tuple[int, int, float, int, int, int]
"""(frame, series, ts_ns, value's float64, seq or −1, flags without TEXT_IN_ARENA)"""


@dataclass
class Rejected:
    """What a Reject says, without topic and payload."""

    frame: int
    device: str
    paths: list[tuple[str, str]] = field(default_factory=list)
    series: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    ts_ns: list[int] = field(default_factory=list)

    def add(
        self, path: str, reason: str, series: int = -1, value: float = math.nan, ts: int = 0
    ) -> None:
        self.paths.append((path, reason))
        self.series.append(series)
        self.values.append(value)
        self.ts_ns.append(ts)


class Twin:
    """Decodes `(topic, payload, retained)` messages on topics `greenlang/ORG/SITE/DEVICE/telemetry`."""

    def __init__(
        self,
        directory: Directory,
        limits: LimitSettings,
        now_ns: int,
        received_ns: int,
        clock_suspect: bool = False,
    ) -> None:
        self.directory = directory
        self.limits = limits
        self.now_ns = now_ns
        self.received_ns = received_ns
        self.clock_suspect = clock_suspect
        self.rows: list[Row] = []
        self.rejects: list[Rejected] = []

    def decode(self, messages: list[tuple[bytes, bytes, bool]]) -> None:
        for frame, (topic, payload, retained) in enumerate(messages):
            self.frame = frame
            self.flags = (RETAINED if retained else 0) | (
                CLOCK_SUSPECT if self.clock_suspect else 0
            )
            self.current = Rejected(frame, "")
            reason = self.message(topic, payload)
            if reason:
                self.current.add("", reason)
            if self.current.paths:
                self.rejects.append(self.current)

    def message(self, topic: bytes, payload: bytes) -> str | None:
        d = self.directory
        levels = topic.split(b"/")
        if len(levels) != 5 or levels[0] != b"greenlang" or levels[4] != b"telemetry":
            return "bad_topic"
        try:
            org, site, name = (level.decode() for level in levels[1:4])
        except UnicodeDecodeError:
            return "bad_topic"
        if not (org and site and name):
            return "bad_topic"
        ids = [d.device[i] for i in range(d.n_devices)]
        if name not in ids:
            return "unknown_device"
        self.device = ids.index(name)
        self.current.device = name
        if (org, site) != (d.org[d.org_of[self.device]], d.site[d.site_of[self.device]]):
            return "wrong_place"
        if not d.enabled[self.device]:
            return "device_disabled"
        if len(payload) > self.limits.max_payload_bytes:
            return "too_large"
        try:
            document = orjson.loads(payload.removeprefix(b"\xef\xbb\xbf"))
        except orjson.JSONDecodeError:
            return "malformed"
        if isinstance(document, dict):
            items, places = [document], [""]
        elif isinstance(document, list):
            items, places = document, [f"[{i}]" for i in range(len(document))]
        else:
            return "malformed"
        count = 0
        for item in items:
            many = isinstance(item, dict) and isinstance(item.get("values"), dict)
            count += len(item["values"]) if many else 1
        if count > self.limits.max_readings_per_message:
            return "too_many_readings"
        for item, place in zip(items, places, strict=True):
            self.item(item, place)
        return None

    def item(self, item: Any, place: str) -> None:
        if not isinstance(item, dict):
            self.current.add(place, "bad_shape")
            return
        dot = place + "." if place else ""
        good_seq = True
        if "seq" in item:
            seq = item["seq"]
            good_seq = isinstance(seq, int) and not isinstance(seq, bool) and 0 <= seq < 2**63
        if "values" in item:
            if not isinstance(item["values"], dict) or "metric" in item or "value" in item:
                self.current.add(dot + "values", "bad_shape")
                return
            for metric, value in item["values"].items():
                path = f"{dot}values.{metric[:128]}"
                if good_seq and isinstance(item.get("unit", ""), str):
                    self.reading(path, item, metric, value, item.get("unit"))
                else:
                    self.current.add(path, "bad_shape")
            return
        path = dot + "value"
        shaped = "metric" in item and "value" in item and isinstance(item["metric"], str)
        if not shaped or not good_seq or not isinstance(item.get("unit", ""), str):
            self.current.add(path, "bad_shape")
            return
        self.reading(path, item, item["metric"], item["value"], item.get("unit"))

    def reading(
        self, path: str, item: dict[str, Any], metric: str, value: Any, unit: str | None
    ) -> None:
        d = self.directory
        series = -1
        for s in range(int(d.series_start[self.device]), int(d.series_start[self.device + 1])):
            if d.metric[d.series_metric[s]] == metric and d.series_enabled[s]:
                series = s
        if series < 0:
            self.current.add(path, "unknown_metric")
            return
        ts = self.time(item)
        if isinstance(ts, str):
            self.current.add(path, ts, series)
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.current.add(path, "not_a_number", series)
            return
        number = float(value)
        flags = self.flags | (HAS_SEQ if "seq" in item else 0)
        own = d.unit[d.series_unit[series]]
        if unit is not None and unit != own:
            for k in range(len(d.unit_from)):
                if d.unit[d.unit_from[k]] == unit and d.unit[d.unit_to[k]] == own:
                    number = number * float(d.unit_factor[k]) + float(d.unit_shift[k])
                    flags |= CONVERTED
                    break
            else:
                self.current.add(path, "unknown_unit", series)
                return
        if math.isinf(number) or math.isnan(number):
            self.current.add(path, "non_finite", series)
        elif number < d.low[series] or number > d.high[series]:
            self.current.add(path, "out_of_range", series, number, ts)
        else:
            self.rows.append((self.frame, series, ts, number, item.get("seq", -1), flags))

    def time(self, item: dict[str, Any]) -> int | str:
        if "ts" not in item:
            return "ts_missing" if self.limits.missing_ts == "reject" else self.received_ns
        ts = time_ns(item["ts"])
        if ts is None:
            return "ts_invalid"
        if not self.clock_suspect:
            if self.limits.max_age and ts < self.now_ns - int(self.limits.max_age * 1e9):
                return "ts_too_old"
            if ts > self.now_ns + int(self.limits.max_future * 1e9):
                return "ts_in_future"
        return ts


def time_ns(ts: Any) -> int | None:
    """A payload's `ts` in ns since 1970, or None where it is no time."""
    if isinstance(ts, bool):
        return None
    ns: int | None = None
    if isinstance(ts, str):
        ns = iso_ns(ts)
    elif isinstance(ts, int | float):
        for limit, unit in ((1e11, 10**9), (1e14, 10**6), (1e17, 10**3), (math.inf, 1)):
            if abs(ts) < limit:
                ns = ts * unit if isinstance(ts, int) else round(ts * (unit / 1000)) * 1000
                break
    return ns if ns is not None and -(2**63) <= ns < 2**63 else None


def iso_ns(text: str) -> int | None:
    """Character by character where `datetime` is more liberal than the contract."""
    digits = "0123456789"
    shape = "dddd-dd-ddTdd:dd:dd"
    if len(text) < len(shape):
        return None
    head, tail = text[: len(shape)], text[len(shape) :]
    for c, want in zip(head, shape, strict=True):
        if (want == "d" and c not in digits) or (want == "T" and c not in "Tt "):
            return None
        if want in "-:" and c != want:
            return None
    fraction = 0
    if tail[:1] and tail[0] in ".,":
        end = 1
        while end < len(tail) and tail[end] in digits:
            end += 1
        if not 2 <= end <= 10:
            return None
        fraction = int(tail[1:end]) * 10 ** (10 - end)
        tail = tail[end:]
    zone = UTC
    if tail not in ("", "Z", "z"):
        if tail[0] not in "+-":
            return None
        hhmm = tail[1:].replace(":", "", 1) if tail[3:4] == ":" and len(tail) == 6 else tail[1:]
        if len(hhmm) not in (2, 4) or any(c not in digits for c in hhmm):
            return None
        hours, minutes = int(hhmm[:2]), int(hhmm[2:] or "0")
        if hours > 23 or minutes > 59:
            return None
        sign = -1 if tail[0] == "-" else 1
        zone = timezone(sign * timedelta(hours=hours, minutes=minutes))
    leap = head[17:] == "60"
    if leap:
        head = head[:17] + "59"
    try:
        parts = [int(head[a:b]) for a, b in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))]
        local = datetime(*parts)
    except ValueError:
        return None
    offset = zone.utcoffset(None)
    since = local.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    seconds = since.days * 86_400 + since.seconds - round(offset.total_seconds()) + leap
    if leap and seconds % 86_400 != 0:
        return None
    return seconds * 10**9 + fraction
