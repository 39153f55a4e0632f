"""A person's own rules over batches: when they open and resolve, whatever the batches' sizes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.readings import SECOND, readings, scores

from greenlang_iot.alerts.engine import RuleEngine
from greenlang_iot.alerts.episode import Ended
from greenlang_iot.alerts.rule_file import Rule, RuleSet
from greenlang_iot.model import flags as f
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.settings.model import AlertSettings

T0 = 1_800_000_000 * SECOND
FLEET = directory(4, names=["boiler-1", "boiler-2", "pump-1", "pump-2"])
"""Series 2d is the temperature of device d, 2d + 1 its humidity; sites site-0 and site-1 in turn."""
TEMPERATURE, HUMIDITY = 0, 1

Row = tuple[int, float, float]
"""(series, seconds after T0, value)"""


def rule(**given: Any) -> Rule:
    return Rule.model_validate({"name": "mine", **given})


def engine(*rules: Rule, fleet: Directory = FLEET, **settings: Any) -> RuleEngine:
    return RuleEngine(RuleSet(rules), fleet, AlertSettings(**settings))


def feed(
    e: RuleEngine, rows: Sequence[Row], *, score: Sequence[float] | None = None, flags: int = 0
) -> list[Transition]:
    n = len(rows)
    batch = readings(
        [r[0] for r in rows],
        [T0 + int(r[1] * SECOND) for r in rows],
        [r[2] for r in rows],
        flags=[flags] * n,
    )
    return e.evaluate(batch, scores(score or [0.0] * n, [0] * n, [0] * n))


def said(transitions: list[Transition]) -> list[tuple[str, str, float]]:
    return [(t.device, t.state, (t.at_ns - T0) / SECOND) for t in transitions]


# ---- conditions --------------------------------------------------------------------------------------


def test_a_threshold_with_its_own_clear() -> None:
    e = engine(rule(range={"above": 90, "clear": 85}, match={"metric": "temperature"}))
    values = [80, 91, 89, 86, 85, 92]
    rows = [(TEMPERATURE, 10.0 * i, float(v)) for i, v in enumerate(values)]
    assert said(feed(e, rows)) == [
        ("boiler-1", "open", 10),
        ("boiler-1", "resolved", 40),
        ("boiler-1", "open", 50),
    ]


@pytest.mark.parametrize(
    ("condition", "values", "states"),
    [
        ({"above": 5}, [5, 6, 5], ["open", "resolved"]),
        ({"below": 5}, [5, 4, 5], ["open", "resolved"]),
        ({"below": 0, "above": 5}, [-1, 3, 6], ["open", "resolved", "open"]),
        ({"below": 5, "clear": 7}, [4, 6, 7], ["open", "resolved"]),
    ],
)
def test_ranges(condition: dict[str, float], values: list[float], states: list[str]) -> None:
    e = engine(rule(range=condition))
    found = feed(e, [(0, float(i), float(v)) for i, v in enumerate(values)])
    assert [t.state for t in found] == states


def test_a_condition_must_hold_for_a_while() -> None:
    e = engine(rule(range={"above": 90}, **{"for": 60}))
    assert said(feed(e, [(0, 0, 91), (0, 30, 91), (0, 59, 89)])) == [
        ("boiler-1", "pending", 0),
        ("boiler-1", "resolved", 59),
    ]
    opened = feed(e, [(0, 100, 91), (0, 159, 91), (0, 160, 91), (0, 170, 91)])
    assert said(opened) == [("boiler-1", "pending", 100), ("boiler-1", "open", 160)]
    assert opened[1].opened_ns == T0 + 100 * SECOND


def test_a_cooldown_keeps_it_quiet() -> None:
    e = engine(rule(range={"above": 90}, cooldown=100))
    rows = [(0, 0, 91), (0, 10, 80), (0, 20, 91), (0, 109, 91), (0, 110, 91)]
    assert said(feed(e, rows)) == [
        ("boiler-1", "open", 0),
        ("boiler-1", "resolved", 10),
        ("boiler-1", "open", 110),
    ]


def test_a_rate_is_per_second_and_over_batches() -> None:
    e = engine(rule(rate={"above": 2}))
    assert feed(e, [(0, 0, 10)]) == []
    (found,) = feed(e, [(0, 2, 15)])  # 2.5 a second
    assert (found.state, found.value) == ("open", 2.5)
    assert "2.5 °C a second" in found.summary
    assert said(feed(e, [(0, 4, 13)])) == [("boiler-1", "resolved", 4)]


def test_stuck_is_since_the_last_change() -> None:
    e = engine(rule(stuck="60s"))
    assert feed(e, [(0, 0, 1), (0, 10, 2), (0, 40, 2)]) == []
    assert said(feed(e, [(0, 69, 2), (0, 70, 2), (0, 80, 2)])) == [("boiler-1", "open", 70)]
    assert said(feed(e, [(0, 90, 3)])) == [("boiler-1", "resolved", 90)]


def test_a_score_is_the_one_outside_a_batch() -> None:
    e = engine(rule(score={"above": 0.999}))
    assert feed(e, [(0, 0, 1)], score=[2.9]) == []
    (found,) = feed(e, [(0, 1, 1)], score=[3.1])
    assert found.value == pytest.approx(1 - 10**-3.1)


def quiet(e: RuleEngine, seconds: dict[int, float], now: float) -> list[Transition]:
    for_ns, last_ns = np.zeros(8, np.int64), np.zeros(8, np.int64)
    for series, since in seconds.items():
        for_ns[series] = int(since * SECOND)
        last_ns[series] = T0 + int((now - since) * SECOND)
    return e.evaluate_quiet(for_ns, last_ns)


def test_silence_by_a_rule_of_ones_own() -> None:
    e = engine(rule(silence="60s", match={"device": "boiler-*"}))
    assert e.asks_for_quiet
    assert quiet(e, {0: 60, 4: 600}, 100) == []
    assert said(quiet(e, {0: 61}, 101)) == [("boiler-1", "open", 100)]
    assert quiet(e, {0: 70}, 110) == []
    assert said(feed(e, [(0, 120, 1)])) == [("boiler-1", "resolved", 120)]


def test_an_expression_sees_a_message_as_a_whole() -> None:
    e = engine(rule(expression="temperature > 80 and humidity < 30", summary="{device} dries"))
    assert not e.asks_for_quiet
    assert feed(e, [(0, 0, 90)]) == []  # humidity is not known yet
    (found,) = feed(e, [(1, 1, 20)])
    assert (found.device, found.metric, found.state) == ("boiler-1", "", "open")
    assert found.summary == "boiler-1 dries"
    # at second 2 both change: at no moment is only one of them new
    assert feed(e, [(0, 2, 85), (1, 2, 25)]) == []
    assert said(feed(e, [(2, 2, 99), (1, 3, 31), (3, 3, 10)])) == [
        ("boiler-1", "resolved", 3),
        ("boiler-2", "open", 3),
    ]


def test_an_expression_with_its_own_clear() -> None:
    e = engine(rule(expression={"holds": "temperature > 80", "clear": "temperature < 70"}))
    rows = [(0, 0, 81), (0, 1, 75), (0, 2, 69)]
    assert said(feed(e, rows)) == [("boiler-1", "open", 0), ("boiler-1", "resolved", 2)]


# ---- what a rule looks at ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "devices"),
    [
        ({}, ["boiler-1", "boiler-2", "pump-1", "pump-2"]),
        ({"site": "site-0"}, ["boiler-1", "pump-1"]),
        ({"device": "pump-?"}, ["pump-1", "pump-2"]),
        ({"type": "sens*", "device": "*-2"}, ["boiler-2", "pump-2"]),
        ({"org": "other"}, []),
        ({"metric": "humidity"}, []),
    ],
)
def test_patterns(match: dict[str, str], devices: list[str]) -> None:
    e = engine(rule(range={"above": 0}, match=match))
    found = feed(e, [(2 * d, 0, 1) for d in range(4)])
    assert [t.device for t in found] == devices


@pytest.mark.parametrize("flag", [f.RETAINED, f.DUPLICATE, f.REPLAYED, f.LATE, f.TS_COLLISION])
def test_what_is_not_learnt_tells_a_rule_nothing(flag: int) -> None:
    assert feed(engine(rule(range={"above": 0})), [(0, 0, 1)], flags=flag) == []


def test_a_transition_carries_what_the_rule_says() -> None:
    e = engine(
        rule(range={"above": 0}, severity="critical", labels={"team": "x"}, runbook="https://x.y")
    )
    (found,) = feed(e, [(0, 0, 1)])
    assert (found.rule, found.detector, found.severity) == ("mine", "range", "critical")
    assert (found.labels, found.runbook, found.type) == ({"team": "x"}, "https://x.y", "sensor")
    assert found.summary == "temperature of boiler-1 read 1 °C; mine says above 0"


def test_many_rules_each_for_itself() -> None:
    rules = [rule(name=f"r{n}", range={"above": n}) for n in range(130)]
    found = feed(engine(*rules), [(0, 0, 128.5)])
    assert sorted(t.rule for t in found) == sorted(f"r{n}" for n in range(129))


def test_openings_are_bounded() -> None:
    e = engine(rule(range={"above": 0}), max_active=2)
    assert len(feed(e, [(s, 0, 1) for s in range(5)])) == 2
    assert e.suppressed == 3


def test_a_silence_that_begins_within_the_cooldown_is_told_after_it() -> None:
    """It was dated by when the reading was due, which stays within the cooldown however long the silence lasts."""
    e = engine(rule(silence=10, cooldown=100))

    def quiet(seconds: float, last: float) -> list[Transition]:
        n = FLEET.n_series
        spoke = np.zeros(n, np.int64)
        spoke[0] = T0 + int(last * SECOND)
        return e.evaluate_quiet(np.full(n, int(seconds * SECOND)), spoke)

    (opened,) = quiet(11, last=0)
    (resolved,) = feed(e, [(0, 15, 1)])
    assert quiet(99, last=15) == []
    (again,) = quiet(100, last=15)
    assert [t.state for t in (opened, resolved, again)] == ["open", "resolved", "open"]
    assert (again.opened_ns - T0) / SECOND == 25


def test_another_shards_device_is_told_of_aside() -> None:
    given = (
        rule(range={"above": 90}, cooldown=60),
        rule(name="held", range={"above": 90}, **{"for": 60}),
        rule(name="both", expression="temperature > humidity"),
    )
    owner, other = engine(*given), engine(*given)
    other.mine = np.array([False, True, True, True])
    rows = [(HUMIDITY, 0, 1), (TEMPERATURE, 0, 91)]
    told = feed(other, rows)
    assert [(t.rule, t.state) for t in told] == [
        ("mine", "open"),
        ("mine", "resolved"),
        ("both", "open"),
        ("both", "resolved"),
    ]
    assert {t.flags for t in told} == {("aside",)}
    assert not {t.alert_id for t in told} & {t.alert_id for t in feed(owner, rows)}
    assert {t.rule for t in feed(other, [(TEMPERATURE, 59, 91)])} == {"both"}
    assert {t.rule for t in feed(other, [(TEMPERATURE, 61, 91)])} == {"mine", "held", "both"}
    assert other.grow(directory(1, names=["another"])) == []  # nobody was told of what is pending


def test_what_is_over_is_known_after_a_restart() -> None:
    given = rule(range={"above": 90}, cooldown=100)
    first = engine(given)
    opened, resolved = feed(first, [(0, 0, 91), (0, 10, 80)])
    e = engine(given)
    assert e.restore([], [Ended(resolved.as_dict(), was_open=True)]) == []
    assert feed(e, [(0, 0, 91), (0, 10, 80), (0, 109, 91)]) == []
    (later,) = feed(e, [(0, 110, 91)])
    assert later.alert_id != opened.alert_id
    e = engine(given)
    assert e.restore([], [], [opened.as_dict()]) == []
    e.mine = np.zeros(4, np.bool_)
    assert feed(e, [(0, 50, 91)]) == []  # it belongs to the alert that another shard has


# ---- restarts and reloads ------------------------------------------------------------------------------


def test_open_and_pending_alerts_go_on_after_a_restart() -> None:
    given = rule(range={"above": 90}, **{"for": 60})
    first = feed(engine(given), [(0, 0, 91), (2, 0, 91), (2, 60, 91)])
    last = {t.alert_id: t.as_dict() for t in first}
    e = engine(given)
    assert e.restore(list(last.values())) == []
    found = feed(e, [(0, 60, 91), (2, 70, 80)])
    assert said(found) == [("boiler-1", "open", 60), ("boiler-2", "resolved", 70)]
    assert {t.alert_id for t in found} == set(last)
    assert [t.number for t in found] == [2, 3]


def test_an_alert_ends_with_its_rule_or_its_device() -> None:
    given = rule(range={"above": 90})
    e = engine(given)
    feed(e, [(0, 0, 91), (4, 0, 91)])
    (gone,) = e.grow(directory(2, names=["boiler-1", "boiler-2"]))
    assert (gone.device, gone.state) == ("pump-1", "resolved")
    (gone,) = e.grow(FLEET, RuleSet((rule(name="another", range={"above": 90}),)))
    assert (gone.device, gone.state, gone.number) == ("boiler-1", "resolved", 2)
    (gone,) = engine().restore([t.as_dict() for t in feed(engine(given), [(0, 0, 91)])])
    assert "no longer watched by mine" in gone.summary


# ---- whatever the batches ------------------------------------------------------------------------------

RULES = (
    rule(name="limits", range={"above": 6, "clear": 3}, cooldown=3),
    rule(name="held", range={"below": 4}, **{"for": 4}),
    rule(name="fast", rate={"above": 3}),
    rule(name="same", stuck=3),
    rule(name="both", expression="temperature > humidity + 2"),
)


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=40),
    st.lists(st.integers(1, 7), max_size=40),
)
def test_batches_of_any_size_say_the_same(steps: list[tuple[int, int]], sizes: list[int]) -> None:
    # every reading has a time stamp of its own, so that no message is torn apart
    rows = [(series, float(i), float(value)) for i, (series, value) in enumerate(steps)]
    whole, parts = engine(*RULES), engine(*RULES)
    expected = feed(whole, rows) if rows else []
    found: list[Transition] = []
    at = 0
    for size in [*sizes, *([1] * len(rows))]:
        if rows[at : at + size]:
            found += feed(parts, rows[at : at + size])
        at += size
    assert sorted(found, key=_place) == sorted(expected, key=_place)


def _place(t: Transition) -> tuple[str, str, int]:
    return t.rule, t.alert_id, t.number
