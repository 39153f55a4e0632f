from greenlang_iot.runtime.clockwatch import ACCEPT_AFTER_S, ClockWatch


def test_a_steady_clock_is_trusted() -> None:
    watch = ClockWatch(1_000.0, 10.0)
    assert watch.tick(1_001.0, 11.0) == 0.0
    assert not watch.suspect


def test_a_step_is_suspect_until_it_is_undone() -> None:
    watch = ClockWatch(1_000.0, 10.0)
    assert watch.tick(4_601.0, 11.0) == 3_600.0
    assert watch.suspect
    assert watch.tick(1_002.0, 12.0) == 0.0
    assert not watch.suspect


def test_a_step_back_is_a_step_too() -> None:
    watch = ClockWatch(10_000.0, 10.0)
    assert watch.tick(6_401.0, 11.0) == -3_600.0
    assert watch.suspect


def test_a_lasting_step_is_accepted_after_a_while() -> None:
    watch = ClockWatch(1_000.0, 10.0)
    watch.tick(4_600.0 + 1, 11.0)
    watch.tick(4_600.0 + ACCEPT_AFTER_S, 10.0 + ACCEPT_AFTER_S)
    assert watch.suspect
    assert watch.tick(4_601.0 + ACCEPT_AFTER_S, 11.0 + ACCEPT_AFTER_S) == 0.0
    assert not watch.suspect


def test_slewing_is_followed() -> None:
    watch = ClockWatch(0.0, 0.0)
    for second in range(1, 100):
        assert watch.tick(second * 1.1, float(second)) == 0.0
    assert not watch.suspect


def test_a_step_is_doubted_before_any_tick_has_seen_it() -> None:
    """A message read right after the step must not be judged by the wrong time."""
    watch = ClockWatch(1_000.0, 10.0)
    assert not watch.doubts(1_001.0, 11.0)
    assert watch.doubts(1_001.0 - 3_600.0, 11.0)
    assert watch.doubts(1_001.0 + 3_600.0, 11.0)
    assert not watch.suspect
    watch.tick(1_001.0 + 3_600.0, 11.0)
    assert watch.doubts(1_002.0, 12.0)
    watch.tick(1_003.0, 13.0)
    assert not watch.doubts(1_004.0, 14.0)
