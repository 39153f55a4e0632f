"""Half-space trees in kernels against river's own: bit for bit."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenlang_iot.detect.forest import Forest
from greenlang_iot.model.batches import F64

if TYPE_CHECKING:
    from river.anomaly import HalfSpaceTrees

NAMES = ("pressure", "humidity", "temperature", "change of it", "time of day")


def half_space_trees(**given: Any) -> "HalfSpaceTrees":
    from river.anomaly import HalfSpaceTrees  # takes over a second, which other workers do without

    return HalfSpaceTrees(**given)


def both(
    columns: tuple[str, ...], seed: int, trees: int = 10, height: int = 6, window: int = 100
) -> tuple["HalfSpaceTrees", Forest]:
    def river() -> "HalfSpaceTrees":
        return half_space_trees(n_trees=trees, height=height, window_size=window, seed=seed)

    return river(), Forest(river(), columns)


def scores(columns: tuple[str, ...], x: F64, twin: "HalfSpaceTrees", forest: Forest) -> F64:
    """Score, then learn, each row; river's scores and ours, of all rows at once, which are compared here."""
    want = np.zeros(len(x))
    for i, row in enumerate(x):
        named = dict(zip(columns, row.tolist(), strict=True))
        want[i] = twin.score_one(named)
        twin.learn_one(named)
    result = forest.observe(x, np.ones(len(x), np.uint8))
    np.testing.assert_array_equal(result, want)
    return result


def test_what_is_not_learnt_changes_nothing_and_pieces_are_as_one() -> None:
    rng = np.random.default_rng(8)
    x = rng.random((400, 5))
    learn = (rng.random(400) < 0.7).astype(np.uint8)
    _, whole = both(NAMES, 3)
    _, apart = both(NAMES, 3)
    _, only = both(NAMES, 3)
    got = whole.observe(x, learn)
    pieces = [
        apart.observe(x[a:b], learn[a:b]) for a, b in ((0, 1), (1, 150), (150, 150), (150, 400))
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), got)
    learnt = only.observe(x[learn == 1], np.ones(int(learn.sum()), np.uint8))
    np.testing.assert_array_equal(got[learn == 1], learnt)
    assert len(np.unique(learnt[100:])) > 50


@given(
    st.integers(0, 2**32),
    st.integers(1, 5),
    st.integers(1, 12),
    st.integers(1, 9),
    st.integers(1, 60),
)
def test_scores_are_rivers_bit_for_bit(
    seed: int, columns: int, trees: int, height: int, window: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.beta(3, 3, (3 * window + 5, columns))
    x[rng.random(x.shape) < 0.05] = rng.choice([0.0, 1.0, -3.0, 1e300, np.nan, np.inf])
    names = NAMES[:columns]
    scores(names, x, *both(names, seed, trees, height, window))


def test_scores_tell_the_strange_from_the_usual() -> None:
    """The comparison above would also hold for constants."""
    rng = np.random.default_rng(4)
    x = 0.5 + 0.05 * rng.normal(size=(600, 5))
    x[550] = 0.95
    got = scores(NAMES, x, *both(NAMES, 7))
    assert not got[:100].any()  # the first window only learns
    assert len(np.unique(got[100:])) > 100
    assert got[550] > got[400:550].max()


def test_order_of_columns_is_that_of_the_observations() -> None:
    rng = np.random.default_rng(5)
    x = rng.random((150, 3))
    names = ("b", "a", "c")
    plain = scores(names, x, *both(names, 1))
    turned = ("a", "b", "c")
    other = scores(turned, x[:, [1, 0, 2]].copy(), *both(turned, 1))
    np.testing.assert_array_equal(other, plain)
    assert len(np.unique(plain[100:])) > 20


def test_only_fresh_trees_are_copied() -> None:
    trees = half_space_trees(seed=1)
    with pytest.raises(ValueError, match="at least one column"):
        Forest(trees, ())
    trees.learn_one({"a": 0.5})
    with pytest.raises(ValueError, match="fresh half-space trees"):
        Forest(trees, ("a",))
