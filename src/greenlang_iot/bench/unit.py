"""The unit: one `orjson.loads` over 65,536 distinct copies of the workload's payload.

Machines differ and are noisy, so costs are told as a ratio to it, calibrated within the run by short
bursts while the load is paused, on the gateway's core, in thread CPU time. A core that has just idled
(as it does while a pause is agreed) runs slower and unsteadily for some milliseconds, which the gateway
under load never sees: so each burst is preceded by the same work for 30 ms, which does not count. It goes
on through the 65,536 copies, so nothing is parsed twice in a burst.
"""

import os
import time
from collections import deque

import numpy as np
import orjson

from greenlang_iot.bench.workload import Workload

COPIES = 65_536
BURST = 0.020
LEAD = 0.030
"""Seconds of the same work before a burst."""
_STEP = 1_024


class Unit:
    """Bursts so far; `core`: where they run."""

    def __init__(self, core: set[int], start_ms: int) -> None:
        lap = Workload(np.arange(COPIES), 1, start_ms)
        lap.lap(np.zeros(COPIES, np.uint16))
        self._payloads = lap.payloads()
        self._at = 0
        self._core = core
        self.bursts: list[float] = []

    def burst(self) -> None:
        """Parse for 20 ms of CPU time, on a core that is already at work."""
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._core)
        self._parse(LEAD)
        self.bursts.append(self._parse(BURST))
        os.sched_setaffinity(0, before)

    def _parse(self, seconds: float) -> float:
        """ns of CPU time a payload."""
        begun = time.thread_time_ns()
        parsed = 0
        while time.thread_time_ns() - begun < seconds * 1e9:
            deque(map(orjson.loads, self._payloads[self._at : self._at + _STEP]), maxlen=0)
            self._at = (self._at + _STEP) % COPIES
            parsed += _STEP
        return (time.thread_time_ns() - begun) / parsed

    @property
    def ns(self) -> float:
        """Median over the bursts."""
        return float(np.median(self.bursts))

    @property
    def spread(self) -> float:
        """(p90 − p10) / median."""
        low, high = np.percentile(self.bursts, (10, 90))
        return float((high - low) / self.ns)
