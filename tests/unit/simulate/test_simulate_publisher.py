"""The publisher counts what the broker acknowledged, keeps the order, and survives a broker."""

import asyncio
import json
import socket
import sys
from pathlib import Path

import aiomqtt
import mqtt5
import pytest
from typer.testing import CliRunner

from greenlang_iot.cli.main import app
from greenlang_iot.model.errors import MqttError
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.simulate.manifest import Message, read
from greenlang_iot.simulate.publisher import Progress, Publisher, Target


def messages(count: int, every: float = 0.0) -> list[Message]:
    return [Message(i * every, f"t/{i % 7}", b"%d" % i, []) for i in range(count)]


class Records:
    def __init__(self) -> None:
        self.confirmed: list[bytes] = []
        self.unconfirmed: list[bytes] = []

    def __call__(self, message: Message, confirmed: bool) -> None:
        (self.confirmed if confirmed else self.unconfirmed).append(message.payload)


class ScriptedBroker:
    """Accepts connections; `answer(packet, number)` says what to send back, None = nothing.

    `packets` holds what came, as (connection number, packet).
    """

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.packets: list[tuple[int, mqtt5.Packet]] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "ScriptedBroker":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.target = Target(port=self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self.writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.writers)
        self.writers.append(writer)
        data = b""
        while chunk := await reader.read(65_536):
            data += chunk
            while data:
                try:
                    packet, size = mqtt5.read(memoryview(data))
                except IndexError:
                    break
                data = data[size:]
                self.packets.append((number, packet))
                if (reply := self.answer(packet, number)) is not None:  # type: ignore[operator]
                    writer.write(reply)


def acknowledge(packet: mqtt5.Packet, number: int) -> bytes | None:
    if isinstance(packet, mqtt5.ConnectPacket):
        return mqtt5.ConnAckPacket().write()
    if isinstance(packet, mqtt5.PublishPacket) and packet.packet_id is not None:
        return mqtt5.PubAckPacket(packet.packet_id).write()
    return None


async def test_everything_is_acknowledged_and_arrives_in_order() -> None:
    broker = Broker()
    port = await broker.start()
    records, got = Records(), []
    try:
        async with aiomqtt.Client("127.0.0.1", port, protocol=aiomqtt.ProtocolVersion.V5) as client:
            await client.subscribe("t/#", qos=1)
            progress = await Publisher(Target(port=port), records, connections=3).run(messages(500))
            async for message in client.messages:
                got.append((str(message.topic), int(bytes(message.payload))))  # type: ignore[arg-type]
                if len(got) == 500:
                    break
    finally:
        await broker.stop()
    assert (progress.sent, progress.acknowledged, len(records.confirmed)) == (500, 500, 500)
    assert records.unconfirmed == []
    for topic in {t for t, _ in got}:
        numbers = [n for t, n in got if t == topic]
        assert numbers == sorted(numbers)
    assert sorted(n for _, n in got) == list(range(500))


async def test_the_receive_maximum_of_the_broker_is_kept() -> None:
    flying, most = set(), 0

    def answer(packet: mqtt5.Packet, number: int) -> bytes | None:
        nonlocal most
        if isinstance(packet, mqtt5.ConnectPacket):
            return mqtt5.ConnAckPacket(receive_max=5).write()
        if isinstance(packet, mqtt5.PublishPacket):
            flying.add(packet.packet_id)
            most = max(most, len(flying))
            if len(flying) == 5 or packet.payload == b"22":
                acks = b"".join(mqtt5.PubAckPacket(i).write() for i in flying if i is not None)
                flying.clear()
                return acks
        return None

    async with ScriptedBroker(answer) as broker:
        records = Records()
        progress = await Publisher(broker.target, records, connections=1).run(messages(23))
    assert (progress.acknowledged, most) == (23, 5)


async def test_after_a_lost_connection_what_is_unacknowledged_is_sent_again() -> None:
    async with ScriptedBroker(acknowledge) as broker:

        def lossy(packet: mqtt5.Packet, number: int) -> bytes | None:
            if number == 0 and isinstance(packet, mqtt5.PublishPacket) and packet.payload == b"10":
                broker.writers[0].close()
            if number == 0 and isinstance(packet, mqtt5.PublishPacket) and len(packet.payload) > 1:
                return None
            return acknowledge(packet, number)

        broker.answer = lossy
        records = Records()
        progress = await Publisher(broker.target, records, connections=1).run(messages(20))
        again = [
            (p.payload, p.duplicate)
            for n, p in broker.packets
            if n == 1 and isinstance(p, mqtt5.PublishPacket)
        ]
        connects = [p for _, p in broker.packets if isinstance(p, mqtt5.ConnectPacket)]
    assert progress.reconnects == 1
    assert sorted(map(int, records.confirmed)) == list(range(20))
    assert [int(p) for p, _ in again] == sorted(int(p) for p, _ in again)
    assert (b"10", True) in again
    assert not any(c.clean_start for c in connects)
    assert len({c.client_id for c in connects}) == 1


async def test_only_what_the_broker_took_and_somebody_hears_is_confirmed() -> None:
    codes = {
        b"1": mqtt5.PubAckReasonCode.NOT_AUTHORIZED,
        b"2": mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS,
    }

    def answer(packet: mqtt5.Packet, number: int) -> bytes | None:
        if isinstance(packet, mqtt5.PublishPacket) and packet.packet_id is not None:
            code = codes.get(packet.payload, mqtt5.PubAckReasonCode.SUCCESS)
            return mqtt5.PubAckPacket(packet.packet_id, reason_code=code).write()
        return acknowledge(packet, number)

    async with ScriptedBroker(answer) as broker:
        records = Records()
        progress = await Publisher(broker.target, records, connections=1).run(messages(4))
    assert sorted(records.confirmed) == [b"0", b"3"]
    assert records.unconfirmed == [b"2"]  # it was taken, so it may arrive
    assert (progress.refused, progress.unheard, progress.acknowledged) == (1, 1, 2)


async def test_what_is_never_acknowledged_is_recorded_as_unconfirmed() -> None:
    def answer(packet: mqtt5.Packet, number: int) -> bytes | None:
        return None if isinstance(packet, mqtt5.PublishPacket) else acknowledge(packet, number)

    async with ScriptedBroker(answer) as broker:
        records = Records()
        publisher = Publisher(broker.target, records, connections=2, drain_timeout=0.05)
        await publisher.run(messages(10))
    assert records.confirmed == []
    assert sorted(map(int, records.unconfirmed)) == list(range(10))


async def test_qos_0_promises_nothing() -> None:
    async with ScriptedBroker(acknowledge) as broker:
        records = Records()
        progress = await Publisher(broker.target, records, qos=0).run(messages(10))
        while sum(isinstance(p, mqtt5.PublishPacket) for _, p in broker.packets) < 10:
            await asyncio.sleep(0)
    assert (progress.sent, progress.acknowledged, len(records.unconfirmed)) == (10, 0, 10)


async def test_a_stop_ends_the_run_and_drains_it() -> None:
    async with ScriptedBroker(acknowledge) as broker:
        records = Records()

        def record(message: Message, confirmed: bool) -> None:
            records(message, confirmed)
            publisher.stop()

        publisher = Publisher(broker.target, record)
        progress: Progress = await publisher.run(messages(100_000, every=0.01))
    assert 0 < progress.sent < 1000
    assert len(records.confirmed) == progress.sent


async def test_messages_keep_their_pace() -> None:
    async with ScriptedBroker(acknowledge) as broker:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await Publisher(broker.target, Records()).run(messages(11, every=0.02))
        assert loop.time() - start >= 0.2


async def test_a_refused_login_is_said_in_words() -> None:
    def refuse(packet: mqtt5.Packet, number: int) -> bytes | None:
        code = mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD
        return mqtt5.ConnAckPacket(reason_code=code).write()

    async with ScriptedBroker(refuse) as broker:
        with pytest.raises(MqttError, match="refused the connection: bad user name or password"):
            await Publisher(broker.target, Records()).run(messages(1))


async def test_nobody_listens() -> None:
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(MqttError, match=f"127.0.0.1:{port}: nothing listens there"):
            await Publisher(Target(port=port), Records()).run(messages(1))


async def test_the_command_publishes_and_writes_manifest_and_registry(tmp_path: Path) -> None:
    broker = Broker()
    port = await broker.start()
    manifest, registry = tmp_path / "m.jsonl", tmp_path / "r.json"
    code = "import typer; from greenlang_iot.cli.simulate import simulate; typer.run(simulate)"
    arguments = ["--port", str(port), "--no-tls", "--devices", "12", "--seconds", "2"]
    arguments += ["--summary", "json", "--manifest", str(manifest), "--registry-out", str(registry)]
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *arguments, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
    finally:
        await broker.stop()
    assert process.returncode == 0
    summary = json.loads(output.splitlines()[-1])
    made = read(manifest)
    assert summary["published"] == made.confirmed == len(made.messages) > 36
    assert summary["readings"] == sum(
        len(m.readings) for m in made.messages if m.kind != "duplicate"
    )
    assert len(json.loads(registry.read_bytes())["devices"]) == 12


def test_a_registry_alone_says_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    arguments = ["simulate", "--devices", "20", "--seconds", "0", "--registry-out", str(path)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.stderr == f"wrote 20 devices to {path}\n"
    assert len(json.loads(path.read_text())["devices"]) == 20
