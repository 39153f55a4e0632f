"""What the gateway relies on of aiokafka's private API: another version must fail here, loudly."""

import asyncio
import inspect
import ssl
import struct
from pathlib import Path

import aiokafka
import pytest
from aiokafka import AIOKafkaProducer, errors
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection
from aiokafka.producer.message_accumulator import MessageAccumulator, MessageBatch
from aiokafka.producer.sender import Sender
from aiokafka.producer.transaction_manager import TransactionManager
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from pydantic import SecretStr

from greenlang_iot.model.pieces import Pieces
from greenlang_iot.settings.model import KafkaSettings, TlsSettings
from greenlang_iot.sinks.kafka_batches import (
    FinishedBatch,
    KafkaRecord,
    batch_of,
    codec_of,
    records_of,
)
from greenlang_iot.sinks.kafka_client import (
    POISON,
    InvalidRecord,
    client_options,
    why_unreachable,
)
from greenlang_iot.sinks.kafka_request import PiecesRequest, PiecesWriter

TP = TopicPartition("iot.readings", 0)
RECORDS = [KafkaRecord(1_000 + i, b"key", b"value %d" % i) for i in range(50)]


class OneLeader(ClusterMetadata):
    """A cluster in which broker 1 leads every partition."""

    def leader_for_partition(self, partition: TopicPartition) -> int:
        return 1


def accumulator(first_sequence: int = 0) -> MessageAccumulator:
    transactions = TransactionManager(None, 0)
    transactions.set_pid_and_epoch(7_000_000_000, 3)
    transactions._sequence_numbers[TP] = first_sequence
    return MessageAccumulator(OneLeader(), 16_384, 0, 30, txn_manager=transactions)


def fields(buffer: bytes) -> tuple[int, int, int]:
    """Producer id, epoch, base sequence."""
    return struct.unpack_from(">qhi", buffer, 43)


def test_the_version_that_was_read() -> None:
    assert aiokafka.__version__ == "0.14.0"


async def test_finished_batches_leave_in_order_with_the_producers_sequence() -> None:
    queue = accumulator()
    first = queue._append_batch(FinishedBatch(batch_of(RECORDS), 50), TP)
    second = queue._append_batch(FinishedBatch(batch_of(RECORDS[:3]), 3), TP)
    sent = []
    for batch in (first, second):
        nodes, unknown_leaders = queue.drain_by_nodes(ignore_nodes=[])
        assert not unknown_leaders
        assert nodes == {1: {TP: batch}}
        assert isinstance(batch, MessageBatch)
        assert batch.retry_count == 1
        sent.append(bytes(batch.get_data_buffer()))
        batch.done(base_offset=0)
        assert batch.future.done()
        await asyncio.sleep(0)
    assert [fields(buffer) for buffer in sent] == [(7_000_000_000, 3, 0), (7_000_000_000, 3, 50)]
    for buffer, expected in zip(sent, (RECORDS, RECORDS[:3]), strict=True):
        assert DefaultRecordBatch(buffer).validate_crc()
        assert list(records_of(buffer)) == expected


async def test_a_batch_tried_again_keeps_its_sequence_and_bytes() -> None:
    queue = accumulator()
    batch = queue._append_batch(FinishedBatch(batch_of(RECORDS), 50), TP)
    later = queue._append_batch(FinishedBatch(batch_of(RECORDS), 50), TP)
    queue.drain_by_nodes(ignore_nodes=[])
    buffer = bytes(batch.get_data_buffer())
    queue.reenqueue(batch)
    nodes, _ = queue.drain_by_nodes(ignore_nodes=[])
    assert nodes == {1: {TP: batch}}
    assert bytes(batch.get_data_buffer()) == buffer
    nodes, _ = queue.drain_by_nodes(ignore_nodes=[])
    assert nodes == {1: {TP: later}}
    assert fields(bytes(later.get_data_buffer()))[2] == 50


@pytest.mark.parametrize("version", range(3, 8))
def test_a_request_in_pieces_is_the_one_that_aiokafka_encodes(version: int) -> None:
    whole, pieces = batch_of(RECORDS), Pieces((b"half and ", b"half"))
    topics = [("iot.readings", [(0, whole), (7, pieces)]), ("iot.alerts", [(1, b"")])]
    plain = [("iot.readings", [(0, whole), (7, bytes(pieces))]), ("iot.alerts", [(1, b"")])]
    versions = {0: (version, version)}
    ours = PiecesRequest(None, -1, 10_000, topics).prepare(versions)
    theirs = ProduceRequest(None, -1, 10_000, plain).prepare(versions)
    assert bytes(ours.encode()) == theirs.encode()
    message = b"header" + ours.encode()  # as AIOKafkaConnection.send does it
    assert len(message) == len(b"header" + theirs.encode())
    assert bytes(b"size" + message) == b"sizeheader" + theirs.encode()


def test_a_connection_puts_size_header_and_request_together_in_this_order() -> None:
    source = inspect.getsource(AIOKafkaConnection.send)
    assert "header.encode() + request_struct.encode()" in source
    assert "self._writer.write(size + message)" in source


async def test_pieces_reach_the_socket_in_order_and_without_a_copy() -> None:
    received = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    _, plain = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    given: list[object] = []
    writelines = plain.writelines
    plain.writelines = lambda parts: writelines(given.extend(parts) or given)  # type: ignore
    writer = PiecesWriter(plain)
    batch = memoryview(bytes(300_000))
    writer.write(b"before ")
    writer.write(b"size " + (b"header " + Pieces((batch, b" end"))))
    await writer.drain()
    writer.close()
    assert await received == b"before size header " + bytes(batch) + b" end"
    assert given[:2] == [b"size ", b"header "]
    assert given[2] is batch
    server.close()


async def test_the_sequence_wraps_to_zero() -> None:
    queue = accumulator(first_sequence=2**31 - 10)
    sequences = []
    for _ in range(2):
        batch = queue._append_batch(FinishedBatch(batch_of(RECORDS), 50), TP)
        queue.drain_by_nodes(ignore_nodes=[])
        sequences.append(fields(bytes(batch.get_data_buffer()))[2])
        batch.done(base_offset=0)
        await asyncio.sleep(0)
    assert sequences == [2**31 - 10, 40]


async def test_a_failed_batch_says_so_by_its_future() -> None:
    queue = accumulator()
    batch = queue._append_batch(FinishedBatch(batch_of(RECORDS), 50), TP)
    queue.drain_by_nodes(ignore_nodes=[])
    batch.failure(errors.MessageSizeTooLargeError())
    with pytest.raises(errors.MessageSizeTooLargeError):
        await batch.future


async def test_the_parts_of_a_producer() -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers="127.0.0.1:1", enable_idempotence=True, acks="all"
    )
    assert isinstance(producer._message_accumulator, MessageAccumulator)
    assert isinstance(producer._sender, Sender)
    assert producer._sender.sender_task is None
    assert producer._closed is False
    assert producer.client.cluster.partitions_for_topic("iot.readings") is None
    assert inspect.iscoroutinefunction(producer.client.fetch_all_metadata)
    assert inspect.iscoroutinefunction(producer.client.close)
    await producer.stop()
    assert producer._closed is True


def test_cancelling_the_sender_task_lets_requests_end() -> None:
    source = inspect.getsource(Sender._sender_routine)
    assert "except asyncio.CancelledError:" in source
    assert "await task" in source


async def test_why_a_server_cannot_be_reached() -> None:
    nobody = KafkaSettings(bootstrap_servers="127.0.0.1:1", timeout=2.0)
    assert isinstance(await why_unreachable(nobody), ConnectionRefusedError)


async def test_a_certificate_that_is_taken_away_meanwhile_is_no_reason_to_fail(
    tmp_path: Path,
) -> None:
    """It was there when the client was made; the next attempt says what is wrong with it."""
    gone = TlsSettings(ca_file=tmp_path / "ca.crt")
    nobody = KafkaSettings(bootstrap_servers="127.0.0.1:1", security_protocol="SSL", tls=gone)
    assert await why_unreachable(nobody) is None


def test_security_settings_reach_every_client() -> None:
    plain = client_options(KafkaSettings(bootstrap_servers="a:1,b:2", timeout=2.5))
    assert plain == {
        "bootstrap_servers": "a:1,b:2",
        "request_timeout_ms": 2_500,
        "security_protocol": "PLAINTEXT",
    }
    sasl = client_options(
        KafkaSettings(
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            username="gateway",
            password=SecretStr("secret"),
        )
    )
    assert isinstance(sasl["ssl_context"], ssl.SSLContext)
    assert sasl["ssl_context"].check_hostname
    assert sasl["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (sasl["sasl_plain_username"], sasl["sasl_plain_password"]) == ("gateway", "secret")


def test_error_87_has_a_class() -> None:
    assert errors.for_code(87) is InvalidRecord
    assert all(issubclass(kind, errors.BrokerResponseError) for kind in POISON)
    assert not any(kind.retriable for kind in POISON), "aiokafka would try them for ever"


@pytest.mark.parametrize("codec", [0, 1, 2, 4])
def test_batches_survive_being_taken_apart(codec: int) -> None:
    batch = batch_of(RECORDS, codec)
    assert codec_of(batch) == codec
    assert list(records_of(batch)) == RECORDS
    assert MemoryRecords(batch).size_in_bytes() == len(batch)


def test_a_write_to_a_closed_connection_is_said_so_that_aiokafka_understands() -> None:
    """uvloop raises a RuntimeError there; that passed through aiokafka and ended the gateway."""
    assert "except OSError" in inspect.getsource(AIOKafkaConnection.send)

    class Closed:
        def write(self, data: bytes) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

        def writelines(self, parts: object) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>")

    writer = PiecesWriter(Closed())  # type: ignore[arg-type]
    for data in (b"bytes", Pieces((b"pie", b"ces"))):
        with pytest.raises(ConnectionResetError, match="closed=True"):
            writer.write(data)
