"""CPU time of decoding odd but honest payloads, beside one `orjson.loads` of each, in the same run.

.venv/bin/python -m bench.shapes [--markdown]
"""

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import orjson
from tests.fakes.decode_frames import frame_batch

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.devices.registry import parse
from greenlang_iot.settings.model import LimitSettings

DEVICES = 1_000
MESSAGES = 4_000
NOW_MS = 1_750_000_000_000
METRICS = [f"metric_{i:02d}" for i in range(16)]
TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"


def values(n: int, i: int) -> str:
    return ",".join(f'"{name}":{20 + (i * 7 + k) % 100 / 10}' for k, name in enumerate(METRICS[:n]))


def one(i: int, ts: str | None = None, more: str = "") -> str:
    stamp = str(NOW_MS - i) if ts is None else ts
    return f'{{"ts":{stamp},"metric":"metric_00","value":{20 + i % 100 / 10},"seq":{i}{more}}}'


def iso(i: int, zone: str) -> str:
    return f'"2025-06-15T{12 + i % 2:02d}:{i % 60:02d}:{i // 60 % 60:02d}.{i % 1000:03d}{zone}"'


SHAPES: dict[str, tuple[int, Callable[[int], str]]] = {
    "one reading": (1, one),
    "4 metrics": (4, lambda i: f'{{"ts":{NOW_MS - i},"values":{{{values(4, i)}}},"seq":{i}}}'),
    "16 metrics": (16, lambda i: f'{{"ts":{NOW_MS - i},"values":{{{values(16, i)}}}}}'),
    "an array of 5": (5, lambda i: "[" + ",".join(one(5 * i + k) for k in range(5)) + "]"),
    "an array of one": (1, lambda i: f"[{one(i)}]"),
    "ISO 8601, Z": (1, lambda i: one(i, iso(i, "Z"))),
    "ISO 8601, offset": (1, lambda i: one(i, iso(i, "+02:00"))),
    "ns since 1970": (1, lambda i: one(i, f"{NOW_MS - i}000000")),
    "strings to ignore": (1, lambda i: one(i, more=f',"fw":"2.{i % 10}.1","site_note":"hall B, left"')),
    "unknown keys, nested": (1, lambda i: one(i, more=f',"battery":{i % 100},"gps":{{"lat":52.1,"fix":[1,2]}}')),
    "whitespace": (1, lambda i: one(i).replace(",", ", ").replace(":", ": ")),
    "escapes": (1, lambda i: one(i, more=',"note":"caf\\u00e9 \\"left\\"\\n"')),
    "exponents": (1, lambda i: one(i).replace('"value":', '"value":1e-1,"was":')),
}  # fmt: skip


class Cost(NamedTuple):
    """µs a message: ours, and one `orjson.loads` of the same payload. fast: share without Python."""

    decode: float
    loads: float
    fast: float


def measure(name: str) -> Cost:
    """Raises AssertionError where a payload does not give the readings that are in it."""
    readings, write = SHAPES[name]
    metric = {"unit": "Cel", "range": [-50.0, 150.0], "interval": 60.0, "profile": "default"}
    devices = [
        {"id": f"d{d:04d}", "org": "acme", "site": "s0", "type": "any"} for d in range(DEVICES)
    ]
    directory = parse(
        orjson.dumps(
            {
                "version": 1,
                "types": {"any": {"metrics": dict.fromkeys(METRICS, metric)}},
                "devices": devices,
            }
        )
    )
    decoder = Decoder(directory, LimitSettings(max_age=0), TEMPLATE)
    payloads = [write(i).encode() for i in range(MESSAGES)]
    topics = [f"greenlang/acme/s0/d{i % DEVICES:04d}/telemetry".encode() for i in range(MESSAGES)]
    now = NOW_MS * 1_000_000
    frames = frame_batch(
        [(t, p, False) for t, p in zip(topics, payloads, strict=True)], received_ns=now
    )
    for _ in range(3):  # layouts are learnt
        decoded = decoder.decode(frames, now)
    assert not decoded.rejects, decoded.rejects[0]
    assert decoded.readings.n == readings * MESSAGES
    return Cost(
        _least(lambda: decoder.decode(frames, now)),
        _least(lambda: [orjson.loads(payload) for payload in payloads]),
        decoded.fast / MESSAGES,
    )


def _least(work: Callable[[], object]) -> float:
    """µs of thread CPU a message: the least of nine."""
    times = []
    for _ in range(9):
        began = time.thread_time_ns()
        work()
        times.append(time.thread_time_ns() - began)
    return min(times) / MESSAGES / 1e3


def main(arguments: list[str]) -> None:
    row = "| {:22} | {:>8} | {:>12} | {:>5} | {:>9} |"
    print(row.format("payload", "µs", "orjson.loads", "×", "no Python"))
    if "--markdown" in arguments:
        print("|---|---|---|---|---|")
    for name in SHAPES:
        cost = measure(name)
        ratio = f"{cost.decode / cost.loads:.2f}"
        print(
            row.format(name, f"{cost.decode:.3f}", f"{cost.loads:.3f}", ratio, f"{cost.fast:.0%}")
        )


if __name__ == "__main__":
    main(sys.argv[1:])
