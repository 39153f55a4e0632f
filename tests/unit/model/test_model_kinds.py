"""Rows that are alike get one number."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import kinds as twin

from greenlang_iot.model.kinds import kinds

ROWS = st.lists(
    st.tuples(
        st.integers(-2, 2),
        st.sampled_from([0.0, -0.0, 1.5, np.inf, -np.inf, np.nan, 2.0**-40]),
        st.integers(0, 1),
    ),
    max_size=60,
)


@given(ROWS)
def test_kinds_are_those_of_a_dict(rows: list[tuple[int, float, int]]) -> None:
    a, b, c = zip(*rows, strict=True) if rows else ((), (), ())
    columns = np.array(a, np.int32), np.array(b, np.float64), np.array(c, np.uint8)
    first, kind = kinds(*columns)
    assert (first.dtype, kind.dtype) == (np.int64, np.int32)
    assert (first.tolist(), kind.tolist()) == twin.kinds(rows)


def test_as_many_kinds_as_rows() -> None:
    """Every slot of the table that may be taken is; numbers that differ in one bit are told apart."""
    column = (np.arange(1, 50_001, dtype=np.int64) << 40).view(np.float64)
    first, kind = kinds(column, np.zeros(50_000, np.uint8))
    assert first.tolist() == kind.tolist() == list(range(50_000))
