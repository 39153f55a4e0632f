"""Sparkplug B: births, aliases, deaths, sequence numbers, rebirths, bounds; payloads made by hand."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from tests.fakes.directory import directory
from tests.fakes.format_decoder import NOW, NOW_MS, FormatDecoder, Read
from tests.fakes.payload_formats import field, metric, sparkplug

from greenlang_iot.formats.sparkplug_proto import Payload

GROUP_IS_SITE = "spBv1.0/{site}/{type}/{node}/{device}"
NS = 1_000_000


class Plant:
    """An edge node `d001` with a device `d003`, both registered at site-1."""

    def __init__(self, **entry: object) -> None:
        self.gateway = FormatDecoder("sparkplug-b", GROUP_IS_SITE, **entry)
        self.now = NOW

    def send(self, kind: str, *metrics: bytes, seq: int | None = None, device: str = "") -> Read:
        topic = f"spBv1.0/site-1/{kind}/d001" + (f"/{device}" if device else "")
        payload = sparkplug(*metrics, seq=seq, ts=self.now // NS)
        return self.gateway.read(payload, topic=topic, now=self.now)

    def born(self, bd_seq: int = 0, seq: int = 0) -> None:
        read = self.send(
            "NBIRTH",
            metric("bdSeq", bd_seq),
            metric("Node Control/Rebirth", False),
            metric("temperature", 20.5, alias=0),
            seq=seq,
        )
        assert [row[:2] for row in read.rows] == [("d001", "temperature")]
        read = self.send(
            "DBIRTH", metric("humidity", 40, alias=7, datatype=2), seq=seq + 1, device="d003"
        )
        assert [row[:2] for row in read.rows] == [("d003", "humidity")]
        assert not read.rejects


def asked(read: Read) -> list[str]:
    return [publication.topic for publication in read.decoded.publications]


def test_births_name_what_data_only_numbers() -> None:
    plant = Plant()
    plant.born()
    read = plant.send("NDATA", metric(value=21.5, alias=0, datatype=0), seq=2)
    assert read.rows == [("d001", "temperature", NOW_MS * NS, 21.5, None)]
    # Int16 −3 comes in an unsigned field; its type stands in the birth only
    read = plant.send("DDATA", metric(value=0xFFFD, alias=7, datatype=0), seq=3, device="d003")
    assert read.rows == [("d003", "humidity", NOW_MS * NS, -3.0, None)]
    assert (read.rejects, asked(read), read.decoded.gaps) == ([], [], 0)


def test_a_time_of_the_metric_goes_before_that_of_the_message() -> None:
    plant = Plant()
    plant.born()
    [row] = plant.send("NDATA", metric(value=1.0, alias=0, ts=NOW_MS - 5), seq=2).rows
    assert row.ts == (NOW_MS - 5) * NS
    late = metric("temperature", 1.0, ts=2**63)
    assert plant.send("NDATA", late, seq=3).rejects == [[("metrics[0].temperature", "ts_invalid")]]


@pytest.mark.parametrize(
    ("datatype", "raw", "value"),
    [(1, 0xFF, -1), (1, 0xFFFFFFFF, -1), (2, 0x8000, -32768), (3, 0xFFFFFFFF, -1), (5, 0xFF, 255)],
)
def test_twos_complement_by_datatype(datatype: int, raw: int, value: int) -> None:
    plant = Plant(registry=directory(4, low=-1e6, high=1e6))
    read = plant.send("NDATA", metric("temperature", raw, datatype=datatype))
    assert [row.value for row in read.rows] == [value]


def test_what_is_no_number_is_rejected_and_true_is_one() -> None:
    plant = Plant()
    read = plant.send(
        "NDATA",
        metric("temperature", True),
        metric("temperature", "warm"),
        metric("temperature", NOW_MS, datatype=13),  # a DateTime
        metric("temperature"),  # null
        metric("speed", 1.0),
    )
    assert [row.value for row in read.rows] == [1.0]
    assert read.rejects == [
        [
            ("metrics[1].temperature", "not_a_number"),
            ("metrics[2].temperature", "not_a_number"),
            ("metrics[3].temperature", "not_a_number"),
            ("metrics[4].speed", "unknown_metric"),
        ]
    ]


def test_after_a_restart_aliases_are_rejected_names_are_taken_and_a_rebirth_is_asked_for() -> None:
    plant = Plant()  # the node has been alive for long
    read = plant.send("NDATA", metric(value=21.5, alias=0), metric("humidity", 40.0), seq=99)
    assert [row[:2] for row in read.rows] == [("d001", "humidity")]
    assert read.rejects == [[("metrics[0]", "unknown_alias")]]
    [publication] = read.decoded.publications
    assert publication.topic == "spBv1.0/site-1/NCMD/d001"
    assert publication.payload == sparkplug(metric("Node Control/Rebirth", True), ts=NOW_MS)
    # it is not asked again at once, and only until it answers
    read = plant.send("DDATA", metric(value=1.0, alias=7), seq=100, device="d003")
    assert (read.rejects, asked(read)) == ([[("metrics[0]", "unknown_alias")]], [])
    plant.now += 10_000_000_000
    assert asked(plant.send("NDATA", metric(value=1.0, alias=0), seq=101)) == [
        "spBv1.0/site-1/NCMD/d001"
    ]
    plant.born()
    read = plant.send("DDATA", metric(value=50, alias=7), seq=2, device="d003")
    assert [row.value for row in read.rows] == [50]
    plant.now += 60_000_000_000
    assert asked(plant.send("NDATA", metric(value=1.0, alias=0), seq=3)) == []


def test_after_a_gap_no_alias_is_guessed() -> None:
    """What is missing may be the birth that gave the alias to another metric."""
    plant = Plant()
    plant.born()
    read = plant.send("NDATA", metric(value=21.5, alias=0), seq=5)
    assert (read.rows, read.rejects) == ([], [[("metrics[0]", "unknown_alias")]])
    assert read.decoded.gaps == 3
    assert asked(read) == ["spBv1.0/site-1/NCMD/d001"]
    read = plant.send("NDATA", metric("temperature", 21.5), seq=9)
    assert len(read.rows) == 1
    assert read.decoded.gaps == 0  # one gap is counted once
    # a device's birth alone does not end it: the node's may still be missing
    read = plant.send("DBIRTH", metric("humidity", 1.0, alias=7), seq=10, device="d003")
    assert len(read.rows) == 1
    read = plant.send("DDATA", metric(value=1.0, alias=7), seq=11, device="d003")
    assert read.rejects == [[("metrics[0]", "unknown_alias")]]


def test_seq_wraps_at_256() -> None:
    plant = Plant()
    plant.born(seq=253)
    for seq in (255, 0, 1):
        read = plant.send("NDATA", metric(value=1.0, alias=0), seq=seq)
        assert (len(read.rows), read.decoded.gaps) == (1, 0)


def test_deaths_end_what_births_said() -> None:
    plant = Plant()
    plant.born(bd_seq=4)
    assert plant.send("DDEATH", seq=2, device="d003")[:2] == ([], [])
    read = plant.send("DDATA", metric(value=1.0, alias=7), seq=3, device="d003")
    assert read.rejects == [[("metrics[0]", "unknown_alias")]]
    assert len(plant.send("NDATA", metric(value=1.0, alias=0), seq=4).rows) == 1
    # the will of the connection before comes late: it is not about this birth
    plant.send("NDEATH", metric("bdSeq", 3))
    assert len(plant.send("NDATA", metric(value=1.0, alias=0), seq=5).rows) == 1
    plant.send("NDEATH", metric("bdSeq", 4))
    read = plant.send("NDATA", metric(value=1.0, alias=0), seq=6)
    assert read.rejects == [[("metrics[0]", "unknown_alias")]]


def test_a_birth_gives_an_alias_to_another_metric() -> None:
    plant = Plant()
    plant.born()
    plant.send("NBIRTH", metric("humidity", 1.0, alias=0), seq=0)
    [row] = plant.send("NDATA", metric(value=2.0, alias=0), seq=1).rows
    assert row.metric == "humidity"


def test_commands_are_not_ours() -> None:
    plant = Plant()
    for kind, device in (("NCMD", ""), ("DCMD", "d003")):
        read = plant.send(kind, metric("temperature", 1.0), device=device)
        assert (read.rows, read.rejects, asked(read)) == ([], [], [])


@pytest.mark.parametrize(
    ("kind", "device"), [("XDATA", ""), ("NDATA", "d003"), ("DDATA", ""), ("ddata", "d003")]
)
def test_types_that_the_specification_does_not_know(kind: str, device: str) -> None:
    read = Plant().send(kind, metric("temperature", 1.0), device=device)
    assert (read.rows, read.rejects, asked(read)) == ([], [[("", "bad_topic")]], [])


def test_an_alias_that_the_birth_lacks_is_asked_for_now_and_then() -> None:
    plant = Plant()
    plant.born()
    read = plant.send("NDATA", metric(value=1.0, alias=0), metric(value=1.0, alias=99), seq=2)
    assert (len(read.rows), read.rejects) == (1, [[("metrics[1]", "unknown_alias")]])
    assert asked(read) == ["spBv1.0/site-1/NCMD/d001"]
    plant.born()  # and lacks it again
    plant.now += 60_000_000_000
    assert asked(plant.send("NDATA", metric(value=1.0, alias=99), seq=2)) == []
    plant.now += 540_000_000_000
    assert asked(plant.send("NDATA", metric(value=1.0, alias=0), seq=3)) == [
        "spBv1.0/site-1/NCMD/d001"
    ]


def test_what_is_lost_is_asked_for_at_once_beside_an_alias_that_the_birth_lacks() -> None:
    plant = Plant()
    plant.born()
    assert len(asked(plant.send("NDATA", metric(value=1.0, alias=99), seq=2))) == 1
    plant.now += 10_000_000_000
    assert asked(plant.send("NDATA", metric(value=1.0, alias=99), seq=3)) == []
    assert len(asked(plant.send("NDATA", metric(value=1.0, alias=99), seq=9))) == 1  # a gap


def test_no_rebirth_is_asked_for_where_it_had_more_than_is_remembered() -> None:
    plant = Plant(options={"max_metrics_per_node": 4})
    names = [metric(f"m{i}", 1.0, alias=i) for i in range(3)]
    plant.send("NBIRTH", metric("temperature", 1.0, alias=8), *names, seq=0)
    read = plant.send("NDATA", metric(value=1.0, alias=1), seq=1)
    assert (read.rejects, asked(read)) == ([[("metrics[0]", "unknown_alias")]], [])


@pytest.mark.parametrize("quality", [0, 500, 77])
def test_a_value_that_its_source_calls_bad_or_stale_is_no_reading(quality: int) -> None:
    plant = Plant()
    read = plant.send(
        "NDATA",
        metric("temperature", 1.0, quality=quality),
        metric("temperature", quality=quality),
        metric("temperature", 2.0, quality=192),
    )
    assert [row.value for row in read.rows] == [2.0]
    assert read.rejects == [[(f"metrics[{i}].temperature", "bad_quality") for i in (0, 1)]]


def test_what_is_in_a_body_is_not_passed_over() -> None:
    plant = Plant()
    topic = "spBv1.0/site-1/NDATA/d001"
    body, of_ours = field(5, b"more"), metric("temperature", 1.0)
    compressed = field(4, b"SPBV1.0_COMPRESSED") + sparkplug(metric("algorithm", "GZIP"), seq=3)
    for payload in (body, compressed + body):
        assert plant.gateway.read(payload, topic=topic).rejects == [[("", "malformed")]]
    payload = sparkplug(of_ours, ts=NOW_MS) + body
    assert len(plant.gateway.read(payload, topic=topic).rows) == 1


def test_a_node_that_is_no_registered_device_counts_but_gives_no_readings() -> None:
    plant = Plant()
    read = plant.gateway.read(
        sparkplug(metric("bdSeq", 0), seq=0, ts=NOW_MS), topic="spBv1.0/site-1/NBIRTH/edge"
    )
    assert (read.rows, read.rejects) == ([], [])  # nothing of it is a reading
    topic = "spBv1.0/site-1/{}/edge/d003"
    birth = sparkplug(metric("humidity", 40.0, alias=1), seq=1, ts=NOW_MS)
    assert len(plant.gateway.read(birth, topic=topic.format("DBIRTH")).rows) == 1
    data = sparkplug(metric(value=41.0, alias=1), seq=2, ts=NOW_MS)
    assert len(plant.gateway.read(data, topic=topic.format("DDATA")).rows) == 1
    read = plant.gateway.read(
        sparkplug(metric("temperature", 1.0), seq=3, ts=NOW_MS), topic="spBv1.0/site-1/NDATA/edge"
    )
    assert read.rejects == [[("", "unknown_device")]]
    # it was counted all the same
    data = sparkplug(metric(value=41.0, alias=1), seq=4, ts=NOW_MS)
    assert len(plant.gateway.read(data, topic=topic.format("DDATA")).rows) == 1


def test_names_are_mapped_and_left_out() -> None:
    plant = Plant(metrics={"Inputs/T": "temperature", "Properties/Version": None})
    read = plant.send("NBIRTH", metric("Inputs/T", 20.0), metric("Properties/Version", "7"), seq=0)
    assert [row.metric for row in read.rows] == ["temperature"]
    assert read.rejects == []


def test_a_registered_id_may_be_made_of_node_and_device() -> None:
    gateway = FormatDecoder("sparkplug-b", GROUP_IS_SITE, device_id="d{node}{device}")
    payload = sparkplug(metric("temperature", 1.0), seq=0, ts=NOW_MS)
    [row] = gateway.read(payload, topic="spBv1.0/site-1/DDATA/00/3").rows
    assert row.device == "d003"
    [row] = gateway.read(payload, topic="spBv1.0/site-1/NDATA/d001").rows
    assert row.device == "d001"


def test_group_and_node_may_be_org_and_site() -> None:
    gateway = FormatDecoder("sparkplug-b", "spBv1.0/{org}/{type}/{site}/{device}")
    payload = sparkplug(metric("temperature", 1.0), seq=0, ts=NOW_MS)
    assert len(gateway.read(payload, topic="spBv1.0/acme/DDATA/site-1/d003").rows) == 1
    wrong = gateway.read(payload, topic="spBv1.0/acme/DDATA/site-0/d003")
    assert wrong.rejects == [[("", "wrong_place")]]


def test_what_is_remembered_is_bounded() -> None:
    plant = Plant(options={"max_nodes": 2, "max_metrics_per_node": 4})
    names = [metric(f"m{i}", 1.0, alias=i) for i in range(3)]
    plant.send("NBIRTH", metric("temperature", 1.0, alias=8), *names, seq=0)
    read = plant.send("NDATA", metric(value=1.0, alias=8), metric(value=1.0, alias=1), seq=1)
    assert len(read.rows) == 1
    assert read.rejects == [[("metrics[1]", "unknown_alias")]]
    for other in ("n1", "n2"):  # two more recent nodes than ours
        topic = f"spBv1.0/site-1/NBIRTH/{other}"
        plant.gateway.read(sparkplug(metric("temperature", 1.0), seq=0), topic=topic)
    read = plant.send("NDATA", metric(value=1.0, alias=8), seq=2)
    assert read.rejects == [[("metrics[0]", "unknown_alias")]]


def test_the_descriptor_reads_the_specification_s_bytes() -> None:
    """The field numbers of the published sparkplug_b.proto, written out as bytes."""
    message = Payload.FromString(
        bytes.fromhex(
            "08 d20f"  # Payload.timestamp (1) 2002
            "12 11"  # Payload.metrics (2), 17 bytes
            "0a 01 74"  # Metric.name (1) "t"
            "10 07"  # alias (2) 7
            "18 d10f"  # timestamp (3) 2001
            "20 09"  # datatype (4) Float
            "38 00"  # is_null (7) false
            "65 0000ac41"  # float_value (12) 21.5
            "18 03"  # Payload.seq (3) 3
        )
    )
    [one] = message.metrics
    assert (message.timestamp, message.seq) == (2002, 3)
    assert (one.name, one.alias, one.timestamp, one.datatype) == ("t", 7, 2001, 9)
    assert one.float_value == 21.5


class Session(RuleBasedStateMachine):
    """Any order of messages, some lost: an alias is right, or it is rejected; never another metric's.

    Except where `seq` cannot show it: births restart it, so that a lost one is not seen if what follows
    has by chance the number that was due (1 in 256).
    """

    def __init__(self) -> None:
        super().__init__()
        self.plant = Plant()
        self.names = ["temperature", "humidity"]
        self.seq = 0
        self.alive = False
        self.due = -1  # the number that would follow the last message that was not lost
        self.birth_lost = self.hidden = False

    def _send(self, lost: bool, kind: str, *metrics: bytes) -> Read | None:
        seq, self.seq = self.seq, (self.seq + 1) & 255
        if lost:
            return None
        self.hidden = kind == "NDATA" and (self.hidden or (self.birth_lost and seq == self.due))
        self.birth_lost, self.due = False, self.seq
        return self.plant.send(kind, *metrics, seq=seq)

    @rule(lost=st.booleans(), swap=st.booleans())
    def birth(self, lost: bool, swap: bool) -> None:
        if swap:
            self.names.reverse()
        self.seq, self.alive = 0, True
        metrics = [metric(name, 1.0, alias=i) for i, name in enumerate(self.names)]
        self.birth_lost = lost
        self._send(lost, "NBIRTH", *metrics)

    @rule(lost=st.booleans(), alias=st.integers(0, 1))
    def data(self, lost: bool, alias: int) -> None:
        if self.alive and (read := self._send(lost, "NDATA", metric(value=1.0, alias=alias))):
            right = [row.metric for row in read.rows] in ([], [self.names[alias]])
            assert right or self.hidden
            assert len(read.rows) + len(read.rejects) == 1


TestSession = Session.TestCase
Session.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
