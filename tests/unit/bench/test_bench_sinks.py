"""The counting sinks must find every fault, or "verified" means nothing."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenlang_iot.bench.counting_influxdb import Writes
from greenlang_iot.bench.inbox import spared
from greenlang_iot.bench.kernels_check import SPIKE_MASK, _eight_digits
from greenlang_iot.bench.tally import Tally
from greenlang_iot.bench.workload import (
    FIRST_SEQ,
    PACKET,
    SITES,
    Workload,
    registry,
    topic,
)
from greenlang_iot.model.batches import I64
from greenlang_iot.sinks.kafka_batches import KafkaRecord, batch_of

DEVICES = 8
START_MS = 1_700_000_000_000


def line(device: int, lap: int, *, value: int | None = None, score: str = "") -> bytes:
    ts = START_MS + 10 * lap
    v = int(thousandths(np.array([device]), ts)[0]) if value is None else value
    return (
        f"telemetry,device=d{device:05d},org=acme,site=s{device % SITES:02d},type=bench "
        f"temperature={v // 1000}.{v % 1000:03d}{score} {ts}000000\n"
    ).encode()


def record(device: int, lap: int, **changes: object) -> KafkaRecord:
    ts = START_MS + 10 * lap
    v = int(thousandths(np.array([device]), ts)[0])
    fields = {
        "v": 1,
        "org": "acme",
        "site": f"s{device % SITES:02d}",
        "device": f"d{device:05d}",
        "type": "bench",
        "metric": "temperature",
        "unit": "Cel",
        "ts": ts * 1_000_000,
        "value": "VALUE",
        "seq": FIRST_SEQ + lap,
        "score": "SCORE",
        "verdict": "ok",
    } | changes
    value = orjson.dumps(fields).replace(b'"VALUE"', b"%d.%03d" % divmod(v, 1000))
    return KafkaRecord(ts, b"d%05d" % device, value.replace(b'"SCORE"', b"0.123456"))


WORD = np.uint64(0xFFFF_FFFF)


def thousandths(devices: I64, ts_ms: int) -> I64:
    """The values of these devices at a time stamp, × 1000 (`kernels_check.expected` in numpy)."""
    h = (devices.astype(np.uint64) * np.uint64(0x9E37_79B1)) ^ np.uint64(
        (ts_ms & 0x3FFF_FFFF) * 0x85EB_CA77
    )
    h &= WORD
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(0x2C1B_3C6D)) & WORD
    h ^= h >> np.uint64(12)
    noise = sum((h >> np.uint64(shift)) & np.uint64(255) for shift in (0, 8, 16, 24))
    spike = np.where(h & np.uint64(SPIKE_MASK) == 0, 5000, 0)
    result: I64 = np.asarray(noise).astype(np.int64) + 20_490 + spike
    return result


def check(tally: Tally, body: bytes) -> tuple[int, int]:
    return tally.lines(spared(body), len(body))


def wrong(tally: Tally) -> dict[str, int]:
    """What was found and is not zero."""
    return {name: n for name, n in tally.counts().items() if n and name != "readings"}


def check_batch(tally: Tally, records: list[KafkaRecord]) -> None:
    batch = batch_of(records)
    found = tally.records(spared(batch), 61, len(batch), records[0].timestamp_ms)
    assert found == len(records)


def test_good_lines_are_counted_and_nothing_is_wrong() -> None:
    tally = Tally(DEVICES, START_MS)
    body = line(3, 1) + line(5, 1, score=",temperature_score=0.999000") + line(3, 2)
    assert check(tally, body + b"alerts,id=a state=1 1\n") == (3, 1)
    assert tally.counts()["readings"] == 3
    assert wrong(tally) == {}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (line(3, 1) + line(3, 1), {"duplicate": 1}),
        (line(3, 2), {"disordered": 1, "gaps": 1}),
        (line(3, 2) + line(3, 2), {"disordered": 1, "gaps": 1, "duplicate": 1}),
        (line(3, 90), {"lost": 1}),
        (line(3, 1, value=21_000), {"wrong_value": 1}),
        (line(3, 1).replace(b"s03", b"s02"), {"malformed": 1}),
        (line(3, 1).replace(b"bench", b"bench "), {"malformed": 1}),
        (line(3, 1)[:-1], {"malformed": 1}),
        (line(3, 1).replace(b"000000\n", b"000001\n"), {"malformed": 1}),
        (line(3, 1, score=",temperature_score=2.000000"), {"malformed": 1}),
        (line(9, 1), {"malformed": 1}),
    ],
)
def test_a_bad_line_is_found(body: bytes, found: dict[str, int]) -> None:
    tally = Tally(DEVICES, START_MS)
    check(tally, body)
    assert wrong(tally) == found


def test_bodies_may_come_in_either_order_and_leave_no_gap() -> None:
    tally = Tally(DEVICES, START_MS)
    check(tally, line(3, 2) + line(3, 3))
    check(tally, line(3, 1))
    assert wrong(tally) == {"disordered": 2}
    assert tally.counts()["readings"] == 3


def test_good_records_are_counted_and_nothing_is_wrong() -> None:
    tally = Tally(DEVICES, START_MS)
    check_batch(tally, [record(3, 1), record(5, 1), record(3, 2, verdict="suspect")])
    assert tally.counts()["readings"] == 3
    assert wrong(tally) == {}


@pytest.mark.parametrize(
    ("records", "found"),
    [
        ([record(3, 1), record(3, 1)], {"duplicate": 1}),
        ([record(3, 2), record(3, 1)], {"disordered": 1}),
        ([record(3, 1, seq=FIRST_SEQ)], {"malformed": 1}),
        ([record(3, 1, unit="K")], {"malformed": 1}),
        ([KafkaRecord(START_MS + 10, b"d00007", record(3, 1).value)], {"malformed": 1}),
        ([KafkaRecord(START_MS, b"d00003", record(3, 1).value)], {"malformed": 1}),
    ],
)
def test_a_bad_record_is_found(records: list[KafkaRecord], found: dict[str, int]) -> None:
    tally = Tally(DEVICES, START_MS)
    check_batch(tally, records)
    assert wrong(tally) == found


def test_packets_of_a_lap_hold_what_the_sinks_expect() -> None:
    workload = Workload(np.arange(DEVICES), 1, START_MS)
    rows = workload.lap(np.arange(1, DEVICES + 1, dtype=np.uint16))
    assert rows.shape == (DEVICES, PACKET)
    seen = set()
    for i, row in enumerate(rows):
        packet = row.tobytes()
        size = int.from_bytes(packet[2:4])
        name, rest = packet[4 : 4 + size].decode(), packet[4 + size :]
        device = int(name.split("/")[3][1:])
        assert name == topic(device)
        assert packet[:2] == bytes([0x32, PACKET - 2])
        assert rest[:3] == (i + 1).to_bytes(2) + b"\0"
        reading = orjson.loads(rest[3:])
        assert reading == {
            "ts": START_MS + 10,
            "metric": "temperature",
            "value": thousandths(np.array([device]), START_MS + 10)[0] / 1000,
            "unit": "Cel",
            "seq": FIRST_SEQ + 1,
        }
        seen.add(device)
    assert seen == set(range(DEVICES))
    assert [orjson.loads(p)["seq"] for p in workload.payloads()] == [FIRST_SEQ + 1] * DEVICES


def test_the_registry_knows_every_device_of_the_workload() -> None:
    document = registry(DEVICES)
    places = {(d["org"], d["site"], d["id"]) for d in document["devices"]}
    assert places == {tuple(topic(d).split("/")[1:4]) for d in range(DEVICES)}


class Sent:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def get_write_buffer_size(self) -> int:
        return 1  # more waits: nothing overtakes it

    def write(self, data: bytes) -> None:
        self.data += data


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_bodies_in_chunks_and_with_a_length_are_counted_wherever_they_are_cut(step: int) -> None:
    chunked = (
        b"POST /write HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"6;x=1\r\na b=1\n\r\n4\r\na b=\r\n2\r\n2\n\r\n0\r\n\r\n"
    )
    plain = b"POST /write HTTP/1.1\r\nContent-Length: 12\r\n\r\na b=3\na b=4\n"
    stream = chunked + plain + chunked
    writes, sent = Writes(None), Sent()
    writes.connection_made(sent)  # type: ignore[arg-type]
    lines, requests, nbytes = Writes.lines, Writes.requests, Writes.nbytes
    for at in range(0, len(stream), step):
        piece = stream[at : at + step]
        writes.get_buffer(-1)[: len(piece)] = piece
        writes.buffer_updated(len(piece))
    assert sent.data.count(b"204 No Content") == 3
    assert (Writes.lines - lines, Writes.requests - requests) == (6, 3)
    assert Writes.nbytes - nbytes == 36


@pytest.mark.parametrize("checked", [True, False])
def test_lines_of_alerts_are_counted_apart_whether_or_not_bodies_are_read(checked: bool) -> None:
    writes, sent = Writes(Tally(DEVICES, START_MS) if checked else None), Sent()
    writes.connection_made(sent)  # type: ignore[arg-type]
    lines, others = Writes.lines, Writes.others
    for body in (b"alerts,id=a state=1 1\nalerts,id=b state=1 1\n", line(3, 1) + line(5, 1)):
        request = b"POST /write HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        writes.get_buffer(-1)[: len(request)] = request
        writes.buffer_updated(len(request))
    assert (Writes.lines - lines, Writes.others - others) == (2, 2)


@given(st.binary(min_size=8, max_size=8) | st.from_regex(rb"[0-9]{8}", fullmatch=True))
def test_eight_digits_are_read_together_and_nothing_else_passes_for_them(text: bytes) -> None:
    digits = all(48 <= byte <= 57 for byte in text)
    word = np.uint64(int.from_bytes(text, "little"))
    assert _eight_digits(word) == (int(text) if digits else -1)


@pytest.mark.parametrize(("qos", "version5"), [(1, True), (1, False), (0, True)])
@pytest.mark.parametrize("fleet", [40, 1_000_000])
def test_every_device_has_a_packet_with_its_topic(qos: int, version5: bool, fleet: int) -> None:
    devices = np.array([0, 1, 7, 39, *({fleet - 1} - {39})])
    workload = Workload(devices, 1, START_MS, fleet=fleet, qos=qos, version5=version5)
    packets = [row.tobytes() for row in workload._rows]
    assert packets == [workload._packet(int(d), START_MS) for d in workload._devices]
    assert all(topic(int(d), fleet).encode() in b"".join(packets) for d in devices)
