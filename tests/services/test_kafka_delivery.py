"""Encoder bodies through KafkaSender into a real broker, read back by another client."""

import asyncio
import json
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from tests.fakes.directory import directory
from tests.services.kafka_server import KafkaServer, missing, start_kafka

from greenlang_iot.encode.bodies import pieces
from greenlang_iot.encode.records import Compression, RecordEncoder
from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.errors import GatewayError, SinkError
from greenlang_iot.model.outcomes import Outcome
from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks.kafka import KafkaSender
from greenlang_iot.sinks.kafka_setup import KafkaSetup

REASON = missing()
pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(REASON is not None, reason=REASON or ""),
]

NOW = 1_750_000_000_000_000_000
DEVICES = 200


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    server = start_kafka(tmp_path_factory.mktemp("kafka"))
    yield server
    server.stop()


def settings(kafka: KafkaServer, **values: object) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=kafka.bootstrap, **values)


async def topic(kafka: KafkaServer, name: str, **values: object) -> KafkaSettings:
    """Settings whose readings topic `name` exists."""
    made = settings(kafka, readings_topic=name, **values)
    await KafkaSetup(made).apply()
    return made


async def other_topic(kafka: KafkaServer, name: str, config: dict[str, str]) -> KafkaSettings:
    """Settings whose readings topic `name` was made with this configuration, and not by setup."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for made in admin.create_topics([NewTopic(name, 12, config=config)]).values():
        made.result(60)
    async with asyncio.timeout(60):
        while name not in admin.list_topics(timeout=20).topics:  # the controller knows it first
            await asyncio.sleep(0.02)
    return settings(kafka, readings_topic=name)


def body(
    first: int,
    n: int,
    *,
    partitions: int = 12,
    compression: Compression = "none",
    max_batch_bytes: int = 524_288,
    decimals: int = 2,
    ahead: Collection[int] = (),
) -> tuple[bytes, dict[tuple[str, str, int], float]]:
    """Readings first … first + n (as seq, ts and part of the value), and what must be read back.

    ahead: seqs whose time stamp lies thirty years later.
    """
    where = directory(DEVICES)
    series = (np.arange(first, first + n) * 7 % (2 * DEVICES)).astype(np.int32)
    texts = [f"{i / 4:.{decimals}f}" for i in range(first, first + n)]
    off = np.zeros(n + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=off[1:])
    ts_ns = NOW + np.arange(first, first + n) * 1_000_003
    ts_ns[np.isin(np.arange(first, first + n), list(ahead))] += 30 * 365 * 86_400 * 10**9
    batch = ReadingBatch(
        n=n,
        series=series,
        ts_ns=ts_ns,
        value=np.array([float(text) for text in texts]),
        seq=np.arange(first, first + n),
        flags=np.ones(n, np.uint16),
        frame=np.zeros(n, np.int32),
        text_off=off[:-1].astype(np.int32),
        text_len=np.diff(off).astype(np.int16),
        buffer=np.frombuffer(bytearray("".join(texts).encode()), np.uint8),
        arena=np.zeros(1, np.uint8),
        connection=1,
        received_ns=0,
    )
    scores = ScoreBatch(
        n=n,
        score=np.zeros(n, np.float32),
        detector=np.zeros(n, np.uint8),
        verdict=np.zeros(n, np.uint8),
        expected=np.zeros(n, np.float32),
        band=np.zeros(n, np.float32),
    )
    encoder = RecordEncoder(where, partitions, compression, max_batch_bytes)
    assert encoder.append(batch, scores) == n
    expected = {
        (
            where.device[int(where.series_device[s])],
            where.metric[int(where.series_metric[s])],
            int(batch.ts_ns[i]),
        ): float(batch.value[i])
        for i, s in enumerate(series)
    }
    assert len(expected) == n
    return encoder.seal(), expected


def read_all(kafka: KafkaServer, name: str) -> list[tuple[int, bytes, int, dict]]:
    """(partition, key, time stamp in ms, value) of every record, in order of each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": "reader",
            "enable.auto.commit": False,
            "check.crcs": True,
        }
    )
    try:
        partitions = consumer.list_topics(name, timeout=20).topics[name].partitions
        ends = {}
        for p in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(name, p), timeout=20)
            if high > low:
                ends[p] = high
        consumer.assign([TopicPartition(name, p, 0) for p in ends])
        found = []
        while ends:
            message = consumer.poll(20)
            assert message is not None, f"nothing more comes, missing up to {ends}"
            assert message.error() is None, message.error()
            found.append(
                (
                    message.partition(),
                    message.key(),
                    message.timestamp()[1],
                    json.loads(message.value()),
                )
            )
            if message.offset() + 1 >= ends[message.partition()]:
                del ends[message.partition()]
        return found
    finally:
        consumer.close()


def values_of(found: list[tuple[int, bytes, int, dict]]) -> dict[tuple[str, str, int], float]:
    return {(v["device"], v["metric"], v["ts"]): v["value"] for *_, v in found}


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "zstd"])
async def test_every_reading_is_read_back_once(
    kafka: KafkaServer, compression: Compression
) -> None:
    name = f"delivery.{compression}"
    sender = KafkaSender(await topic(kafka, name), name)
    await sender.open()
    expected: dict[tuple[str, str, int], float] = {}
    sends = []
    for chunk in range(4):
        encoded, part = body(chunk * 3_000, 3_000, compression=compression)
        expected |= part
        sends.append(sender.send(encoded, 3_000))
    outcomes = await asyncio.gather(*sends)
    await sender.close()
    assert [(o.delivered, o.refused) for o in outcomes] == [(3_000, [])] * 4
    found = read_all(kafka, name)
    assert len(found) == 12_000
    assert values_of(found) == expected
    assert sender.resent == 0
    per_partition: dict[int, int] = {}
    for partition, key, ms, value in found:
        assert key.decode() == value["device"]
        assert ms == value["ts"] // 1_000_000
        assert value["seq"] > per_partition.get(partition, -1), "order within a partition"
        per_partition[partition] = value["seq"]
        assert (value["org"], value["score"], value["verdict"]) == ("acme", 0, "ok")


async def test_partitions_are_another_clients_choice(kafka: KafkaServer) -> None:
    name = "delivery.partitions"
    sender = KafkaSender(await topic(kafka, name), name)
    encoded, _ = body(0, 2_000)
    await sender.send(encoded, 2_000)
    await sender.close()
    ours = {key: partition for partition, key, *_ in read_all(kafka, name)}
    assert len(ours) == DEVICES
    theirs: dict[bytes, int] = {}
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2_random"})
    for key in ours:
        producer.produce(
            name,
            key=key,
            value=b"{}",
            on_delivery=lambda error, m: theirs.update({m.key(): m.partition()}),
        )
    assert producer.flush(60) == 0
    assert theirs == ours


async def test_broker_killed_in_the_middle(tmp_path: Path) -> None:
    server = start_kafka(tmp_path / "kafka")
    try:
        name = "delivery.crash"
        sender = KafkaSender(await topic(server, name, timeout=10.0), name)
        await sender.open()
        expected: dict[tuple[str, str, int], float] = {}
        reasons: set[tuple[str, bool]] = set()
        under_way, noticed = asyncio.Event(), asyncio.Event()
        chunks = iter(range(0, 40_000, 1_000))

        async def feed() -> None:
            for first in chunks:
                encoded, part = body(first, 1_000)
                expected.update(part)
                delivered = False
                while not delivered:  # as the runner does: the same bytes until they are delivered
                    try:
                        outcome = await sender.send(encoded, 1_000)
                    except SinkError as error:
                        reasons.add((error.reason, error.retryable))
                        noticed.set()
                        await asyncio.sleep(0.1)
                    else:
                        delivered = outcome == Outcome(1_000)
                if first == 5_000:
                    under_way.set()

        feeding = [asyncio.create_task(feed()) for _ in range(2)]
        await under_way.wait()
        server.kill()  # two chunks are on their way
        await noticed.wait()
        await asyncio.to_thread(server.start)
        await asyncio.gather(*feeding)
        await sender.close()
        assert reasons
        assert reasons <= {("no_brokers", True), ("timeout", True), ("backlog", True)}
        found = read_all(server, name)
        assert len(expected) == 40_000
        assert values_of(found) == expected
        copies = Counter((v["device"], v["metric"], v["ts"]) for *_, v in found)
        duplicates = sum(copies.values()) - len(copies)
        assert duplicates <= sender.resent
    finally:
        server.stop()


async def test_a_batch_too_large_for_the_broker_is_halved_and_a_record_refused(
    kafka: KafkaServer,
) -> None:
    name = "delivery.large"
    sender = KafkaSender(await other_topic(kafka, name, {"max.message.bytes": "2000"}), name)
    encoded, expected = body(0, 400)
    assert max(len(piece.batch) for piece in pieces(encoded)) > 4_000
    outcome = await sender.send(encoded, 400)
    assert (outcome.delivered, outcome.refused) == (400, [])
    long, readings = body(400, 3, decimals=3_000)
    outcome = await sender.send(long, 3)
    assert outcome.delivered == 0
    assert {json.loads(r.body)["seq"] for r in outcome.refused} == {400, 401, 402}
    assert all("MESSAGE_SIZE_TOO_LARGE" in r.answer for r in outcome.refused)
    assert len(readings) == 3
    more, part = body(1_000, 50)
    assert (await sender.send(more, 50)).delivered == 50
    await sender.close()
    assert values_of(read_all(kafka, name)) == expected | part


async def test_a_missing_topic_is_down_at_once_and_is_not_made(kafka: KafkaServer) -> None:
    sender = KafkaSender(settings(kafka), "delivery.nowhere")
    with pytest.raises(SinkError, match="run setup") as caught:
        await sender.open()
    assert (caught.value.reason, caught.value.down) == ("topic_missing", True)
    encoded, expected = body(0, 100)
    with pytest.raises(SinkError) as caught:
        await sender.send(encoded, 100)
    assert caught.value.reason == "topic_missing"
    await topic(kafka, "delivery.nowhere")
    assert (await sender.send(encoded, 100)).delivered == 100
    await sender.close()
    found = read_all(kafka, "delivery.nowhere")
    assert len(found) == 100
    assert values_of(found) == expected


async def test_a_partition_the_topic_lacks_is_down(kafka: KafkaServer) -> None:
    name = "delivery.narrow"
    sender = KafkaSender(await topic(kafka, name, partitions=2), name)
    encoded, _ = body(0, 100)
    with pytest.raises(SinkError, match=r"sinks\.kafka\.partitions") as caught:
        await sender.send(encoded, 100)
    assert (caught.value.reason, caught.value.down) == ("partition_missing", True)
    await sender.close()


async def test_time_stamps_out_of_bounds_are_refused_alone(kafka: KafkaServer) -> None:
    # the default of Kafka 4 (one hour ahead), on a topic that setup has not made
    name = "delivery.bounds"
    bound = {"message.timestamp.after.max.ms": "3600000"}
    sender = KafkaSender(await other_topic(kafka, name, bound), name)
    ahead = {17, 300, 301, 999}
    encoded, expected = body(0, 1_000, ahead=ahead)
    outcome = await sender.send(encoded, 1_000)
    assert outcome.delivered == 996
    refused = [json.loads(r.body) for r in outcome.refused]
    assert {value["seq"] for value in refused} == ahead
    assert all("INVALID_TIMESTAMP" in r.answer for r in outcome.refused)
    await sender.close()
    found = read_all(kafka, name)
    for value in refused:
        del expected[value["device"], value["metric"], value["ts"]]
    assert values_of(found) == expected
    assert (len(found), sender.resent) == (996, 0)


async def test_open_without_a_broker_fails_quickly_and_again(kafka: KafkaServer) -> None:
    nobody = KafkaSettings(bootstrap_servers="127.0.0.1:1", timeout=60.0)
    sender = KafkaSender(nobody, "iot.readings")
    loop = asyncio.get_running_loop()
    for _ in range(2):
        begin = loop.time()
        with pytest.raises(SinkError) as caught:
            await sender.open()
        assert (caught.value.reason, caught.value.down) == ("no_brokers", True)
        assert loop.time() - begin < nobody.timeout / 2, "it waited for an answer"
    await sender.close()


async def test_published_records_and_deletes(kafka: KafkaServer) -> None:
    made = await topic(kafka, "delivery.publish")
    sender = KafkaSender(made, "delivery.publish")
    await sender.publish("iot.alerts.state", b"a1", b'{"state":"open"}', NOW // 10**6)
    await sender.publish("iot.alerts.state", b"a2", b'{"state":"resolved"}', NOW // 10**6 + 1)
    await asyncio.gather(
        *(sender.publish("iot.alerts", b"d%d" % i, b"%d" % i, i) for i in range(20))
    )
    await sender.close()
    state = read_all(kafka, "iot.alerts.state")
    assert [(k, ms, v["state"]) for _, k, ms, v in state] == [
        (b"a1", NOW // 10**6, "open"),
        (b"a2", NOW // 10**6 + 1, "resolved"),
    ]
    alerts = read_all(kafka, "iot.alerts")
    assert sorted((int(k[1:]), ms, v) for _, k, ms, v in alerts) == [(i, i, i) for i in range(20)]


async def test_a_wrong_password_is_said_to_be_one(tmp_path: Path) -> None:
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    server = start_kafka(
        tmp_path / "kafka",
        listener_security_protocol_map="PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        inter_broker_listener_name="PLAINTEXT",
        sasl_mechanism_inter_broker_protocol="PLAIN",
        sasl_enabled_mechanisms="PLAIN",
        listener_name_plaintext_plain_sasl_jaas_config=(
            f'{login} username="broker" password="b" user_broker="b" user_gateway="right";'
        ),
    )
    try:
        known = {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "PLAIN",
            "username": "gateway",
        }
        wrong = settings(server, password="wrong", **known)
        sender = KafkaSender(wrong, "iot.readings")
        with pytest.raises(SinkError, match="Authentication failed") as caught:
            await sender.open()
        assert (caught.value.reason, caught.value.down) == ("unauthorized", True)
        assert "wrong" not in str(caught.value)
        await sender.close()
        with pytest.raises(GatewayError, match="Authentication failed"):
            await KafkaSetup(wrong).plan()

        right = settings(server, password="right", **known)
        await KafkaSetup(right).apply()
        sender = KafkaSender(right, "iot.readings")
        encoded, _ = body(0, 100)
        assert (await sender.send(encoded, 100)).delivered == 100
        await sender.close()
    finally:
        server.stop()
