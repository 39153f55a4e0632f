"""Dead letters: JSON that follows its schema, durable when it says so, bounded loudly."""

import asyncio
import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.disk import SimulatedDisk

from greenlang_iot.encode.deadletter import decode, encode, from_refused, from_rejects
from greenlang_iot.model.batches import Reject
from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.model.outcomes import DeadLetter, Refused
from greenlang_iot.settings.model import DeadLetterSettings
from greenlang_iot.sinks.deadletter import (
    PUBLISHED_AT_ONCE,
    DeadLetterWriter,
    read_dead_letters,
)

SCHEMA = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).parents[3] / "docs/schemas/dead-letter-v1.json").read_text())
)
SECOND = 10**9


def reject(device: str = "d001", payload: bytes = b'{"value":"x"}', topic: bytes = b"t") -> Reject:
    return Reject(topic, payload, device, [("values.a", "out_of_range"), ("", "ts_missing")], 2)


@given(
    payload=st.binary(max_size=60),
    topic=st.binary(max_size=20),
    paths=st.lists(st.tuples(st.text(max_size=8), st.sampled_from(["malformed"])), min_size=1),
)
@settings(max_examples=60, deadline=None)
def test_messages_come_back_and_follow_the_schema(
    payload: bytes, topic: bytes, paths: list[tuple[str, str]]
) -> None:
    (letter,) = from_rejects([Reject(topic, payload, "d1", paths, 3)], 17)
    line = encode(letter)
    assert b"\n" not in line
    assert decode(line) == letter
    assert (letter.payload, letter.ts_ns, letter.readings) == (payload, 17, 3)
    SCHEMA.validate(json.loads(line))


def test_lines_and_digests_follow_the_schema() -> None:
    (line,) = from_refused("influxdb", [Refused(b"m v=1 \xff", "too old", 2)], 5)
    digest = DeadLetter("digest", 5, answer="max_bytes", count=2, digest="0" * 64)
    for letter in (line, digest):
        SCHEMA.validate(json.loads(encode(letter)))
        assert decode(encode(letter)) == letter
    assert "payload_text" not in json.loads(encode(line))
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate({"v": 1, "kind": "message", "ts": 1})


@pytest.mark.parametrize("line", [b"", b"[]", b"{}", b'{"v":2}', b'{"v":1,"kind":"line"}'])
def test_what_is_no_dead_letter(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(line)


async def test_durable_letters_are_in_files(tmp_path: Path) -> None:
    folder = tmp_path / "shard-0"
    writer = DeadLetterWriter(DeadLetterSettings(), folder)
    assert writer.submit([], 0) == 0
    await writer.durable(0)
    assert writer.submit([reject("d1"), reject("d2")], 9) == 2
    number = writer.submit_refused("kafka", [Refused(b"x", "too large")], 10)
    await writer.durable(number)
    found = list(read_dead_letters(tmp_path))
    assert [(f.kind, f.device, f.sink, f.ts_ns) for f in found] == [
        ("message", "d1", "", 9),
        ("message", "d2", "", 9),
        ("line", "", "kafka", 10),
    ]
    assert {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()} == {0o600}
    assert writer.stats.kept == 3
    assert writer.stats.nbytes == sum(p.stat().st_size for p in folder.iterdir())
    await writer.close()
    again = DeadLetterWriter(DeadLetterSettings(), folder)
    await again.durable(again.submit([reject("d3")], 11))
    await again.close()
    assert [f.device for f in read_dead_letters(folder)] == ["d1", "d2", "", "d3"]


async def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    writer = DeadLetterWriter(DeadLetterSettings(), tmp_path)
    await writer.durable(writer.submit([reject("d1"), reject("d2")], 0))
    await writer.close()
    (file,) = tmp_path.iterdir()  # noqa: ASYNC240
    file.write_bytes(file.read_bytes()[:-3])
    assert [f.device for f in read_dead_letters(tmp_path)] == ["d1"]


async def test_a_device_over_its_rate_is_digested_alone(tmp_path: Path) -> None:
    writer = DeadLetterWriter(DeadLetterSettings(device_rate=2), tmp_path)
    writer.submit([reject("loud", b"%d" % i) for i in range(5)] + [reject("quiet")], 0)
    writer.submit([reject("loud", b"later")], SECOND // 2)
    number = writer.submit([reject("loud", b"too soon")], SECOND // 2)
    await writer.durable(number)
    await writer.close()
    found = list(read_dead_letters(tmp_path))
    assert [f.payload for f in found if f.device == "loud"] == [b"0", b"1", b"later"]
    assert sum(f.device == "quiet" for f in found) == 1
    assert writer.stats.digested == {"device_rate": 4, "max_bytes": 0}
    chain = bytes(32)
    for payload, ts in ((b"2", 0), (b"3", 0), (b"4", 0), (b"too soon", SECOND // 2)):
        (letter,) = from_rejects([reject("loud", payload)], ts)
        chain = hashlib.sha256(chain + encode(letter)).digest()
    assert [(f.answer, f.count, f.digest) for f in found if f.kind == "digest"] == [
        ("device_rate", 4, chain.hex())
    ]


async def test_a_clock_that_was_set_back_digests_nobody(tmp_path: Path) -> None:
    writer = DeadLetterWriter(DeadLetterSettings(device_rate=1), tmp_path)
    day = 86_400 * SECOND
    for now in (day, 0, SECOND, 2 * SECOND):  # a day ahead at first, then right
        number = writer.submit([reject("d1", b"%d" % now)], now)
    await writer.durable(number)
    await writer.close()
    # at the moment of the step nothing is known to have passed; from then on it is one a second
    assert [f.ts_ns for f in read_dead_letters(tmp_path) if f.kind == "message"] == [
        day,
        SECOND,
        2 * SECOND,
    ]


async def test_files_that_are_moved_away_make_room(tmp_path: Path) -> None:
    bound = DeadLetterSettings(device_rate=1e6, max_bytes=3000)
    folder, away = tmp_path / "letters", tmp_path / "away"
    away.mkdir()
    writer = DeadLetterWriter(bound, folder)
    while not writer.stats.digested["max_bytes"]:
        await writer.durable(writer.submit([reject("before")], 0))
    kept = writer.stats.kept
    for path in [p for p in folder.iterdir() if p.name.startswith("dead-letters-")]:
        path.rename(away / path.name)
    await writer.durable(writer.submit([reject("seen")], 0))  # a digest at most
    await writer.durable(writer.submit([reject("after")], 0))
    assert writer.stats.nbytes == sum(p.stat().st_size for p in folder.glob("dead-*"))
    await writer.close()
    assert [f.device for f in read_dead_letters(away)] == ["before"] * kept
    assert [f.device for f in read_dead_letters(folder) if f.kind == "message"] == ["after"]


async def test_total_bytes_are_bounded_exactly_and_over_restarts(tmp_path: Path) -> None:
    bound = DeadLetterSettings(device_rate=1e6, max_bytes=3000)
    for restart in (1, 2):
        writer = DeadLetterWriter(bound, tmp_path)
        for _ in range(30):
            await writer.durable(writer.submit([reject()], 0))
            assert writer.stats.nbytes <= 3000
        await writer.close()
        found = list(read_dead_letters(tmp_path))
        kept = sum(f.kind == "message" for f in found)
        assert writer.stats.nbytes > 3000 - 300
        assert [f.count for f in found if f.kind == "digest"] == [30 * restart - kept]


async def test_a_failing_disk_settles_nothing_and_loses_nothing() -> None:
    disk, folder = SimulatedDisk(), Path("/letters")
    writer = DeadLetterWriter(DeadLetterSettings(), folder, files=disk)
    await writer.durable(writer.submit([reject("d1")], 0))
    disk.failing = {"sync"}
    waiting = asyncio.ensure_future(writer.durable(writer.submit([reject("d2")], 0)))
    while not writer.stats.failures:
        await asyncio.sleep(0)
    assert not waiting.done()
    disk.failing = set()
    await waiting
    disk.power_loss()
    assert {f.device for f in read_dead_letters(folder, files=disk)} == {"d1", "d2"}


@pytest.mark.parametrize("failing", [{"sync"}, {"write"}, {"sync_folder"}, {"sync", "unlink"}])
async def test_a_disk_that_fails_for_long_is_not_filled_by_what_was_tried(
    failing: set[str],
) -> None:
    disk, folder = SimulatedDisk(), Path("/letters")
    writer = DeadLetterWriter(DeadLetterSettings(fsync_every=0.0), folder, files=disk)
    await writer.durable(writer.submit([reject("d1")], 0))
    number = writer.submit([reject("d2")], 0)
    for calls in ({"sync"}, *[failing] * 10):  # from the second on it is a new file
        disk.failing = calls
        with pytest.raises(OSError, match="simulated failure"):
            writer._target._commit()
    assert len(disk.names(folder)) <= 2
    disk.failing = set()
    await writer.durable(number)
    written = sum(disk.size(folder / name) for name in disk.names(folder))
    assert writer.stats.nbytes == written
    disk.power_loss()
    assert {f.device for f in read_dead_letters(folder, files=disk)} == {"d1", "d2"}
    await writer.close()


class Topic:
    """Kafka's part: `answer(key)` says with which error a record is refused."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, bytes]] = []
        self.asked = 0
        self.answer: Callable[[bytes], BaseException | None] = lambda key: None

    async def publish(self, topic: str, key: bytes, value: bytes) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        error = self.answer(key)
        if error is not None:
            raise error
        self.published.append((topic, key, value))


async def test_kafka_settles_what_is_published(tmp_path: Path) -> None:
    topic = Topic()
    target = DeadLetterSettings(target="kafka", device_rate=2)
    writer = DeadLetterWriter(target, tmp_path, topic.publish, "iot.deadletter")
    first = writer.submit([reject("d1"), reject("d2")], 0)
    second = writer.submit([reject("d1"), reject("d1", b"over")], 0)
    await writer.durable(first)
    await writer.durable(second)
    await writer.close()
    assert sorted((t, k, decode(v).kind) for t, k, v in topic.published) == [
        ("iot.deadletter", b"d1", "message"),
        ("iot.deadletter", b"d1", "message"),
        ("iot.deadletter", b"d2", "message"),
        ("iot.deadletter", b"device_rate", "digest"),
    ]
    assert (writer.stats.failures, writer.stats.nbytes) == (0, 0)
    assert list(read_dead_letters(tmp_path)) == []


async def test_what_kafka_refuses_for_good_goes_to_the_files(tmp_path: Path) -> None:
    topic = Topic()
    too_large = SinkError("too large", reason="refused", retryable=False)
    topic.answer = lambda key: too_large if key == b"d2" else None
    writer = DeadLetterWriter(DeadLetterSettings(target="kafka"), tmp_path, topic.publish)
    number = writer.submit([reject("d1"), reject("d2"), reject("d3")], 0)
    await asyncio.wait_for(writer.durable(number), 30)
    await asyncio.wait_for(writer.durable(writer.submit([reject("d4")], 0)), 30)
    await writer.close()
    assert [key for _, key, _ in topic.published] == [b"d1", b"d3", b"d4"]
    assert [letter.device for letter in read_dead_letters(tmp_path)] == ["d2"]


@pytest.mark.parametrize(
    "raised", [InputError("tls.ca_file ca.crt cannot be read"), asyncio.CancelledError()], ids=str
)
async def test_whatever_publishing_raises_nothing_waits_for_ever(
    tmp_path: Path, raised: BaseException
) -> None:
    topic = Topic()
    topic.answer = lambda key: raised
    writer = DeadLetterWriter(DeadLetterSettings(target="kafka"), tmp_path, topic.publish)
    await asyncio.wait_for(writer.durable(writer.submit([reject("d1")], 0)), 30)
    await asyncio.wait_for(writer.durable(writer.submit([reject("d2")], 0)), 30)
    await writer.close()
    assert [letter.device for letter in read_dead_letters(tmp_path)] == ["d1", "d2"]


async def test_kafka_is_given_some_at_a_time_in_order(tmp_path: Path) -> None:
    """Tens of thousands at once took the loop for longer than a shard may stand still."""
    topic = Topic()
    under_way = most = 0

    async def publish(name: str, key: bytes, value: bytes) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await topic.publish(name, key, value)
        under_way -= 1

    writer = DeadLetterWriter(DeadLetterSettings(target="kafka", device_rate=1), tmp_path, publish)
    devices = [f"d{n:04d}" for n in range(2_000)]
    first = writer.submit([reject(device) for device in devices], 0)
    last = writer.submit([reject("d0000", b"over its rate")], 0)
    await writer.durable(first)
    await writer.durable(last)
    await writer.close()
    assert most <= PUBLISHED_AT_ONCE + 1
    assert [key.decode() for _, key, _ in topic.published if key != b"device_rate"] == devices
    assert [decode(v).count for _, key, v in topic.published if key == b"device_rate"] == [1]


async def test_while_kafka_is_away_dead_letters_go_to_the_files(tmp_path: Path) -> None:
    topic = Topic()
    topic.answer = lambda key: SinkError("nobody answers", reason="no_brokers", down=True)
    settings = DeadLetterSettings(target="kafka", device_rate=1)
    writer = DeadLetterWriter(settings, tmp_path, topic.publish)
    await asyncio.wait_for(writer.durable(writer.submit([reject("d1"), reject("d1")], 0)), 30)
    asked = topic.asked
    await asyncio.wait_for(writer.durable(writer.submit([reject("d2")], 0)), 30)
    assert topic.asked == asked  # not asked again so soon
    await writer.close()
    found = list(read_dead_letters(tmp_path))
    assert [(f.kind, f.device, f.count) for f in found] == [
        ("message", "d1", 0),
        ("message", "d2", 0),
        ("digest", "", 1),
    ]


async def test_kafka_gets_dead_letters_again_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("greenlang_iot.sinks.deadletter.ASK_AGAIN", 0.0)
    topic = Topic()
    topic.answer = lambda key: SinkError("nobody answers", reason="timeout")
    writer = DeadLetterWriter(DeadLetterSettings(target="kafka"), tmp_path, topic.publish)
    await asyncio.wait_for(writer.durable(writer.submit([reject("d1")], 0)), 30)
    topic.answer = lambda key: None
    await asyncio.wait_for(writer.durable(writer.submit([reject("d2")], 0)), 30)
    await writer.close()
    assert [key for _, key, _ in topic.published] == [b"d2"]
    assert [letter.device for letter in read_dead_letters(tmp_path)] == ["d1"]


def test_kafka_without_a_producer_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sinks.kafka is not enabled"):
        DeadLetterWriter(DeadLetterSettings(target="kafka"), tmp_path)
