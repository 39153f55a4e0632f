"""The lake's encoder: the same fields as a Kafka record, copied when they are appended."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.readings import readings, scores

from greenlang_iot.encode.arrow import SCHEMA, ArrowEncoder
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import DUPLICATE, LATE, LEARNING, SHED, SUSPECT
from greenlang_iot.sinks.lake import reading_rows

Row = tuple[int, int, float, int | None, int, float, int]
"""(series, ts, value, seq, flags, score, verdict)"""


def slow(d: Directory, row: Row) -> dict[str, Any]:
    series, ts, value, seq, _, score, verdict = row
    device = int(d.series_device[series])
    return {
        "org": d.org[int(d.org_of[device])],
        "site": d.site[int(d.site_of[device])],
        "device": d.device[device],
        "type": d.type[int(d.type_of[device])],
        "metric": d.metric[int(d.series_metric[series])],
        "unit": d.unit[int(d.series_unit[series])],
        "ts": ts,
        "value": value,
        "seq": seq,
        "score": pytest.approx(1 - 10.0 ** -float(np.float32(score)), abs=1e-12),
        "verdict": "learning" if verdict & LEARNING else "suspect" if verdict & SUSPECT else "ok",
        "shed": bool(verdict & SHED),
    }


ROWS = st.lists(
    st.tuples(
        st.integers(0, 599),
        st.integers(0, 1 << 62),
        st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
        st.sampled_from([0, DUPLICATE, LATE]),
        st.floats(0, 30, width=32),
        st.integers(0, 15),
    ),
    max_size=20,
)
LARGE = directory(300)  # more devices than fit a whole dictionary


@given(batches=st.lists(ROWS, max_size=3))
@settings(max_examples=40, deadline=None)
def test_every_field_of_every_row(batches: list[list[Row]]) -> None:
    encoder = ArrowEncoder(LARGE)
    wanted: list[dict[str, Any]] = []
    for rows in batches:
        series, ts, values, seqs, flags, score, verdict = (
            map(list, zip(*rows, strict=True)) if rows else ([], [], [], [], [], [], [])
        )
        batch, scored = (
            readings(series, ts, values, seq=seqs, flags=flags),
            scores(score, verdict=verdict),
        )
        kept = [row for row in rows if not row[4] & DUPLICATE]
        assert encoder.append(batch, scored) == len(kept)
        for column in (batch.series, batch.ts_ns, batch.value, batch.seq, batch.flags):
            column[:] = 1  # valid during append only
        scored.score[:] = 0
        scored.verdict[:] = 0
        wanted += [slow(LARGE, row) for row in kept]
    assert encoder.rows == len(wanted)
    table = reading_rows(encoder.seal())
    assert table.schema == SCHEMA
    assert table.to_pylist() == wanted
    assert (encoder.rows, encoder.size) == (0, 0)


def test_the_open_chunk_survives_a_larger_directory() -> None:
    encoder = ArrowEncoder(directory(2))
    encoder.append(readings([3], [1], [1.5]), scores([0.0]))
    encoder.grow(directory(400))
    encoder.append(readings([799], [2], [2.5]), scores([0.0]))
    table = reading_rows(encoder.seal())
    assert table.column("device").to_pylist() == ["d001", "d399"]
    assert table.column("metric").to_pylist() == ["humidity", "humidity"]
    assert reading_rows(encoder.seal()).num_rows == 0


def test_size_grows_with_rows() -> None:
    encoder = ArrowEncoder(directory(2))
    encoder.append(readings([0, 1], [1, 2], [1.0, 2.0]), scores([0.0, 0.0]))
    first = encoder.size
    encoder.append(readings([0, 1], [1, 2], [1.0, 2.0]), scores([0.0, 0.0]))
    assert 0 < first < encoder.size
