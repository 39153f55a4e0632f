"""The fault matrix's own parts: the wire record and the verdict can say no."""

from collections import Counter
from dataclasses import replace

import mqtt5
from tests.faults import wire
from tests.faults.__main__ import Result, problems_of
from tests.faults.check import Verdict, judge
from tests.faults.readers import Found
from tests.faults.rows import Row
from tests.reference.mqtt import publish

from greenlang_iot.simulate.manifest import Message, Reading

TOPIC = "a/b/c/telemetry"
READING = Reading("c", "m", 1, 2.0, 3)
GOOD = Message(0.0, TOPIC, b"good", [READING])
BAD = Message(0.0, TOPIC, b"bad", [], (("", "json"),))


def found(*, kafka: int = 0, influx: bool = False, digested: int = 0, **more: object) -> Found:
    empty = Found(Counter(), set(), set(), set(), set(), set(), set(), digested)
    here = {("c", "m", 1)} if influx else set()
    return empty._replace(kafka=Counter({READING: kafka} if kafka else {}), influx=here, **more)


def verdict(found_: Found, *messages: Message, forwards: int = 1, cut: bool = False):  # type: ignore[no-untyped-def]
    keys = [(m.topic, m.payload) for m in messages]
    sent = dict(zip(keys, messages, strict=True))
    forwarded = Counter(dict.fromkeys(keys, forwards))
    return judge(sent, forwarded, Counter(keys), found_, set(keys) if cut else set())


def test_acked_is_lost_unless_every_sink_or_its_spool_or_dead_letter_has_it() -> None:
    assert verdict(found(kafka=1, influx=True), GOOD).acked_lost == 0
    assert verdict(found(kafka=1), GOOD).acked_lost == 1
    assert verdict(found(influx=True), GOOD).acked_lost == 1
    assert verdict(found(influx=True, spooled_kafka={READING}), GOOD).acked_lost == 0
    assert verdict(found(kafka=1, refused_influx={("c", "m", 1)}), GOOD).acked_lost == 0


def test_a_rejected_message_must_be_a_dead_letter_or_in_the_digest() -> None:
    assert verdict(found(), BAD).acked_lost == 1
    assert verdict(found(letters={(TOPIC, b"bad")}), BAD).acked_lost == 0
    assert verdict(found(digested=1), BAD).acked_lost == 0
    other = Message(0.0, TOPIC, b"worse", [], (("", "json"),))
    assert verdict(found(digested=1), BAD, other).acked_lost == 1


def test_what_floods_may_be_a_dead_letter_or_in_the_digest_but_not_nowhere() -> None:
    flood = Message(0.0, TOPIC, b"good", [READING], (), "flood")
    assert verdict(found(kafka=1, influx=True), flood).acked_lost == 0
    assert verdict(found(), flood).acked_lost == 1
    assert verdict(found(letters={(TOPIC, b"good")}), flood).acked_lost == 0
    assert verdict(found(digested=1), flood).acked_lost == 0


def test_a_good_message_may_be_a_dead_letter_only_where_the_clock_was_wrong() -> None:
    key = (GOOD.topic, GOOD.payload)
    once = Counter({key: 1})
    letter = found(letters={key})
    for doubtful, lost in ((set(), 1), ({key}, 0)):
        result = judge({key: GOOD}, once, once, letter, set(), ("kafka", "influxdb"), doubtful)
        assert result.acked_lost == lost
    nowhere = judge({key: GOOD}, once, once, found(), set(), ("kafka",), {key})
    assert nowhere.acked_lost == 1


def test_the_lake_is_a_sink_like_the_others_where_it_is_required() -> None:
    key = (GOOD.topic, GOOD.payload)
    once = Counter({key: 1})
    for lake, lost in ((frozenset(), 1), ({("c", "m", 1)}, 0)):
        here = found(kafka=1, influx=True)._replace(lake=lake)
        result = judge({key: GOOD}, once, once, here, set(), ("kafka", "influxdb", "lake"))
        assert result.acked_lost == lost


def test_a_best_effort_sink_may_miss_what_was_acked() -> None:
    key = (GOOD.topic, GOOD.payload)
    nowhere = found(influx=True)
    once = Counter({key: 1})
    assert judge({key: GOOD}, once, once, nowhere, set(), ("influxdb",)).acked_lost == 0
    assert judge({key: GOOD}, once, once, nowhere, set(), ("kafka",)).acked_lost == 1


def test_duplicates_need_an_explanation() -> None:
    twice = found(kafka=2, influx=True)
    assert verdict(twice, GOOD).unexplained_duplicates == 1
    assert verdict(twice, GOOD, forwards=2).unexplained_duplicates == 0
    assert verdict(twice, GOOD, cut=True).unexplained_duplicates == 0
    assert verdict(found(kafka=4, influx=True), GOOD, forwards=2).unexplained_duplicates == 2


def test_what_nobody_published_is_noticed() -> None:
    result = judge({}, Counter(), Counter({(TOPIC, b"?"): 1}), found(), set())
    assert result.unknown == 1


def test_packets_are_split_wherever_the_stream_is_cut() -> None:
    ack = mqtt5.PubAckPacket(packet_id=9)
    stream = publish(b"a/b", b"payload", packet_id=7) + ack.write() + publish(b"a/b", b"x" * 300)
    for cut in range(1, len(stream)):
        splitter = wire.Splitter()
        packets = [*splitter.feed(stream[:cut]), *splitter.feed(stream[cut:])]
        assert b"".join(packet.raw for packet in packets) == stream
        first, second, third = packets
        assert wire.publish(first) == (b"a/b", 0, 7, b"payload")
        assert wire.acknowledged(second) == 9
        assert wire.publish(third).payload == b"x" * 300


def test_a_puback_that_says_no_is_no_acknowledgement() -> None:
    no = mqtt5.PubAckPacket(packet_id=9, reason_code=mqtt5.PubAckReasonCode.UNSPECIFIED_ERROR)
    (packet,) = wire.Splitter().feed(no.write())
    assert wire.acknowledged(packet) == 0


def test_a_shard_that_fails_of_itself_fails_the_row_though_all_was_delivered_again() -> None:
    row = Row("any", "any", lambda field: 0.5)
    result = Result(row, verdict=Verdict(acked=5), recovery=0.5)
    assert problems_of(result) == []
    result.errors = ["kafka is away: refused", "a task of the shard failed: AttributeError"]
    assert problems_of(result) == ["a task of the shard failed: AttributeError"]
    result.row = replace(row, explains="MemoryError")
    assert problems_of(result) == ["a task of the shard failed: AttributeError"]
    result.errors = ["unhandled in the event loop: in seal\nMemoryError"]
    assert problems_of(result) == []
