"""Alerts: one per episode, with hysteresis and cooldown, restored, bounded, and said in words."""

import dataclasses
import math

import numpy as np
import pytest
from tests.fakes.directory import directory
from tests.fakes.readings import MINUTE, SECOND, readings, scores

from greenlang_iot.alerts.episode import Ended
from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.model import flags as f
from greenlang_iot.model.batches import Reject
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Silences, Transition
from greenlang_iot.settings.model import AlertSettings, DetectSettings, SecondStageSettings

T0 = 1_700_000_000 * SECOND
SPIKE, RATE, STUCK, RANGE, SHIFT = (
    f.DETECTOR_SPIKE,
    f.DETECTOR_RATE,
    f.DETECTOR_STUCK,
    f.DETECTOR_RANGE,
    f.DETECTOR_SHIFT,
)


def fleet() -> Directory:
    return directory(3, names=["boiler-1", "boiler-2", "boiler-3"])


def alerter(**settings: float) -> Alerter:
    return Alerter(fleet(), AlertSettings(**settings))  # type: ignore[arg-type]


def feed(
    a: Alerter,
    codes: list[int],
    *,
    start: int = 0,
    series: int = 4,
    value: float = 93.1,
    flags: int = 0,
    score: float = 7.0,
) -> list[Transition]:
    """One reading a minute from minute `start`; a code is the detector that suspects it, 0 none."""
    n = len(codes)
    ts = [T0 + (start + i) * MINUTE for i in range(n)]
    batch = readings([series] * n, ts, [value] * n, flags=[flags] * n)
    verdict = [f.SUSPECT if code else 0 for code in codes]
    return a.evaluate(batch, scores([score if c else 0.3 for c in codes], codes, verdict))


def states(transitions: list[Transition]) -> list[tuple[str, str]]:
    return [(t.rule, t.state) for t in transitions]


def minute(t: Transition) -> float:
    return (t.at_ns - T0) / MINUTE


# -- the life of an alert --------------------------------------------------------------------------


def test_a_spike_opens_at_once_and_resolves_after_three_normal_readings() -> None:
    opened, resolved = feed(alerter(), [0, SPIKE, 0, 0, 0, 0])
    assert (opened.state, opened.number, minute(opened)) == ("open", 1, 1)
    assert (resolved.state, resolved.number, minute(resolved)) == ("resolved", 2, 4)
    assert opened.alert_id == resolved.alert_id
    assert resolved.opened_ns == opened.opened_ns == T0 + MINUTE
    assert (opened.org, opened.site, opened.device, opened.metric) == (
        "acme",
        "site-0",
        "boiler-3",
        "temperature",
    )
    assert opened.detector == "spike"
    assert opened.severity == "warning"
    assert opened.score == pytest.approx(1 - 1e-7)
    assert opened.value == 93.1
    assert opened.expected == pytest.approx(61.04, abs=1e-5)
    assert opened.summary == "temperature of boiler-3 read 93.1 °C; expected 61.0 ± 2.2"
    assert resolved.summary == "temperature of boiler-3 is back to normal: 93.1 °C"


def test_one_alert_per_episode() -> None:
    a = alerter()
    codes = [SPIKE, SPIKE, SHIFT, SPIKE, SHIFT, SHIFT, 0, 0, SHIFT] + [0] * 9
    got = feed(a, codes)
    assert states(got) == [("spike", "open"), ("spike", "open")]
    assert [t.number for t in got] == [1, 2]
    assert [t.detector for t in got] == ["spike", "shift"]  # it lasts: said once
    assert states(feed(a, [0], start=len(codes))) == [("spike", "resolved")]  # the tenth in a row


@pytest.mark.parametrize("code", [f.DETECTOR_CONTEXT, f.DETECTOR_SWING], ids=["context", "swing"])
def test_what_lasts_is_not_over_after_three_normal_readings(code: int) -> None:
    """A drift of hours was an alert of four minutes: its score comes near the threshold before it stays beyond."""
    a = alerter()
    rule = f.DETECTOR_NAMES[code]
    assert states(feed(a, [code] + [0] * 9 + [code])) == [(rule, "open")]
    assert feed(a, [0] * 9, start=11) == []
    assert states(feed(a, [0], start=20)) == [(rule, "resolved")]


def test_batches_of_one_give_the_same_transitions() -> None:
    codes = [0, SPIKE, 0, 0, 0, STUCK, STUCK] + [0] * 10 + [RANGE, SPIKE] + [0] * 20
    singly = alerter(cooldown=0)
    parts = [t for i, code in enumerate(codes) for t in feed(singly, [code], start=i)]
    assert feed(alerter(cooldown=0), codes) == parts
    assert len(parts) == 8


def test_kinds_have_alerts_of_their_own() -> None:
    got = feed(alerter(), [SPIKE, RANGE, RANGE, RANGE, STUCK])
    assert states(got) == [
        ("spike", "open"),
        ("range", "open"),
        ("spike", "resolved"),
        ("stuck", "open"),
    ]


def test_cooldown_is_event_time() -> None:
    a = alerter(cooldown=600)
    assert states(feed(a, [SPIKE, 0, 0, 0])) == [("spike", "open"), ("spike", "resolved")]
    assert feed(a, [SPIKE], start=12) == []
    assert states(feed(a, [SPIKE], start=13)) == [("spike", "open")]
    assert states(feed(a, [SPIKE], start=5, series=2)) == [("spike", "open")]


def test_open_after_counts_suspects_and_a_pending_alert_ends_without_cooldown() -> None:
    a = alerter(open_after=3)
    got = feed(a, [SPIKE, SPIKE, 0, 0, 0, SPIKE, SPIKE, SPIKE])
    assert states(got) == [
        ("spike", "pending"),
        ("spike", "resolved"),
        ("spike", "pending"),
        ("spike", "open"),
    ]
    assert [t.number for t in got] == [1, 2, 1, 2]
    assert states(feed(a, [STUCK], series=2)) == [("stuck", "open")]


def test_pending_for_is_event_time_that_the_condition_holds() -> None:
    got = feed(alerter(pending_for=120), [RANGE, RANGE, RANGE])
    assert [(t.state, minute(t)) for t in got] == [("pending", 0), ("open", 2)]
    assert got[0].opened_ns == got[1].opened_ns == T0


@pytest.mark.parametrize("flag", [f.DUPLICATE, f.REPLAYED, f.TS_COLLISION, f.LATE, f.RETAINED])
def test_what_is_not_learnt_neither_resolves_nor_opens(flag: int) -> None:
    a = alerter()
    feed(a, [SPIKE])
    assert feed(a, [0] * 20, start=1, flags=flag) == []


def test_a_retry_of_an_anomaly_does_not_alert_again() -> None:
    detect = DetectSettings(second_stage=SecondStageSettings(enabled=False))
    d = fleet()
    detector, a = Detector(d, detect), Alerter(d, AlertSettings(cooldown=0))
    x = 20 + np.random.default_rng(1).normal(size=120)
    x[60] += 30
    ts = T0 + np.arange(120) * MINUTE

    def go(rows: slice, connection: int) -> list[Transition]:
        batch = readings([4] * len(x[rows]), ts[rows], x[rows], connection=connection)
        return a.evaluate(batch, detector.score(batch))

    assert states(go(slice(0, 61), 1)) == [("spike", "open")]
    assert go(slice(58, 61), 2) == []
    assert states(go(slice(61, 65), 2)) == [("spike", "resolved")]
    assert go(slice(60, 64), 3) == []
    detector.restore(detector.checkpoint())
    assert go(slice(0, 65), 4) == []


def test_what_was_told_lately_extends_an_alert_and_opens_none() -> None:
    a = alerter()

    def told(start: int) -> list[Transition]:
        ts = [T0 + (start + i) * MINUTE for i in range(4)]
        batch = readings([4] * 4, ts, [5.0] * 4)
        return a.evaluate(batch, scores([2.5] * 4, [SPIKE] * 4, [f.SUSPECT | f.TOLD] * 4))

    assert told(0) == []
    assert states(feed(a, [SPIKE], start=4)) == [("spike", "open")]
    feed(a, [0] * 2, start=5)
    assert told(7) == []  # two normal readings and four more that are none
    feed(a, [0] * 2, start=11)
    assert a.active[4]
    assert states(feed(a, [0], start=13)) == [("spike", "resolved")]


def test_a_shift_opens_an_alert_though_a_spike_was_told_lately_unless_it_comes_every_day() -> None:
    a, told = alerter(), f.SUSPECT | f.TOLD

    def shifted(start: int, verdict: int) -> list[Transition]:
        batch = readings([4], [T0 + start * MINUTE], [5.0])
        return a.evaluate(batch, scores([2.5], [SHIFT], [verdict]))

    assert shifted(0, told | f.HABIT) == []
    assert states(shifted(1, told)) == [("shift", "open")]


def test_what_is_much_farther_off_than_before_opens_an_alert_though_it_was_told_lately() -> None:
    a, told = alerter(), f.SUSPECT | f.TOLD
    for verdict, expect in [(told, []), (told | f.FARTHER, [("spike", "open")])]:
        batch = readings([4], [T0 + verdict * MINUTE], [5.0])
        assert states(a.evaluate(batch, scores([4.0], [SPIKE], [verdict]))) == expect


@pytest.mark.parametrize("gap", [10, 60])
@pytest.mark.parametrize(("second", "news"), [(9.0, False), (40.0, True)])
def test_a_larger_spike_soon_after_a_small_one_is_told(gap: int, second: float, news: bool) -> None:
    known, n = 1_500, 1_600
    value = np.random.default_rng(gap).normal(20.0, 1.0, n)
    value[known] += 9.0
    value[known + gap] += second
    settings = DetectSettings(second_stage=SecondStageSettings(enabled=False))
    d = directory(1, names=["boiler-1"], interval_s=60.0)
    detector, a = Detector(d, settings), Alerter(d, AlertSettings())
    batch = readings([0] * n, [T0 + i * MINUTE for i in range(n)], value.tolist())
    opened = [minute(t) for t in a.evaluate(batch, detector.score(batch)) if t.state == "open"]
    assert opened == ([known, known + gap] if news else [known])


@pytest.mark.parametrize("gap", [5, 20, 60])
def test_a_level_that_leaves_for_good_soon_after_a_spike_is_told(gap: int) -> None:
    """The spike's alert is over by then, and the series is not quiet yet."""
    known, n = 1_500, 1_700
    value = np.random.default_rng(gap).normal(20.0, 1.0, n)
    value[known] += 8.0
    value[known + gap :] += 8.0
    settings = DetectSettings(second_stage=SecondStageSettings(enabled=False))
    d = directory(1, names=["boiler-1"], interval_s=60.0)
    detector, a = Detector(d, settings), Alerter(d, AlertSettings())
    batch = readings([0] * n, [T0 + i * MINUTE for i in range(n)], value.tolist())
    opened = [
        (t.detector, minute(t))
        for t in a.evaluate(batch, detector.score(batch))
        if t.state == "open" and minute(t) >= known
    ]
    assert opened[0] == ("spike", known)
    last = opened[-1]
    assert last[0] == "shift"
    assert known + gap < last[1] <= known + gap + 10


def test_critical_from_a_score_of_12() -> None:
    assert feed(alerter(), [SPIKE], score=12.0)[0].severity == "critical"
    assert feed(alerter(), [STUCK], score=12.0)[0].severity == "warning"


def test_values_that_are_not_finite_are_left_out() -> None:
    a = alerter()
    batch = readings([4], [T0], [5.0])
    (t,) = a.evaluate(batch, scores([7.0], [SPIKE], [f.SUSPECT], expected=math.nan, band=math.inf))
    assert (t.expected, t.band) == (None, None)
    assert t.summary == "temperature of boiler-3 read 5 °C"


def test_the_normal_path_visits_no_row() -> None:
    a = alerter()
    assert feed(a, [0] * 100) == []
    assert not a.active.any()
    feed(a, [SPIKE])
    assert np.flatnonzero(a.active).tolist() == [4]
    feed(a, [0] * 3, start=1)
    assert not a.active.any()


def test_alerts_are_bounded_and_refusals_are_counted() -> None:
    a = alerter(max_active=2)
    for series in range(4):
        feed(a, [STUCK], series=series)
    assert np.count_nonzero(a.active) == 2
    assert a.suppressed == 2


# -- words -----------------------------------------------------------------------------------------


def test_summaries() -> None:
    d = dataclasses.replace(
        fleet(), step=np.full(6, 0.5), warn_low=np.full(6, 5.0), warn_high=np.full(6, 90.0)
    )

    def said(code: int) -> str:
        return feed(Alerter(d, AlertSettings()), [code])[0].summary

    assert said(RATE) == (
        "temperature of boiler-3 jumped to 93.1 °C, faster than 0.5 °C a second; expected 61.0 ± 2.2"
    )
    assert said(SHIFT) == (
        "temperature of boiler-3 stays away from its level, now 93.1 °C; expected 61.0 ± 2.2"
    )
    assert said(STUCK) == (
        "temperature of boiler-3 has not changed from 93.1 °C for far longer than usual"
    )
    assert said(RANGE) == ("temperature of boiler-3 read 93.1 °C; its operating range is 5 to 90")


# -- rejects ---------------------------------------------------------------------------------------


def reject(at_minute: int, value: float = 999.0, reason: str = "out_of_range") -> Reject:
    return Reject(
        topic=b"t",
        payload=b"{}",
        device="boiler-3",
        paths=[("values.temperature", reason)],
        readings=1,
        series=[4],
        values=[value],
        ts_ns=[T0 + at_minute * MINUTE],
    )


def test_readings_out_of_their_valid_range_open_a_range_alert() -> None:
    a = alerter()
    (opened,) = a.evaluate_rejects([reject(0), reject(1), reject(2)])
    assert (opened.rule, opened.state, opened.severity) == ("range", "open", "critical")
    assert opened.summary == "temperature of boiler-3 read 999 °C; valid is -50 to 150"
    assert (opened.expected, opened.band) == (50.0, 100.0)
    assert feed(a, [0] * 9, start=3) == []
    assert states(feed(a, [0], start=12)) == [("range", "resolved")]
    assert a.evaluate_rejects([reject(0), reject(2)]) == []  # retries


def test_a_retried_reject_does_not_keep_an_alert_open() -> None:
    a = alerter()
    a.evaluate_rejects([reject(0)])
    feed(a, [0] * 9, start=1)
    a.evaluate_rejects([reject(0)])
    assert states(feed(a, [0], start=10)) == [("range", "resolved")]


def test_other_rejects_are_no_alerts() -> None:
    assert alerter().evaluate_rejects([reject(0, reason="unknown_unit")]) == []


# -- silence and outages ---------------------------------------------------------------------------


def silences(series: list[int], last_minute: int, overdue_minutes: int, never: bool) -> Silences:
    n = len(series)
    return Silences(
        np.array(series, np.int32),
        np.full(n, 0 if never else T0 + last_minute * MINUTE, np.int64),
        np.full(n, overdue_minutes * MINUTE, np.int64),
        np.full(n, never),
    )


def test_a_silence_that_begins_again_after_an_old_reading_goes_on_with_its_numbers() -> None:
    """A buffered reading ended the alert; the newest is the same, so is the id: with number 1 the book had it already."""
    a = alerter(cooldown=0)
    (opened,) = a.evaluate_silence(silences([4], 10, 3, False), 0)
    (resolved,) = feed(a, [0], start=4, flags=f.LATE)
    (again,) = a.evaluate_silence(silences([4], 10, 3, False), 0)
    assert (resolved.state, again.state) == ("resolved", "open")
    assert again.alert_id == opened.alert_id
    assert [t.number for t in (opened, resolved, again)] == [1, 2, 3]


def test_silence_opens_once_and_resolves_at_the_first_reading() -> None:
    a = alerter()
    (opened,) = a.evaluate_silence(silences([4], 10, 3, False), 0)
    assert (opened.rule, opened.state, opened.value) == ("silence", "open", None)
    assert (opened.opened_ns, opened.at_ns) == (T0 + 11 * MINUTE, T0 + 14 * MINUTE)
    assert opened.summary == "boiler-3 has sent no temperature for 4 min; expected every 60 s"
    assert a.evaluate_silence(silences([4], 10, 4, False), 0) == []
    assert feed(a, [0], start=15, flags=f.RETAINED) == []
    (resolved,) = feed(a, [0], start=16, flags=f.REPLAYED)
    assert (resolved.state, resolved.number) == ("resolved", 2)
    assert resolved.summary == "boiler-3 sends temperature again"


def test_silence_after_a_short_return_opens_when_the_cooldown_is_over() -> None:
    a = alerter(cooldown=600)
    a.evaluate_silence(silences([4], 10, 3, False), 0)
    feed(a, [0], start=16)
    assert a.evaluate_silence(silences([4], 16, 3, False), 0) == []
    (again,) = a.evaluate_silence(silences([4], 16, 9, False), 0)
    assert (minute(again), again.opened_ns) == (26, T0 + 17 * MINUTE)


def test_a_series_that_never_spoke() -> None:
    (opened,) = alerter().evaluate_silence(silences([4], 0, 3, True), T0)
    assert opened.summary == (
        "boiler-3 has not sent any temperature since the start; expected every 60 s"
    )
    assert opened.at_ns == T0


def test_an_outage_is_one_alert() -> None:
    a = alerter()
    (opened,) = a.outage("broker:default", True, T0, "the broker is gone")
    assert a.outage("broker:default", True, T0 + 1, "still gone") == []
    assert (opened.rule, opened.severity, opened.device) == ("outage", "critical", "")
    (clock,) = a.outage("gateway", True, T0, "the clock stepped by 7 s", rule="clock")
    (other,) = a.outage("broker:second", True, T0, "this one too")
    assert len({opened.alert_id, other.alert_id, clock.alert_id}) == 3
    (closed,) = a.outage("broker:default", False, T0 + 5, "the broker is back")
    assert (closed.alert_id, closed.state, closed.number) == (opened.alert_id, "resolved", 2)
    assert a.outage("broker:default", False, T0 + 6, "") == []


# -- restart and reload ----------------------------------------------------------------------------


def test_open_alerts_are_restored_and_neither_open_again_nor_restart_their_number() -> None:
    a = alerter()
    last = [
        feed(a, [SPIKE, SHIFT])[-1],
        feed(a, [STUCK], series=0)[-1],
        *a.evaluate_silence(silences([2], 0, 3, False), 0),
        *a.outage("gateway", True, T0, "down"),
    ]
    again = alerter()
    assert again.restore([t.as_dict() for t in last]) == []
    np.testing.assert_array_equal(again.active, a.active)
    assert feed(again, [SHIFT], start=2) == []
    assert again.evaluate_silence(silences([2], 0, 5, False), 0) == []
    (resolved,) = feed(again, [0] * 10, start=3)
    assert (resolved.alert_id, resolved.number) == (last[0].alert_id, 3)
    assert states(again.outage("gateway", False, T0 + 1, "up")) == [("outage", "resolved")]


def test_what_is_over_is_known_after_a_restart() -> None:
    """Neither a reading that comes again nor one within the cooldown opens it once more."""
    opened, resolved = feed(alerter(cooldown=600), [SPIKE, 0, 0, 0])
    again = alerter(cooldown=600)
    assert again.restore([], [Ended(resolved.as_dict(), was_open=True)]) == []
    assert feed(again, [SPIKE, 0, 0, 0]) == []
    assert feed(again, [SPIKE], start=12) == []
    (later,) = feed(again, [SPIKE], start=13)
    assert later.alert_id != opened.alert_id
    pending = alerter(cooldown=600)
    pending.restore([], [Ended(resolved.as_dict(), was_open=False)])
    assert states(feed(pending, [SPIKE], start=4)) == [("spike", "open")]


def test_a_pending_alert_that_was_over_is_not_begun_again_by_the_same_reading() -> None:
    """The book knows its numbers already: nobody would see it open."""
    a = alerter(pending_for=120, cooldown=0)
    first = feed(a, [SPIKE, 0, 0, 0])
    assert states(first) == [("spike", "pending"), ("spike", "resolved")]
    assert feed(a, [SPIKE]) == []
    assert [t.state for t in feed(a, [SPIKE, SPIKE, SPIKE], start=5)] == ["pending", "open"]


def test_a_shard_tells_of_another_shards_device_aside() -> None:
    owner, other = alerter(cooldown=600), alerter(cooldown=600)
    other.mine = np.array([True, True, False])
    (alert,) = feed(owner, [SPIKE])
    opened, resolved = feed(other, [SPIKE])
    assert (opened.state, resolved.state) == ("open", "resolved")
    assert (opened.flags, resolved.flags, alert.flags) == (("aside",), ("aside",), ())
    assert resolved.alert_id == opened.alert_id != alert.alert_id
    assert resolved.at_ns == opened.opened_ns == alert.opened_ns
    assert (
        resolved.summary
        == "temperature of boiler-3 was heard late, after the layout of shards changed"
    )
    assert not other.active.any()
    assert feed(other, [SPIKE], start=9) == []  # it cools down
    assert states(feed(other, [SPIKE], series=0)) == [("spike", "open")]
    waits = alerter(open_after=2)
    waits.mine = np.array([True, True, False])
    assert feed(waits, [SPIKE]) == []  # nobody would end what is pending
    assert states(feed(waits, [SPIKE], start=1)) == [("spike", "open"), ("spike", "resolved")]


def test_what_was_bad_before_the_last_alert_is_told_though_it_comes_after_it() -> None:
    """A session of an earlier layout brings what came while the gateway was away, beside what comes now."""
    a = alerter(cooldown=0, resolve_after=1)
    a.evaluate_rejects([reject(10)])
    feed(a, [0], start=11)
    (late,) = a.evaluate_rejects([reject(4), reject(5)])
    assert (late.state, minute(late)) == ("open", 4)
    assert states(feed(a, [0], start=12)) == [("range", "resolved")]
    assert a.evaluate_rejects([reject(4), reject(10), reject(5)]) == []  # each belongs to one


def test_what_was_bad_before_the_alert_that_is_open_is_told_once_and_ends_where_that_begins() -> (
    None
):
    """A broker that begins with the newest of what waited."""
    a = alerter(cooldown=0)
    (newer,) = a.evaluate_rejects([reject(10)])
    told = a.evaluate_rejects([reject(4), reject(5), reject(9), reject(10)])
    assert [(t.state, minute(t)) for t in told] == [("open", 4), ("resolved", 10)]
    assert {t.alert_id for t in told} == {told[0].alert_id} != {newer.alert_id}
    assert told[0].summary == "temperature of boiler-3 read 999 °C; valid is -50 to 150"
    assert (
        told[1].summary
        == "temperature of boiler-3 was heard late, when a newer alert of it was open already"
    )
    assert a.evaluate_rejects([reject(4), reject(7)]) == []  # both belong to it
    assert [minute(t) for t in a.evaluate_rejects([reject(2)])] == [2, 10]
    after = alerter(cooldown=0)
    after.restore([newer.as_dict()], [Ended(told[1].as_dict(), was_open=True)])
    assert after.evaluate_rejects([reject(4), reject(7)]) == []
    assert states(feed(a, [0] * 10, start=11)) == [("range", "resolved")]
    assert alerter(pending_for=60).evaluate_rejects([reject(10), reject(4)])[1:] == []


def test_what_another_shard_looks_after_concerns_only_what_is_told_aside() -> None:
    """A reload may give the device to this shard."""
    (opened,) = feed(alerter(), [SPIKE], start=5)
    a = alerter(cooldown=0)
    assert a.restore([], [], [opened.as_dict()]) == []
    a.mine = np.zeros(3, np.bool_)
    assert feed(a, [SPIKE], start=6) == []
    assert [t.flags for t in feed(a, [SPIKE], start=4)] == 2 * [("aside",)]  # older: not its
    assert feed(a, [SPIKE], start=7) == []
    a.mine = None
    assert states(feed(a, [SPIKE, 0, 0, 0], start=8)) == [("spike", "open"), ("spike", "resolved")]


def test_what_comes_late_does_not_say_that_it_is_over() -> None:
    """A kept session brings the normal readings from before the suspect one again."""
    a = alerter()
    feed(a, [SPIKE], start=5)
    assert feed(a, [0, 0, 0, 0], start=2) == []
    assert states(feed(a, [0, 0, 0], start=6)) == [("spike", "resolved")]


def test_the_id_depends_on_rule_scope_and_opening_only() -> None:
    first = feed(alerter(), [SPIKE])[0]
    assert feed(alerter(open_after=2), [SPIKE], value=1.0, score=9)[0].alert_id == first.alert_id
    others = {
        feed(alerter(), [STUCK])[0].alert_id,
        feed(alerter(), [SPIKE], series=5)[0].alert_id,
        feed(alerter(), [SPIKE], start=1)[0].alert_id,
    }
    assert len(others | {first.alert_id}) == 4
    assert len(first.alert_id) == 16


def test_alerts_of_devices_that_left_are_resolved() -> None:
    a = alerter()
    opened = [feed(a, [STUCK], series=s)[0] for s in (0, 2, 4)]
    smaller = directory(3, names=["boiler-1", "other", "boiler-3"])
    smaller = dataclasses.replace(smaller, enabled=np.array([1, 1, 0], np.uint8))
    gone = a.grow(smaller)
    assert [(t.device, t.state) for t in gone] == [
        ("boiler-2", "resolved"),
        ("boiler-3", "resolved"),
    ]
    assert np.flatnonzero(a.active).tolist() == [0]
    again = Alerter(smaller, AlertSettings())
    assert len(again.restore([t.as_dict() for t in opened])) == 2
    assert gone[0].summary == "temperature of boiler-2 is no longer watched"
