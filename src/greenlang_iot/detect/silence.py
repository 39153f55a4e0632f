"""When the next series can be overdue: a look at every row each second would take a fifth of a core at four million.

A series that is not overdue can be so at the earliest when its interval is over, and hearing of it only moves that on.
So until the earliest of these moments only those that are overdue already are looked at again.
"""

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import I64

Bools = npt.NDArray[np.bool_]
AT_LEAST_EVERY_NS = 60_000_000_000
"""A clock that steps back by less than is noticed may make a series be overdue earlier than was thought."""
_AT_ONCE = -(2**63)


class NextLook:
    """Between two looks at all series. Times are of the input clock, ns."""

    def __init__(self) -> None:
        self._watched: Bools | None = None
        self._intervals = 0.0
        self._at = _AT_ONCE
        self._overdue: list[npt.NDArray[np.intp]] = []

    def forget(self) -> None:
        """All series are looked at next: rows, clock or registry changed otherwise than by a reading."""
        self._at = _AT_ONCE

    def few(
        self, clock: int, watched: Bools | None, intervals: float
    ) -> npt.NDArray[np.intp] | None:
        """The series that are worth a look; None: all of them are. What is found is to be noted anew."""
        same = watched is self._watched and intervals == self._intervals
        self._watched, self._intervals = watched, intervals
        overdue, self._overdue = self._overdue, []
        if same and clock < self._at:
            return np.concatenate(overdue) if overdue else np.zeros(0, np.intp)
        self._at = clock + AT_LEAST_EVERY_NS
        return None

    def note(
        self, clock: int, which: npt.NDArray[np.intp], left: I64, overdue: Bools, scale: float
    ) -> None:
        """What the look found, of all series or some of them. left: per series of `which`, event time until it is overdue."""
        self._overdue.append(which[overdue])
        rest = left[~overdue]
        if len(rest):
            self._at = min(self._at, clock + int(rest.min() / scale))
