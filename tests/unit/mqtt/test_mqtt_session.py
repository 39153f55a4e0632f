"""The session without I/O: its packets byte by byte, its transitions, its timers, its words."""

from contextlib import suppress

import mqtt5
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from tests.reference.mqtt import publish

from greenlang_iot.model.errors import MqttError
from greenlang_iot.model.flags import FRAME_DUP
from greenlang_iot.mqtt import words
from greenlang_iot.mqtt.session import Event, Session, State
from greenlang_iot.settings.model import BrokerSettings

CONNACK = mqtt5.ConnAckPacket().write()
FILTERS = ["greenlang/+/a/#", "greenlang/+/b/#"]


def session(
    filters: list[str] = FILTERS, qos: int = 1, retire: bool = False, **broker: object
) -> Session:
    numbers = iter(range(1, 100))
    settings = BrokerSettings.model_validate(broker)
    return Session(settings, "gw-0-0", filters, qos, 65_536, lambda: next(numbers), retire=retire)


def feed(s: Session, data: bytes, now: float = 0.0) -> Event:
    s.framer.space()[: len(data)] = data
    s.received(len(data), now)
    return s.advance()


def suback(*codes: int, packet_id: int = 1) -> bytes:
    return mqtt5.SubAckPacket(packet_id, [mqtt5.SubAckReasonCode(c) for c in codes]).write()


def active(s: Session, now: float = 0.0, connack: bytes = CONNACK) -> Session:
    s.connect(now)
    assert feed(s, connack, now) is Event.ACCEPTED
    assert feed(s, suback(1, 1), now) is Event.READY
    s.outgoing(now)
    return s


def sent(s: Session, now: float = 0.0) -> list[mqtt5.Packet]:
    data = memoryview(s.outgoing(now))
    packets = []
    while data:
        packet, size = mqtt5.read(data)
        packets.append(packet)
        data = data[size:]
    return packets


def test_connect_packet_holds_the_settings() -> None:
    s = session(
        keep_alive=20,
        session_expiry=77,
        receive_maximum=500,
        topic_alias_maximum=9,
        maximum_packet_size=4_096,
        username="user",
        password=SecretStr("secret"),
    )
    s.connect(0.0)
    [packet] = sent(s)
    assert isinstance(packet, mqtt5.ConnectPacket)
    assert (packet.client_id, packet.username, packet.password) == ("gw-0-0", "user", b"secret")
    assert not packet.clean_start
    assert packet.will is None
    assert (packet.keep_alive, packet.session_expiry_interval) == (20, 77)
    assert (packet.receive_max, packet.topic_alias_max) == (500, 9)
    assert packet.max_packet_size == 4_096


def test_from_connect_to_ready() -> None:
    s = session()
    assert s.state is State.IDLE
    s.connect(0.0)
    sent(s)
    assert feed(s, CONNACK[:2]) is Event.NEED_DATA
    assert s.state is State.CONNECTING
    assert feed(s, mqtt5.ConnAckPacket(session_present=True).write()[2:]) is Event.ACCEPTED
    assert (s.state, s.connection, s.session_present) == (State.SUBSCRIBING, 1, True)
    [packet] = sent(s)
    assert isinstance(packet, mqtt5.SubscribePacket)
    for asked, pattern in zip(packet.topic_filters, FILTERS, strict=True):
        assert asked.pattern == pattern
        assert asked.max_qos == mqtt5.QoS.AT_LEAST_ONCE
        assert asked.retain_handling == mqtt5.RetainHandling.SEND_NEVER
        assert asked.retain_as_published
        assert not asked.no_local
    assert feed(s, suback(1, 1)) is Event.READY
    assert s.state is State.ACTIVE
    assert s.problems == []


def test_connect_again_begins_anew_under_a_new_number() -> None:
    s = active(session())
    feed(s, publish(b"t", b"x", 1) + b"\x30")
    active(s)
    assert s.connection == 2
    assert s.framer.unacknowledged == 0
    assert s.take(0).n == 0


def test_many_filters_go_in_several_packets() -> None:
    filters = [f"greenlang/o/s/d{i}/#" for i in range(130)]
    s = session(filters)
    s.connect(0.0)
    sent(s)
    feed(s, CONNACK)
    packets = sent(s)
    assert [len(p.topic_filters) for p in packets] == [64, 64, 2]
    assert [p.packet_id for p in packets] == [1, 2, 3]
    assert feed(s, suback(*[1] * 64, packet_id=2)) is Event.NEED_DATA
    assert feed(s, suback(1, 1, packet_id=3)) is Event.NEED_DATA
    assert feed(s, suback(*[1] * 64, packet_id=1)) is Event.READY


def test_messages_of_a_kept_session_may_come_before_the_suback() -> None:
    s = session()
    s.connect(0.0)
    feed(s, CONNACK)
    assert feed(s, publish(b"t", b"x", 1) + suback(1, 1)) is Event.READY
    frames = s.take(5)
    assert (frames.connection, frames.n, frames.received_ns) == (1, 1, 5)


def test_acknowledge_gives_bytes_and_opens_the_window() -> None:
    s = active(session(receive_maximum=2))
    data = b"".join(publish(b"t", b"x", i) for i in (1, 2, 3))
    assert feed(s, data) is Event.BLOCKED
    assert s.take(0).packet_id.tolist() == [1, 2]
    out = s.acknowledge(np.array([1, 2], np.uint16), 0.0)
    assert out.tobytes() == b"\x40\x02\x00\x01\x40\x02\x00\x02"
    assert s.advance() is Event.NEED_DATA
    assert s.take(0).packet_id.tolist() == [3]


def taken(s: Session) -> list[tuple[int, bytes]]:
    frames = s.take(0)
    return [(int(frames.packet_id[i]), frames.payload(i)) for i in range(frames.n)]


@pytest.mark.parametrize(("dup", "at_once"), [(FRAME_DUP, True), (FRAME_DUP, False), (0, False)])
def test_what_comes_again_on_the_same_connection_is_acknowledged_once(
    dup: int, at_once: bool
) -> None:
    """Some brokers do that while a PUBACK takes long; a second one would acknowledge who has the id then."""
    s = active(session(receive_maximum=3))
    first, again = publish(b"t", b"a", 1), publish(b"t", b"a", 1, dup)
    if at_once:
        feed(s, first + again + again)
        assert taken(s) == [(1, b"a"), (0, b"a"), (0, b"a")]
    else:
        for packet, packet_id in ((first, 1), (again, 0), (again, 0)):
            feed(s, packet)
            assert taken(s) == [(packet_id, b"a")]
            s.framer.compact()
    assert s.framer.unacknowledged == 1, "the others do not fill the window"
    s.acknowledge(np.array([1], np.uint16), 0.0)
    assert s.framer.unacknowledged == 0
    feed(s, publish(b"t", b"b", 1))
    assert taken(s) == [(1, b"b")], "a new message with that id"


def test_what_was_sent_again_before_its_puback_came_there_is_not_acknowledged_again() -> None:
    s = active(session())
    feed(s, publish(b"t", b"a", 1))
    s.take(0)
    s.acknowledge(np.array([1], np.uint16), 0.0)
    feed(s, publish(b"t", b"a", 1, FRAME_DUP))
    assert taken(s) == [(0, b"a")]
    active(s)  # a kept session on a new connection
    feed(s, publish(b"t", b"a", 1, FRAME_DUP))
    assert taken(s) == [(1, b"a")]


@pytest.mark.parametrize(("kept", "expiry"), [(True, 60), (False, 60), (False, 0)])
def test_a_session_that_the_broker_forgot_is_a_problem(kept: bool, expiry: int) -> None:
    s = active(session(session_expiry=expiry))
    assert s.problems == [], "nobody knows whether there was one"
    active(s, connack=mqtt5.ConnAckPacket(session_present=kept).write())
    forgotten = [text for text in s.problems if "forgotten the session" in text]
    assert len(forgotten) == len(s.problems) == (1 if expiry and not kept else 0)


def test_version_311() -> None:
    s = session(["a/#"], protocol="3.1.1")
    s.connect(0.0)
    assert s.outgoing(0.0) == b"\x10\x12\x00\x04MQTT\x04\x00\x00\x1e\x00\x06gw-0-0"
    assert feed(s, b"\x20\x02\x01\x00") is Event.ACCEPTED
    assert s.session_present
    assert s.outgoing(0.0) == b"\x82\x08\x00\x01\x00\x03a/#\x01"
    assert feed(s, b"\x90\x03\x00\x01\x01") is Event.READY
    assert feed(s, publish(b"t", b"x", 1, version5=False)) is Event.NEED_DATA
    assert s.take(0).payload(0) == b"x"


@pytest.mark.parametrize(("expiry", "flags"), [(0, 2), (1, 0)])
def test_version_311_without_session_expiry_is_a_clean_session(expiry: int, flags: int) -> None:
    s = session(protocol="3.1.1", session_expiry=expiry)
    s.connect(0.0)
    assert s.outgoing(0.0)[9] == flags


# refusals


@pytest.mark.parametrize("name", ["SERVER_BUSY", "SERVER_UNAVAILABLE", "QUOTA_EXCEEDED"])
def test_refusals_that_pass(name: str) -> None:
    error = refused(getattr(mqtt5.ConnAckReasonCode, name))
    assert error.retryable
    assert error.reason == name.lower()


def test_refusal_in_words_with_what_to_do() -> None:
    error = refused(mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD)
    assert not error.retryable
    assert str(error) == (
        "the broker refused the connection: user name or password are wrong; check `username` and "
        '`password` of the broker (it said: "no")'
    )


def test_a_broker_that_speaks_3_1_1_only_says_so_in_its_own_words() -> None:
    s = session()
    s.connect(0.0)
    with pytest.raises(MqttError, match="set `protocol` of the broker to the other one") as error:
        feed(s, b"\x20\x02\x00\x01")
    assert (error.value.reason, error.value.retryable) == ("unsupported_protocol_version", False)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("SERVER_MOVED", "it has moved for good; set `host` of the broker to the new one"),
        ("USE_ANOTHER_SERVER", "it asks to use another server for now"),
    ],
)
def test_the_server_that_a_broker_names_is_said(name: str, what: str) -> None:
    s = session()
    s.connect(0.0)
    code = getattr(mqtt5.ConnAckReasonCode, name)
    with pytest.raises(MqttError) as error:
        feed(s, mqtt5.ConnAckPacket(reason_code=code, server_reference="b2.example").write())
    assert str(error.value) == f'the broker refused the connection: {what} (it names "b2.example")'
    s = active(session())
    code = getattr(mqtt5.DisconnectReasonCode, name)
    with pytest.raises(MqttError) as error:
        feed(s, mqtt5.DisconnectPacket(reason_code=code, server_reference="b2.example").write())
    assert str(error.value) == f'the broker ended the connection: {what} (it names "b2.example")'


def test_a_topic_alias_that_was_not_allowed() -> None:
    s = active(session(topic_alias_maximum=0))
    with pytest.raises(MqttError, match=r"topic alias 3, allowed: none \(topic_alias_maximum\)"):
        feed(s, publish(b"t", b"", properties=b"\x23\x00\x03"))


def refused(code: mqtt5.ConnAckReasonCode) -> MqttError:
    s = session()
    s.connect(0.0)
    sent(s)
    with pytest.raises(MqttError) as error:
        feed(s, mqtt5.ConnAckPacket(reason_code=code, reason_str="no").write())
    s.disconnect(error=error.value)
    assert s.outgoing(0.0) == b"", "who was refused says nothing more"
    assert s.connection == 0
    return error.value


def test_every_reason_code_has_words() -> None:
    for number in range(256):
        for codes, say in (
            (mqtt5.ConnAckReasonCode, words.refusal),
            (mqtt5.DisconnectReasonCode, words.goodbye),
        ):
            try:
                code = codes(number)
            except ValueError:
                continue
            assert str(say(code, None)).startswith("the broker ")
            assert say(code, None).reason == code.name.lower()


def test_one_refused_subscription_is_a_problem_and_all_are_an_error() -> None:
    s = session()
    s.connect(0.0)
    feed(s, CONNACK)
    assert feed(s, suback(1, 135)) is Event.READY
    assert s.problems == [
        "the broker refused to subscribe greenlang/+/b/#: not authorised; allow the topic in the "
        "broker's ACL"
    ]
    s.connect(0.0)
    feed(s, mqtt5.ConnAckPacket(session_present=True).write())
    assert s.problems == []
    with pytest.raises(MqttError, match="refused to subscribe") as error:
        feed(s, suback(135, 128))
    assert error.value.reason == "subscription_refused"


def test_granted_qos_0_is_a_problem() -> None:
    s = session()
    s.connect(0.0)
    feed(s, CONNACK)
    feed(s, suback(0, 1))
    assert s.problems == [
        "the broker granted QoS 0 for greenlang/+/a/#, not 1: messages can be lost"
    ]


def test_shortened_session_is_a_problem() -> None:
    s = session(session_expiry=100)
    s.connect(0.0)
    feed(s, mqtt5.ConnAckPacket(session_expiry_interval=60).write())
    assert s.problems == ["the broker keeps the session for 60 s only (session_expiry is 100 s)"]


@pytest.mark.parametrize(
    ("connack", "filters", "reason"),
    [
        (
            mqtt5.ConnAckPacket(shared_subscription_available=False),
            ["$share/g/a"],
            "shared_subscriptions_not_supported",
        ),
        (
            mqtt5.ConnAckPacket(wildcard_subscription_available=False),
            ["a/+"],
            "wildcard_subscriptions_not_supported",
        ),
        (mqtt5.ConnAckPacket(max_packet_size=20), ["a" * 30], "packet_too_large"),
    ],
)
def test_what_the_broker_does_not_have(
    connack: mqtt5.ConnAckPacket, filters: list[str], reason: str
) -> None:
    s = session(filters)
    s.connect(0.0)
    with pytest.raises(MqttError) as error:
        feed(s, connack.write())
    assert error.value.reason == reason
    assert not error.value.retryable


# the end


def test_session_taken_over_stops_for_good() -> None:
    s = active(session())
    with pytest.raises(
        MqttError, match="another client connected with the same client id"
    ) as error:
        feed(s, publish(b"t", b"x", 1) + b"\xe0\x02\x8e\x00")
    assert (error.value.reason, error.value.retryable) == ("session_taken_over", False)
    assert s.take(0).n == 1, "what came before the DISCONNECT counts"
    s.disconnect(error=error.value)
    assert s.outgoing(0.0) == b""


def test_broker_shuts_down() -> None:
    s = active(session())
    with pytest.raises(MqttError, match="shutting down") as error:
        feed(s, b"\xe0\x01\x8b")
    assert error.value.retryable


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (CONNACK, 0x82),  # a second CONNACK
        (suback(1, packet_id=9), 0x82),  # nobody asked
        (b"\x50\x02\x00\x01", 0x82),  # PUBREC
        (mqtt5.AuthPacket(authentication_method="x").write(), 0x82),
        (b"\x36\x06\x00\x01t\x00\x01\x00", 0x81),  # QoS 3
        (b"\x34\x06\x00\x01t\x00\x01\x00", 0x82),  # QoS 2
        (b"\x30\xff\xff\xff\x7f", 0x95),
        (b"\x30\x06\x00\x01t\x02\x03\x00", 0x81),
        (publish(b"t", b"", properties=b"\x23\xff\xff"), 0x94),
    ],
)
def test_protocol_errors_are_named_to_the_broker(data: bytes, code: int) -> None:
    s = active(session())
    with pytest.raises(MqttError) as error:
        feed(s, data)
    s.disconnect(error=error.value)
    [packet] = sent(s)
    assert isinstance(packet, mqtt5.DisconnectPacket)
    assert packet.reason_code.value == code
    assert error.value.retryable


def test_a_broker_that_sends_something_before_its_connack() -> None:
    s = session()
    s.connect(0.0)
    with pytest.raises(MqttError, match="unexpected PUBLISH"):
        feed(s, publish(b"t", b""))


BAD_TEXT = b"\xc3\x28"
_USER = [("k", "QQ")]
_CODE = mqtt5.DisconnectReasonCode.SERVER_BUSY


@pytest.mark.parametrize(
    "packet",
    [
        mqtt5.DisconnectPacket(reason_code=_CODE, reason_str="QQ"),
        mqtt5.DisconnectPacket(reason_code=_CODE, server_reference="QQ"),
        mqtt5.DisconnectPacket(reason_code=_CODE, user_properties=_USER),
        mqtt5.SubAckPacket(1, [mqtt5.SubAckReasonCode(1)], reason_str="QQ"),
        mqtt5.UnsubAckPacket(1, [mqtt5.UnsubAckReasonCode(0)], user_properties=_USER),
        mqtt5.PubAckPacket(1, reason_str="QQ"),
        mqtt5.AuthPacket(authentication_method="QQ"),
    ],
)
def test_a_text_that_is_not_utf_8_ends_the_connection_and_nothing_else(
    packet: mqtt5.Packet, capfd: pytest.CaptureFixture[str]
) -> None:
    s = active(session())
    with pytest.raises(MqttError, match=r"malformed packet of type .*: a text is not UTF-8$"):
        feed(s, publish(b"t", b"x", 1) + packet.write().replace(b"QQ", BAD_TEXT))
    assert s.take(0).packet_id.tolist() == [1], "what came before it counts"
    s.disconnect(error=MqttError("", reason="malformed_packet"))
    assert s.outgoing(0.0) == b"\xe0\x01\x81", "malformed packet"
    assert capfd.readouterr() == ("", ""), "Rust panics, and says so on stderr"


def test_texts_of_a_publish_that_nobody_reads_need_not_be_utf_8() -> None:
    """A broker of a kept session would send the message again after each new connection."""
    s = active(session(topic_alias_maximum=8))
    texts = b"\x26\x00\x01k\x00\x02" + BAD_TEXT + b"\x03\x00\x02" + BAD_TEXT
    alias = b"\x23\x00\x03"
    feed(s, publish(b"t", b"x", 1, properties=texts + alias))
    feed(s, publish(b"", b"y", 2, properties=texts + alias))
    feed(s, publish(b"t" + BAD_TEXT, b"z", 3, properties=alias))
    frames = s.take(0)
    read = [(frames.topic(i), frames.payload(i)) for i in range(frames.n)]
    assert read == [(b"t", b"x"), (b"t", b"y"), (b"t" + BAD_TEXT, b"z")]
    assert frames.packet_id.tolist() == [1, 2, 3]


_GRANTED = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]
_FULL = [
    mqtt5.ConnAckPacket(
        assigned_client_id="id",
        server_keep_alive=9,
        authentication_method="m",
        authentication_data=b"d",
        response_info="i",
        server_reference="s",
        reason_str="r",
        receive_max=9,
        user_properties=_USER,
    ).write(),
    mqtt5.SubAckPacket(1, _GRANTED, reason_str="r", user_properties=_USER).write(),
    mqtt5.PubAckPacket(1, reason_str="r", user_properties=_USER).write(),
    mqtt5.DisconnectPacket(
        reason_code=_CODE, server_reference="s", reason_str="r", user_properties=_USER
    ).write(),
    mqtt5.PublishPacket(
        "t/a",
        b"payload",
        qos=mqtt5.QoS.AT_LEAST_ONCE,
        packet_id=5,
        topic_alias=3,
        content_type="c",
        response_topic="r",
        correlation_data=b"d",
        subscription_ids=[5, 300],
        user_properties=_USER,
    ).write(),
]
_WRONG = st.tuples(
    st.sampled_from(["put", "insert", "remove"]), st.integers(0, 99), st.integers(0, 255)
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    packet=st.sampled_from(_FULL),
    wrong=st.lists(_WRONG, max_size=4),
    fits=st.booleans(),
    first=st.booleans(),
)
def test_a_packet_in_which_anything_is_wrong_ends_the_connection_at_most(
    capfd: pytest.CaptureFixture[str],
    packet: bytes,
    wrong: list[tuple[str, int, int]],
    fits: bool,
    first: bool,
) -> None:
    data = bytearray(packet)
    for kind, at, byte in wrong:
        at %= len(data)
        data[at : at + (kind != "insert")] = (
            b"" if kind == "remove" and len(data) > 2 else bytes([byte])
        )
    if fits:
        data[1] = min(127, len(data) - 2)
    s = session(topic_alias_maximum=8)
    s.connect(0.0)
    if not first:
        feed(s, CONNACK)
        feed(s, publish(b"t", b"before", 7))
    with suppress(MqttError):
        feed(s, bytes(data))
    if not first:
        assert s.take(0).payload(0) == b"before", "what came before it is handed over"
    assert capfd.readouterr().err == ""


def test_goodbye_keeps_or_forgets_the_session() -> None:
    s = active(session())
    s.disconnect()
    assert s.outgoing(0.0) == b"\xe0\x00"
    s = active(session())
    s.disconnect(forget=True)
    [packet] = sent(s)
    assert isinstance(packet, mqtt5.DisconnectPacket)
    assert packet.session_expiry_interval == 0


def test_retire_unsubscribes() -> None:
    s = session(retire=True)
    s.connect(0.0)
    sent(s)
    assert feed(s, mqtt5.ConnAckPacket(session_present=True).write()) is Event.ACCEPTED
    [packet] = sent(s)
    assert isinstance(packet, mqtt5.UnsubscribePacket)
    assert packet.patterns == FILTERS
    codes = [mqtt5.UnsubAckReasonCode.SUCCESS, mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED]
    assert feed(s, mqtt5.UnsubAckPacket(1, codes).write()) is Event.READY


# keep-alive (40 s: PINGREQ after 30 s of silence, answer within 20 s)


def test_ping_when_nothing_was_sent_and_an_answer_in_time() -> None:
    s = active(session(keep_alive=40))
    assert s.tick(0.0) == 30.0
    s.received(0, 25.0)  # messages arrive; that spares no PINGREQ
    assert s.tick(29.0) == 30.0
    assert s.outgoing(29.0) == b""
    assert s.tick(30.0) == 50.0
    assert s.outgoing(30.0) == b"\xc0\x00"
    assert feed(s, b"\xd0\x00", 30.0) is Event.NEED_DATA  # the loop's clock may stand still
    assert s.tick(50.0) == 60.0
    assert s.outgoing(50.0) == b""


def test_no_ping_while_acknowledgements_go_out_and_messages_come_in() -> None:
    s = active(session(keep_alive=40))
    for now in range(0, 200, 10):
        s.received(0, now)
        s.acknowledge(np.array([], np.uint16), now)
        s.tick(now)
        assert s.outgoing(now) == b""


def test_silence_after_a_ping_is_an_error() -> None:
    s = active(session(keep_alive=40))
    s.tick(30.0)
    assert s.outgoing(30.0) == b"\xc0\x00"
    assert s.tick(49.9) == 50.0
    with pytest.raises(MqttError, match=r"did not answer a PINGREQ within 20\.0 s") as error:
        s.tick(50.0)
    assert error.value.retryable
    s.disconnect(error=error.value)
    [packet] = sent(s)
    assert packet.reason_code == mqtt5.DisconnectReasonCode.KEEP_ALIVE_TIMEOUT


def test_while_reading_is_paused_pings_go_out_and_no_answer_is_expected() -> None:
    s = active(session(keep_alive=40))
    s.reading(False, 1.0)
    pings = 0
    now = 1.0
    while now < 200.0:
        again = s.tick(now)
        pings += s.outgoing(now) == b"\xc0\x00"
        now = again
    assert pings == 6  # every 30 s
    s.reading(True, 200.0)
    s.tick(219.0)
    assert feed(s, b"\xd0\x00" * pings, 219.0) is Event.NEED_DATA


def test_after_a_pause_the_answer_has_its_whole_time_again() -> None:
    s = active(session(keep_alive=40))
    s.tick(30.0)
    s.outgoing(30.0)
    s.reading(False, 31.0)
    s.reading(True, 100.0)
    assert s.tick(100.0) == 120.0  # a PINGREQ, as nothing was sent since 30.0
    assert s.outgoing(100.0) == b"\xc0\x00"
    with pytest.raises(MqttError):
        s.tick(120.0)


def test_the_brokers_keep_alive_counts() -> None:
    connack = mqtt5.ConnAckPacket(server_keep_alive=8).write()
    assert active(session(keep_alive=40), connack=connack).tick(0.0) == 6.0
    off = mqtt5.ConnAckPacket(server_keep_alive=0).write()
    s = active(session(keep_alive=40), connack=off)
    s.tick(1e6)
    assert s.outgoing(1e6) == b""


@pytest.mark.parametrize("keep_alive", [40, 0])
def test_a_broker_that_never_answers_subscribe_is_left(keep_alive: int) -> None:
    """It answers pings, so the connection would stand for ever, and nothing ever come on it."""
    s = session()
    s.connect(0.0)
    feed(s, mqtt5.ConnAckPacket(server_keep_alive=keep_alive).write(), 1.0)
    sent(s, 1.0)
    for now in range(2, 61):
        assert s.tick(now) > now
        feed(s, b"\xd0\x00", now)
    with pytest.raises(MqttError, match="did not answer SUBSCRIBE within 60 s") as error:
        s.tick(61.1)
    assert (error.value.reason, error.value.retryable) == ("timeout", True)


def test_while_messages_come_or_reading_is_paused_the_answer_to_subscribe_may_be_behind_them() -> (
    None
):
    s = session()
    s.connect(0.0)
    feed(s, mqtt5.ConnAckPacket(server_keep_alive=0).write(), 0.0)
    sent(s, 0.0)
    feed(s, publish(b"t", b"x", 1), 50.0)
    s.take(0)
    s.tick(100.0)  # a message came at 50
    s.reading(False, 101.0)
    s.tick(500.0)
    s.reading(True, 501.0)
    s.tick(560.0)
    feed(s, b"\xd0\x00", 560.5)
    with pytest.raises(MqttError, match="did not answer SUBSCRIBE"):
        s.tick(561.5)
