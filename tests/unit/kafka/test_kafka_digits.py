"""Decimal integers of the encoders' kernels against Python's own."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from greenlang_iot.encode.kernels_digits import (
    SPILL,
    integer_size,
    put_eight_digits,
    put_integer,
)

NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1) | st.integers(0, 62).map(lambda bits: 1 << bits)
EDGES = st.integers(0, 18).flatmap(lambda power: st.sampled_from((10**power, 10**power - 1)))


@settings(deadline=None)  # the first call compiles
@given(NUMBERS | EDGES | EDGES.map(lambda number: -number))
def test_integers_are_pythons(number: int) -> None:
    out = np.full(20 + SPILL, ord("x"), np.uint8)
    end = put_integer(number, out, 0)
    assert out[:end].tobytes() == b"%d" % number
    assert integer_size(number) == end


@settings(deadline=None)
@given(st.integers(0, 10**8 - 1))
def test_eight_digits_are_zero_padded(number: int) -> None:
    out = np.zeros(8, np.uint8)
    assert put_eight_digits(number, out, 0) == 8
    assert out.tobytes() == b"%08d" % number
