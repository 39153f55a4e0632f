"""Half-space trees as flat arrays: walked to score an observation, and to learn it.

Trees are complete, so a node needs no pointers: the children of node `i` are 2i + 1 (below the
threshold) and 2i + 2. Node `i` of tree `t` is element t × nodes + i of the masses and
t × (nodes // 2) + i of `feature` and `threshold`, which leaves do not have. nodes = 2^(height + 1) − 1.
"""

from greenlang_iot.model.batches import F64, I32, U8
from greenlang_iot.model.jit import fused, kernel


@fused
def _mass(
    trees: int, height: int, size_limit: float, feature: I32, threshold: F64, mass: I32, x: F64
) -> int:
    """Sum over trees of mass × 2^depth along the way of `x`, which ends after a node below `size_limit`."""
    branches = (1 << height) - 1
    total = 0
    for t in range(trees):
        at = 0
        for depth in range(height + 1):
            here = int(mass[t * (2 * branches + 1) + at])
            total += here << depth
            if here < size_limit or depth == height:
                break
            node = t * branches + at
            at = 2 * at + (1 if x[feature[node]] < threshold[node] else 2)
    return total


@fused
def _learn(trees: int, height: int, feature: I32, threshold: F64, mass: I32, x: F64) -> None:
    """Add one to the mass of every node on the way of `x` from root to leaf, in each tree."""
    branches = (1 << height) - 1
    for t in range(trees):
        at = 0
        for _ in range(height):
            mass[t * (2 * branches + 1) + at] += 1
            node = t * branches + at
            at = 2 * at + (1 if x[feature[node]] < threshold[node] else 2)
        mass[t * (2 * branches + 1) + at] += 1


@kernel
def forest_observe(
    trees: int,
    height: int,
    size_limit: float,
    feature: I32,
    threshold: F64,
    now: I32,
    before: I32,
    window: int,
    most: int,
    learnt: int,
    x: F64,
    learn: U8,
    score: F64,
) -> int:
    """Score each row of x, float64[n, columns], and count it where `learn` is not 0; returns how many were
    counted all in all, `learnt` being how many were before.

    now, before: masses of the window that is being counted and of the one before. score: 0 before there is one.
    """
    for row in range(len(x)):
        one = x[row]
        score[row] = 0.0
        if learnt >= window:
            mass = _mass(trees, height, size_limit, feature, threshold, before, one)
            score[row] = 1 - mass / most
        if learn[row]:
            _learn(trees, height, feature, threshold, now, one)
            learnt += 1
            if learnt % window == 0:
                before[:] = now
                now[:] = 0
    return learnt
