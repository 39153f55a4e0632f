"""Notices a step of the wall clock against the monotonic one (pure)."""

STEP_S = 5.0
ACCEPT_AFTER_S = 300.0
"""So long after a step the new wall time is taken as right."""


class ClockWatch:
    """Feed it both clocks at every tick; `suspect` says whether time verdicts are suspended."""

    def __init__(self, wall_s: float, monotonic_s: float) -> None:
        self._offset = wall_s - monotonic_s
        self._stepped_at: float | None = None
        self._stepped_to = 0.0

    @property
    def suspect(self) -> bool:
        return self._stepped_at is not None

    def doubts(self, wall_s: float, monotonic_s: float) -> bool:
        """Whether times read just now are suspect: also a step that no tick has seen yet."""
        return self.suspect or abs(wall_s - monotonic_s - self._offset) > STEP_S

    def tick(self, wall_s: float, monotonic_s: float) -> float:
        """Return the step in seconds against the trusted offset (0 while there is none)."""
        offset = wall_s - monotonic_s
        step = offset - self._offset
        if abs(step) <= STEP_S:
            # Slow drift (NTP slewing) is followed; a step that was undone is forgotten.
            self._offset = offset
            self._stepped_at = None
            return 0.0
        if self._stepped_at is None or abs(offset - self._stepped_to) > STEP_S:
            self._stepped_at, self._stepped_to = monotonic_s, offset
        elif monotonic_s - self._stepped_at >= ACCEPT_AFTER_S:
            self._offset = offset
            self._stepped_at = None
            return 0.0
        return step
