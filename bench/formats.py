"""CPU time of decoding a message in each payload format, beside one `orjson.loads`, in the same run.

.venv/bin/python -m bench.formats
"""

import time
from collections.abc import Callable

import orjson
from tests.fakes import payload_formats as write
from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory
from tests.fakes.format_decoder import LIMITS, NOW, NOW_MS, TEMPLATE, FormatDecoder

from greenlang_iot.decode.decoder import Decoder

MESSAGES = 2_000
NESTED = {"each": "data.points", "ts": "t", "metric": "n", "value": "reading.v"}
SPARKPLUG = "spBv1.0/{site}/{type}/{node}/{device}"
WRITERS: dict[str, Callable[[list[write.Sample]], bytes]] = {
    "json": write.json_array,
    "json-map": write.nested_json,
    "cbor": write.cbor_array,
    "messagepack": write.msgpack_array,
    "senml-json": write.senml_json,
    "senml-cbor": write.senml_cbor,
    "line-protocol": write.lines,
    "sparkplug-b": lambda some: write.sparkplug(*(write.metric(m, v, ts=t) for m, t, v in some)),
    "plain": lambda some: repr(some[0][2]).encode(),
}
TOPICS = {"sparkplug-b": "spBv1.0/site-0/NDATA/d000", "plain": "x/acme/site-0/d000/temperature"}


def best(work: Callable[[], object]) -> float:
    """µs of CPU a message: the best of five."""
    times = []
    for _ in range(5):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times) / MESSAGES * 1e6


def made(name: str) -> FormatDecoder:
    if name == "sparkplug-b":
        return FormatDecoder(name, SPARKPLUG)
    if name == "plain":
        return FormatDecoder(name, "x/{org}/{site}/{device}/{metric}", missing_ts="receive_time")
    options = {"json-map": NESTED, "line-protocol": {"precision": "ms"}}.get(name, {})
    return FormatDecoder(name, options=options)


def main() -> None:
    flat = [
        b'{"ts":%d,"metric":"temperature","value":21.%d,"seq":%d}' % (NOW_MS - i, i % 10, i)
        for i in range(MESSAGES)
    ]
    unit = best(lambda: [orjson.loads(payload) for payload in flat])
    print(f"one orjson.loads: {unit:.2f} µs")
    topic = b"greenlang/acme/site-0/d000/telemetry"
    frames = frame_batch([(topic, payload, False) for payload in flat], received_ns=NOW)
    for fast in (True, False):
        decoder = Decoder(directory(4), LIMITS, TEMPLATE, fast=fast)
        cost = best(lambda d=decoder: d.decode(frames, NOW))  # type: ignore[misc]
        print(
            f"{'our JSON, ' + ('kernel' if fast else 'general'):20} {cost:6.2f} µs {cost / unit:6.1f} ×"
        )
    for readings in (1, 5):
        for name, writer in WRITERS.items():
            if name == "plain" and readings > 1:
                continue
            gateway = made(name)
            payloads = [
                writer([("temperature", NOW_MS - i - j, 21.5) for j in range(readings)])
                for i in range(MESSAGES)
            ]
            where = TOPICS.get(name, "x/acme/site-0/d000").encode()
            batch = frame_batch([(where, payload, False) for payload in payloads], received_ns=NOW)
            decoded = gateway.decoder.decode(batch, NOW)
            assert decoded.readings.n == readings * MESSAGES, name
            cost = best(lambda g=gateway, b=batch: g.decoder.decode(b, NOW))  # type: ignore[misc]
            print(f"{name:14} {readings:>3}   {cost:6.2f} µs {cost / unit:6.1f} ×")


if __name__ == "__main__":
    main()
