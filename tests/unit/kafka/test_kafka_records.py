"""RecordEncoder against its slow twin, aiokafka's record parser and the published schema."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.alerts import SPIKE
from tests.fakes.directory import directory
from tests.reference import records as twin

from greenlang_iot.encode.bodies import pieces
from greenlang_iot.encode.records import Compression, RecordEncoder
from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.flags import (
    DUPLICATE,
    HAS_SEQ,
    LEARNING,
    REPLAYED,
    SHED,
    SUSPECT,
    TEXT_IN_ARENA,
)
from greenlang_iot.model.pieces import Body, Pieces

SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schemas"
NOW = 1_750_000_000_123_456_789


def readings(rows: list[dict], slack: int = 64) -> tuple[ReadingBatch, ScoreBatch]:
    """Batch of rows {series, ts, text, seq?, flags?, score?, verdict?}; texts alternate between
    the buffer and the arena where the row's flags say so."""
    n = len(rows)
    stores = {0: bytearray(b"\xff" * slack), TEXT_IN_ARENA: bytearray(b"\xfe" * slack)}
    flags, off = [], []
    for row in rows:
        flag = row.get("flags", 0) | (HAS_SEQ if "seq" in row else 0)
        store = stores[flag & TEXT_IN_ARENA]
        off.append(len(store))
        store += row["text"].encode()
        flags.append(flag)
    arrays = {k: np.frombuffer(v + b"\xfd" * slack, np.uint8).copy() for k, v in stores.items()}
    batch = ReadingBatch(
        n=n,
        series=np.array([r["series"] for r in rows], np.int32),
        ts_ns=np.array([r["ts"] for r in rows], np.int64),
        value=np.array([float(r["text"]) for r in rows], np.float64),
        seq=np.array([r.get("seq", 0) for r in rows], np.int64),
        flags=np.array(flags, np.uint16),
        frame=np.zeros(n, np.int32),
        text_off=np.array(off, np.int32),
        text_len=np.array([len(r["text"]) for r in rows], np.int16),
        buffer=arrays[0],
        arena=arrays[TEXT_IN_ARENA],
        connection=1,
        received_ns=0,
    )
    scores = ScoreBatch(
        n=n,
        score=np.array([r.get("score", 0.0) for r in rows], np.float32),
        detector=np.zeros(n, np.uint8),
        verdict=np.array([r.get("verdict", 0) for r in rows], np.uint8),
        expected=np.full(n, np.nan, np.float32),
        band=np.full(n, np.nan, np.float32),
    )
    return batch, scores


def parsed(body: Body | Pieces) -> list[tuple[int, int, bytes, dict]]:
    """(partition, time stamp in ms, key, value) as aiokafka reads them, in order of the body."""
    found = []
    for piece in pieces(body):
        batch = MemoryRecords(bytes(piece.batch)).next_batch()
        records = list(batch)
        assert len(records) == piece.records
        assert [r.offset for r in records] == list(range(piece.records))
        found += [(piece.partition, r.timestamp, r.key, json.loads(r.value)) for r in records]
    return found


def names(*extra: str) -> list[str]:
    return [f"d{i}" for i in range(6)] + ['quo"te', "back\\slash", "köln-7", "x" * 70, *extra]


row_strategy = st.fixed_dictionaries(
    {
        "series": st.integers(0, 19),
        "ts": st.one_of(
            st.integers(NOW - 10**12, NOW + 10**12),
            st.integers(0, 10**19 // 5),
            st.integers(-(10**15), 0),
        ),
        "text": st.one_of(
            st.floats(allow_nan=False, allow_infinity=False).map(lambda v: repr(v)),
            st.integers(-(10**20), 10**20).map(str),
            st.sampled_from(["0", "-0.0", "1E5", "2.50", "0." + "3" * 200]),
        ),
        "flags": st.sampled_from([0, 0, 0, TEXT_IN_ARENA, DUPLICATE, REPLAYED]),
        "score": st.floats(0, 40, width=32),
        "verdict": st.integers(0, 15),
    },
    optional={"seq": st.integers(-(2**62), 2**62)},
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(row_strategy, max_size=12), min_size=1, max_size=4),
    st.integers(1, 5),
    st.sampled_from([1_024, 2_000, 100_000]),
)
def test_body_is_the_twins_byte_for_byte(
    chunks: list[list[dict]], partitions: int, max_batch_bytes: int
) -> None:
    where = directory(10, names=names())
    batches = [readings(rows) for rows in chunks]
    encoder = RecordEncoder(where, partitions, "none", max_batch_bytes)
    added = [encoder.append(*batch) for batch in batches]
    assert added == [sum(not r["flags"] & DUPLICATE for r in rows) for rows in chunks]
    assert encoder.rows == sum(added)
    size = encoder.size
    body = encoder.seal()
    assert body == twin.body(where, batches, partitions, max_batch_bytes)
    assert size <= len(body)
    assert (encoder.rows, encoder.size) == (0, 0)
    assert encoder.seal() == b"\x01"


def test_every_field_as_aiokafka_reads_it() -> None:
    where = directory(10, names=names())
    encoder = RecordEncoder(where, 1, "none", 65_536)
    rows = [
        {"series": 12, "ts": NOW, "text": "21.50", "seq": 7, "score": 4.0, "verdict": SUSPECT},
        {"series": 13, "ts": NOW - 86_400 * 10**9, "text": "1e2", "verdict": LEARNING},
        {"series": 16, "ts": NOW + 10**9, "text": "-3", "flags": TEXT_IN_ARENA, "verdict": SHED},
    ]
    encoder.append(*readings(rows))
    common = {"v": 1, "org": "acme", "site": "site-0", "type": "sensor"}
    quote = {**common, "device": 'quo"te'}
    assert parsed(encoder.seal()) == [
        (
            0,
            NOW // 10**6,
            b'quo"te',
            {**quote, "metric": "temperature", "unit": "Cel", "ts": NOW, "value": 21.5, "seq": 7}
            | {"score": 0.9999, "verdict": "suspect"},
        ),
        (
            0,
            NOW // 10**6 - 86_400_000,
            b'quo"te',
            {**quote, "metric": "humidity", "unit": "%RH", "ts": NOW - 86_400 * 10**9}
            | {"value": 100.0, "score": 0.0, "verdict": "learning"},
        ),
        (
            0,
            NOW // 10**6 + 1000,
            "köln-7".encode(),
            {**common, "device": "köln-7", "metric": "temperature", "unit": "Cel"}
            | {"ts": NOW + 10**9, "value": -3, "score": 0.0, "verdict": "ok", "shed": True},
        ),
    ]


def test_score_has_six_decimals_and_stays_in_the_unit_interval() -> None:
    encoder = RecordEncoder(directory(1), 1, "none", 65_536)
    given_scores = [0.0, 0.30103, 1.0, 6.0, 6.5, 30.0]
    encoder.append(
        *readings([{"series": 0, "ts": NOW, "text": "1", "score": s} for s in given_scores])
    )
    body = encoder.seal()
    texts = [part.split(b",")[0] for part in body.split(b'"score":')[1:]]
    assert texts == [b"0.000000", b"0.500000", b"0.900000", b"0.999999", b"1.000000", b"1.000000"]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "zstd"])
def test_compressed_batches_hold_the_same_records(compression: Compression) -> None:
    where = directory(50)
    rng = np.random.default_rng(3)
    batch = readings(
        [
            {"series": int(s), "ts": NOW + i * 10**6, "text": f"{v:.3f}"}
            for i, (s, v) in enumerate(
                zip(rng.integers(0, 100, 5_000), rng.normal(20, 5, 5_000), strict=True)
            )
        ]
    )
    plain = RecordEncoder(where, 3, "none", 500_000)
    packed = RecordEncoder(where, 3, compression, 500_000)
    plain.append(*batch)
    packed.append(*batch)
    one, other = plain.seal(), packed.seal()
    assert len(other) < len(one) / 2
    assert parsed(one) == parsed(other)


def test_a_batch_that_does_not_shrink_stays_uncompressed() -> None:
    encoder = RecordEncoder(directory(1), 1, "snappy", 65_536)
    encoder.append(*readings([{"series": 0, "ts": NOW, "text": "1"}]))
    body = encoder.seal()
    plain = RecordEncoder(directory(1), 1, "none", 65_536)
    plain.append(*readings([{"series": 0, "ts": NOW, "text": "1"}]))
    assert len(body) <= len(plain.seal())
    assert len(parsed(body)) == 1


def test_batches_stay_within_the_bound_and_keep_their_order() -> None:
    encoder = RecordEncoder(directory(4), 2, "none", 4_096)
    rows = [{"series": i % 8, "ts": NOW + i, "text": str(i)} for i in range(500)]
    assert encoder.append(*readings(rows)) == 500
    body = encoder.seal()
    sizes = [len(piece.batch) for piece in pieces(body)]
    assert max(sizes) <= 4_096
    assert min(sizes[:-2]) > 4_096 - 300
    for partition in (0, 1):
        values = [v["value"] for p, _, _, v in parsed(body) if p == partition]
        assert values == sorted(values)
    assert sorted(v["value"] for *_, v in parsed(body)) == list(range(500))


def test_a_record_longer_than_the_bound_stands_alone() -> None:
    encoder = RecordEncoder(directory(1), 1, "none", 1_024)
    long = "0." + "1" * 32_000
    encoder.append(*readings([{"series": 0, "ts": NOW, "text": t} for t in ("1", long, "2")]))
    found = list(pieces(encoder.seal()))
    assert [piece.records for piece in found] == [1, 1, 1]
    assert long.encode() in bytes(found[1].batch)


def test_a_full_chunk_is_handed_over_where_it_was_written() -> None:
    def full(first: int) -> tuple[ReadingBatch, ScoreBatch]:
        return readings(
            [{"series": i % 8, "ts": NOW + i, "text": str(i)} for i in range(first, first + 320)]
        )

    encoder = RecordEncoder(directory(4), 1, "none", 65_536)
    encoder.append(*full(0))
    body = encoder.seal()
    assert isinstance(body, Pieces)
    joined = bytes(body)
    assert len(body) == len(joined)
    assert parsed(joined) == parsed(body)
    encoder.append(*full(1_000))  # in a buffer of its own
    assert body == joined
    assert encoder.seal() != joined
    packed = RecordEncoder(directory(4), 1, "zstd", 65_536)
    packed.append(*full(0))
    assert isinstance(packed.seal(), bytes)


@given(st.text(max_size=40), st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_partition_is_the_default_partitioners(name: str, partitions: int) -> None:
    encoder = RecordEncoder(directory(1, names=[name]), partitions, "none", 1_024)
    encoder.append(*readings([{"series": 0, "ts": NOW, "text": "1"}]))
    (piece,) = pieces(encoder.seal())
    chosen = DefaultPartitioner()(name.encode(), list(range(partitions)), [])
    assert piece.partition == chosen
    assert twin.murmur2(name.encode()) & 0x7FFFFFFF == (
        DefaultPartitioner()(name.encode(), range(2**31), [])
    )


def test_grow_keeps_what_is_open_and_knows_new_devices() -> None:
    encoder = RecordEncoder(directory(2), 2, "none", 65_536)
    encoder.append(*readings([{"series": 0, "ts": NOW, "text": "1"}]))
    encoder.grow(directory(10, names=["d000", "d001", *(f"n{'x' * 300}{i}" for i in range(8))]))
    assert encoder.rows == 1
    encoder.append(*readings([{"series": s, "ts": NOW, "text": "2"} for s in (0, 5, 19)]))
    found = [(v["device"][:4], v["value"]) for *_, v in parsed(encoder.seal())]
    assert sorted(found) == [("d000", 1), ("d000", 2), ("nxxx", 2), ("nxxx", 2)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not a body"),
        (b"\x02", "newer version"),
        (b"\x01\0\0", "cut short"),
        (b"\x01" + b"\0" * 8 + b"\x64\0\0\0" + b"x" * 99, "cut short"),
    ],
)
def test_pieces_refuse_what_is_not_a_body(body: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(pieces(body))


def test_records_follow_the_published_schema() -> None:
    schema = json.loads((SCHEMAS / "reading-v1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    encoder = RecordEncoder(directory(10, names=names()), 4, "none", 65_536)
    rows = [
        {"series": i, "ts": NOW, "text": "1.5", "score": i / 3, "verdict": i % 16}
        | ({"seq": i} if i % 2 else {})
        for i in range(20)
    ]
    encoder.append(*readings(rows))
    found = [value for *_, value in parsed(encoder.seal())]
    assert len(found) == 20
    for value in found:
        validator.validate(value)
    assert {value["verdict"] for value in found} == {"ok", "suspect", "learning"}
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**found[0], "score": 1.5})
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**found[0], "extra": 1})


def test_transitions_follow_the_published_schema() -> None:
    schema = json.loads((SCHEMAS / "alert-v1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    transition = replace(SPIKE, flags=("flapping",))
    document = json.loads(json.dumps(transition.as_dict()))
    validator.validate(document)
    validator.validate({**document, "value": None, "expected": None, "band": None, "device": ""})
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**document, "state": "closed"})
