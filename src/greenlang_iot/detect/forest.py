"""river's half-space trees, walked by kernels: the same scores bit for bit, at a fraction of the cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from greenlang_iot.detect.kernels_forest import forest_observe
from greenlang_iot.model.batches import F64, I32, U8


class Forest:
    """What a fresh `river.anomaly.HalfSpaceTrees` would do with observations that have all `columns`.

    river: one that has learnt nothing yet. It builds its trees, which are then copied here; it is not
    asked again. columns: the features, in the order in which observations give them.
    ValueError: it has learnt already, or there is no column.
    """

    def __init__(self, river: Any, columns: Sequence[str]) -> None:
        if river.trees or not columns:
            raise ValueError("a forest is made of fresh half-space trees and at least one column")
        self._trees, self._height = int(river.n_trees), int(river.height)
        self._window, self._limit = int(river.window_size), float(river.size_limit)
        self._most = int(river._max_score)
        self._learnt = 0
        branches = (1 << self._height) - 1
        nodes = self._trees * (2 * branches + 1)
        self._now: I32 = np.zeros(nodes, np.int32)
        """By node: observations of this window (l_mass), and of the one before (r_mass)."""
        self._before: I32 = np.zeros(nodes, np.int32)
        self._feature: I32 = np.zeros(self._trees * branches, np.int32)
        self._threshold: F64 = np.zeros(self._trees * branches)
        river.learn_one(dict.fromkeys(columns, 0.5))  # trees are built when the first one comes
        place = {name: i for i, name in enumerate(columns)}
        for tree, root in enumerate(river.trees):
            level = [root]
            at = tree * branches
            for _ in range(self._height):
                for node in level:
                    self._feature[at] = place[node.feature]
                    self._threshold[at] = node.threshold
                    at += 1
                level = [child for node in level for child in node.children]

    def observe(self, x: F64, learn: U8) -> F64:
        """The score of each row of x, float64[n, columns] in the order of time: in [0, 1], high is strange, 0 in
        the first window. Rows whose `learn` is not 0 are counted, each after its score; a full window becomes
        the one that scores are taken from.
        """
        score: F64 = np.empty(len(x))
        self._learnt = forest_observe(
            self._trees,
            self._height,
            self._limit,
            self._feature,
            self._threshold,
            self._now,
            self._before,
            self._window,
            self._most,
            self._learnt,
            x,
            learn,
            score,
        )
        return score
