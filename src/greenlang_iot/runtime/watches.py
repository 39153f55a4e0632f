"""What a shard notices without a message: a clock that stepped, a broker that is away, silent devices.

Silence clocks run only while input is connected and caught up: an outage is one alert, not one per device.
The first shard speaks for the gateway.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.mqtt.transport import Connection
from greenlang_iot.runtime.clockwatch import ClockWatch
from greenlang_iot.runtime.layout import ShardPlan, owned
from greenlang_iot.settings.model import Settings

BROKER_AWAY = 5.0
"""Seconds without any connection after which a broker's outage is an alert."""
LATE = 0.5
"""Seconds a tick may be late before the time is not counted as silence: we were behind, not they."""

Announce = Callable[[Sequence[Transition]], None]


class Watches:
    """`tick` at every tick of the shard, `silence` once a second."""

    def __init__(
        self,
        plan: ShardPlan,
        settings: Settings,
        directory: Directory,
        detector: Detector,
        alerter: Alerter,
        announce: Announce,
    ) -> None:
        self._plan = plan
        self._settings = settings
        self._detector = detector
        self._alerter = alerter
        self._announce = announce
        self._clock = ClockWatch(time.time(), time.monotonic())
        self._ticked = time.monotonic()
        self._looked_ns = time.time_ns()
        self._seen: dict[str, float] = {}  # when each broker was last connected, by name
        self.follow(directory)

    def clock_suspect(self, wall_ns: int, monotonic: float) -> bool:
        """The wall clock stepped, be it a moment ago: time verdicts are suspended."""
        return self._clock.doubts(wall_ns * 1e-9, monotonic)

    def follow(self, directory: Directory) -> None:
        """A registry was taken over, or unknown devices came."""
        shards = self._settings.runtime.shards
        self._owned = owned(self._plan, directory, self._settings.mqtt, shards)
        # with shares nobody is another's: each shard looks after what it hears
        self._alerter.mine = self._owned if self._settings.mqtt.layout == "sites" else None

    def tick(self, every: float, connections: Sequence[Connection]) -> None:
        """Look at clock and brokers. every: seconds between ticks; connections: the plan's."""
        now = time.monotonic()
        late, self._ticked = now - self._ticked - every, now
        if late > LATE:
            now_ns = time.time_ns()
            self._detector.pause_clock(now_ns - int(late * 1e9), now_ns)
        was = self._clock.suspect
        step = self._clock.tick(time.time(), now)
        if self._plan.index != 0:
            return
        if self._clock.suspect != was:
            self._say_clock(step)
        for index in range(len(self._settings.mqtt.brokers)):
            ours = [
                connection
                for connection, plan in zip(connections, self._plan.connections, strict=True)
                if plan.broker == index
            ]
            if ours:
                self._watch_broker(index, any(c.number for c in ours), now)

    def silence(self, directory: Directory, listening: bool) -> None:
        """Announce devices that fell silent. listening: all connections stand and none is paused."""
        now_ns = time.time_ns()
        since, self._looked_ns = self._looked_ns, now_ns
        if not listening or self._clock.suspect:
            self._detector.pause_clock(since, now_ns)
            return
        if directory.n_devices != len(self._owned):  # guests came
            self.follow(directory)
        silences = self._detector.silent(now_ns, self._owned)
        self._announce(self._alerter.evaluate_silence(silences, now_ns))
        if self._alerter.asks_for_quiet:
            quiet = self._detector.quiet(now_ns)
            self._announce(self._alerter.evaluate_quiet(*quiet, self._owned))

    @property
    def owned(self) -> npt.NDArray[np.bool_]:
        """Per device: does this shard, and no other, hear it? Guests that just came are not in it."""
        return self._owned

    def _say_clock(self, step: float) -> None:
        suspect = self._clock.suspect
        summary = f"The gateway's clock stepped by {step:+.0f} s; time checks are suspended."
        if not suspect:
            summary = "The gateway's clock is trusted again; time checks go on."
        self._announce(self._alerter.outage("gateway", suspect, time.time_ns(), summary, "clock"))

    def _watch_broker(self, index: int, connected: bool, now: float) -> None:
        broker = self._settings.mqtt.brokers[index]
        if connected:
            self._seen[broker.name] = now
        away = now - self._seen.setdefault(broker.name, now) > BROKER_AWAY
        summary = f"Broker {broker.name} is back."
        if away:
            summary = f"Broker {broker.name} at {broker.host}:{broker.port} cannot be reached."
        self._announce(self._alerter.outage(f"broker:{broker.name}", away, time.time_ns(), summary))
