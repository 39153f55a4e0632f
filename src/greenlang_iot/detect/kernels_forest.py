"""Half-space trees as flat arrays: walked to score an observation, and to learn it.

Trees are complete, so a node needs no pointers: the children of node `i` are 2i + 1 (below the
threshold) and 2i + 2. Node `i` of tree `t` is element t × nodes + i of the masses and
t × (nodes // 2) + i of `feature` and `threshold`, which leaves do not have. nodes = 2^(height + 1) − 1.
"""

from greenlang_iot.model.batches import F64, I32
from greenlang_iot.model.jit import kernel


@kernel
def forest_mass(
    trees: int,
    height: int,
    size_limit: float,
    feature: I32,
    threshold: F64,
    mass: I32,
    x: F64,
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


@kernel
def forest_learn(trees: int, height: int, feature: I32, threshold: F64, mass: I32, x: F64) -> None:
    """Add one to the mass of every node on the way of `x` from root to leaf, in each tree."""
    branches = (1 << height) - 1
    for t in range(trees):
        at = 0
        for _ in range(height):
            mass[t * (2 * branches + 1) + at] += 1
            node = t * branches + at
            at = 2 * at + (1 if x[feature[node]] < threshold[node] else 2)
        mass[t * (2 * branches + 1) + at] += 1
