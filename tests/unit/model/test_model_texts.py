"""Columns of texts that are compared index by index."""

import pytest
from tests.fakes.directory import texts


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["a", "bc"], ["a", "bc"], [True, True]),
        (["a", "bc"], ["a", "bc", "d"], [True, True]),
        (["a", "bc"], ["ab", "c"], [False, False]),
        (["a", "b", "c"], ["a", "x"], [True, False]),
        ([], ["a"], []),
    ],
)
def test_same_as(one: list[str], other: list[str], same: list[bool]) -> None:
    assert texts(one).same_as(texts(other)).tolist() == same
    assert texts(other).same_as(texts(one)).tolist() == same
