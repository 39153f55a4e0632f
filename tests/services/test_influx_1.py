"""The encoder and the sender with a real InfluxDB 1.6, read back by its query API."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
from tests.fakes.directory import directory
from tests.services.influxdb1 import InfluxDB1, missing, start_influxdb1

from greenlang_iot.alerts.rule_file import parse
from greenlang_iot.encode.lines import LineEncoder
from greenlang_iot.model.batches import SLACK, ReadingBatch, ScoreBatch
from greenlang_iot.model.errors import SinkError
from greenlang_iot.runtime.rule_history import InfluxHistory
from greenlang_iot.runtime.rule_trial import try_rules
from greenlang_iot.settings.model import AlertSettings, InfluxSettings
from greenlang_iot.sinks.influx import InfluxSender
from greenlang_iot.sinks.influx_setup import influx_setup

REASON = missing()
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]

NOW = time.time_ns()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InfluxDB1]:
    running = start_influxdb1(tmp_path_factory.mktemp("influxdb1"), max_body=2_000_000)
    yield running
    running.stop()


@pytest.fixture
def configured(server: InfluxDB1, request: pytest.FixtureRequest) -> InfluxSettings:
    name = request.node.name.replace("[", "_").replace("]", "")
    return InfluxSettings(
        url=server.url,
        version="1",
        bucket=name,
        aggregated_bucket=f"{name}_5m",
        retention=86_400,
        aggregated_every=2,
    )


@pytest.fixture
async def sender(configured: InfluxSettings) -> AsyncIterator[InfluxSender]:
    setup = influx_setup(configured)
    await setup.apply()
    await setup.close()
    made = InfluxSender(configured)
    await made.open()
    yield made
    await made.close()


def encoded(texts: list[str], settings: InfluxSettings) -> bytes:
    """A reading of temperature and one of humidity per text, device by device."""
    n = 2 * len(texts)
    blob = b"".join(text.encode() for text in texts)
    lengths = np.array([len(text) for text in texts], np.int16)
    offsets = (np.cumsum(lengths) - lengths).astype(np.int32)
    batch = ReadingBatch(
        n=n,
        series=(np.arange(n) % 20).astype(np.int32),
        ts_ns=NOW + np.repeat(np.arange(len(texts)), 2),
        value=np.zeros(n),
        seq=np.zeros(n, np.int64),
        flags=np.zeros(n, np.uint16),
        frame=np.repeat(np.arange(len(texts)), 2).astype(np.int32),
        text_off=np.repeat(offsets, 2),
        text_len=np.repeat(lengths, 2),
        buffer=np.frombuffer(bytearray(blob + bytes(SLACK)), np.uint8),
        arena=np.zeros(SLACK, np.uint8),
        connection=1,
        received_ns=NOW,
    )
    scores = ScoreBatch(
        n,
        np.full(n, 4.0, np.float32),
        np.zeros(n, np.uint8),
        np.zeros(n, np.uint8),
        np.zeros(n, np.float32),
        np.zeros(n, np.float32),
    )
    encoder = LineEncoder(directory(), settings)
    assert encoder.append(batch, scores) == n
    return encoder.seal()


async def test_readings_come_back_bit_for_bit(
    server: InfluxDB1, configured: InfluxSettings, sender: InfluxSender
) -> None:
    texts = ["-0", "1E5", "1e-7", "1e+5", "123456789012345678901234567890", "0.1", "-1.5E-10"]
    texts += [repr(value) for value in np.random.default_rng(7).normal(20, 5, 2_000).tolist()]
    outcome = await sender.send(encoded(texts, configured), 2 * len(texts))
    assert (outcome.delivered, outcome.refused) == (2 * len(texts), [])
    rows = server.query("SELECT * FROM telemetry", configured.bucket)
    assert [(row["time"], row["temperature"], row["humidity"]) for row in rows] == [
        (NOW + i, float(text), float(text)) for i, text in enumerate(texts)
    ]
    assert {(row["org"], row["site"], row["type"]) for row in rows} == {
        ("acme", "site-0", "sensor"),
        ("acme", "site-1", "sensor"),
    }


async def test_every_kind_of_bad_line_is_refused_and_all_others_written(
    server: InfluxDB1, configured: InfluxSettings, sender: InfluxSender
) -> None:
    await sender.send(f"telemetry,device=x odd=1i {NOW}\n".encode(), 1)
    lines = [f"telemetry,device=d{i} v={i} {NOW + i}".encode() for i in range(200)]
    lines[5] = f"telemetry,device=d5 odd=2,w=1 {NOW}".encode()
    lines[6] = b"telemetry,device=d6 v=1 17"
    lines[7] = b"telemetry,device=d7 v=1 18"
    lines[40] = b"telemetry,device=d40 v= 17"
    lines[41] = f"telemetry,device=d41 time=1 {NOW}".encode()
    lines[150] = b"telemetry,device=d150,time=1 v=1 17"
    bad = {5, 6, 7, 40, 41, 150}
    outcome = await sender.send(b"\n".join(lines) + b"\n", 201)
    assert {item.body for item in outcome.refused} == {lines[i] for i in bad}
    assert sum(item.readings for item in outcome.refused) == 7
    assert outcome.delivered == 194
    rows = server.query("SELECT v FROM telemetry WHERE v >= 0", configured.bucket)
    assert {row["v"] for row in rows} == set(range(200)) - bad


async def test_too_large_bodies_are_split(
    server: InfluxDB1, configured: InfluxSettings, sender: InfluxSender
) -> None:
    texts = [f"{i}.25" for i in range(30_000)]
    body = encoded(texts, configured)
    assert len(body) > 2_000_000
    assert (await sender.send(body, 60_000)).delivered == 60_000
    (row,) = server.query("SELECT count(temperature) FROM telemetry", configured.bucket)
    assert row["count"] == 30_000


async def test_an_unknown_database_is_an_outage(configured: InfluxSettings) -> None:
    sender = InfluxSender(configured)
    await sender.open()
    with pytest.raises(SinkError) as raised:
        await sender.send(b"m v=1 1\n", 1)
    await sender.close()
    assert (raised.value.reason, raised.value.down) == ("not_found", True)


async def test_a_stopped_server_is_down_and_keeps_what_it_answered(
    server: InfluxDB1, configured: InfluxSettings, sender: InfluxSender
) -> None:
    await sender.send(encoded(["1.5"], configured), 2)
    server.stop()
    with pytest.raises(SinkError) as raised:
        await sender.send(encoded(["2.5"], configured), 2)
    assert raised.value.retryable
    with pytest.raises(SinkError) as raised:
        await sender.send(encoded(["2.5"], configured), 2)
    assert (raised.value.reason, raised.value.down) == ("refused", True)
    server.restart()
    assert (await sender.send(encoded(["1.5", "2.5"], configured), 4)).delivered == 4
    rows = server.query("SELECT temperature FROM telemetry", configured.bucket)
    assert [row["temperature"] for row in rows] == [1.5, 2.5]


async def test_setup_repairs_and_downsamples(server: InfluxDB1, configured: InfluxSettings) -> None:
    setup = influx_setup(configured)
    assert [c.current for c in await setup.plan()] == ["missing"] * 3
    assert len(await setup.apply()) == 3
    assert await setup.plan() == []
    server.query(f'ALTER RETENTION POLICY autogen ON "{configured.bucket}" DURATION 48h')
    assert [(c.subject, c.current, c.wanted) for c in await setup.plan()] == [
        (f"database {configured.bucket}", "kept 48h0m0s", "kept 1d")
    ]
    await setup.apply()
    assert await setup.plan() == []
    assert await setup.downsampling() == "the continuous query is present"
    await setup.close()
    sender = InfluxSender(configured)
    await sender.open()
    begin = time.time_ns() // (2 * 10**9) * 2 * 10**9
    lines = "".join(f"telemetry,device=d v={v} {begin + int(v)}\n" for v in (1.0, 2.0, 6.0))
    await sender.send(lines.encode(), 3)
    await sender.close()
    deadline = time.monotonic() + 60
    rows: list[dict[str, object]] = []
    while not rows and time.monotonic() < deadline:
        rows = server.query("SELECT * FROM telemetry", configured.aggregated_bucket)
        await asyncio.sleep(0.2)
    assert [(r["mean_v"], r["min_v"], r["max_v"], r["count_v"]) for r in rows] == [(3, 1, 6, 3)]


async def test_rules_are_tried_on_what_it_keeps(
    server: InfluxDB1, configured: InfluxSettings, sender: InfluxSender
) -> None:
    fleet = directory(2, ("temperature", "humidity"), units=("Cel", "%"), sites=1)
    begun = NOW // 10**9 * 10**9
    values = [20.0, 95.0, 96.0, 70.0, 91.0]
    lines = [
        f"telemetry,device=d000,type=t{i // 3} temperature={v},humidity=50,humidity_score=0.9999"
        f" {begun + i * 60 * 10**9}"
        for i, v in enumerate(values)
    ]
    lines.append(f"telemetry,device=nobody temperature=99 {begun}")
    await sender.send("\n".join(lines).encode() + b"\n", 11)
    rules = parse(
        "version: 1\nrules:\n"
        "  - {name: hot, match: {metric: temperature}, range: {above: 90, clear: 80}}\n"
        "  - {name: odd, match: {metric: humidity}, score: {above: 0.999}}\n",
        "rules",
    )
    history = InfluxHistory(configured, fleet)
    until = begun + 600 * 10**9
    trial = await asyncio.to_thread(try_rules, history, rules, fleet, AlertSettings(), begun, until)
    assert (trial.readings, trial.unknown) == (10, 1)
    hot = trial.rules["hot"]
    assert (hot.opened, hot.resolved, hot.devices) == (2, 1, {"d000"})
    assert [(t.value, t.opened_ns) for t in hot.examples] == [
        (95.0, begun + 60 * 10**9),
        (91.0, begun + 240 * 10**9),
    ]
    assert trial.rules["odd"].opened == 1
