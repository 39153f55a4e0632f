"""Token buckets per device and per site: one sender must not use up what all share.

A bucket holds one second's worth of messages. What finds it empty is rejected as `over_rate`: a dead
letter, acknowledged like any other, of which past the dead letters' own bounds a digest is kept.
"""

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import I32
from greenlang_iot.model.directory import Directory

Mask = npt.NDArray[np.bool_]


class Rates:
    """The buckets of one shard. device_rate, site_rate: messages a second; 0 = no limit."""

    def __init__(self, directory: Directory, device_rate: float, site_rate: float) -> None:
        self._site_of = directory.site_of
        self._devices = _Buckets(directory.n_devices, device_rate)
        self._sites = _Buckets(len(directory.site), site_rate)

    def over(self, device: I32, now_ns: int) -> Mask:
        """Which of these messages, in order of receipt, are over a rate; takes tokens for the rest.

        device: of each message, −1 where it is unknown (never over).
        """
        over: Mask = np.zeros(len(device), np.bool_)
        known = np.flatnonzero(device >= 0)
        over[known] = self._devices.over(device[known], now_ns)
        left = known[~over[known]]
        over[left] = self._sites.over(self._site_of[device[left]], now_ns)
        return over


class _Buckets:
    def __init__(self, n: int, rate: float) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._tokens = np.full(n, self._burst, np.float64)
        self._since_ns = np.zeros(n, np.int64)

    def over(self, key: npt.NDArray[np.int32], now_ns: int) -> Mask:
        if not self._rate or not len(key):
            return np.zeros(len(key), np.bool_)
        order = np.argsort(key, kind="stable")
        who, first, count = np.unique(key[order], return_index=True, return_counts=True)
        # A clock that went back gives nothing and starts again from there.
        gone = np.maximum(now_ns - self._since_ns[who], 0) * 1e-9
        tokens = np.minimum(self._tokens[who] + gone * self._rate, self._burst)
        free = np.minimum(count, tokens.astype(np.int64))
        self._tokens[who] = tokens - free
        self._since_ns[who] = now_ns
        over: Mask = np.empty(len(key), np.bool_)
        over[order] = np.arange(len(key)) - np.repeat(first, count) >= np.repeat(free, count)
        return over
