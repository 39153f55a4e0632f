"""When a missed target is an alert, for whom, and when it is over."""

import numpy as np
import pytest

from greenlang_iot.alerts.episode import restored
from greenlang_iot.alerts.wide import WideAlerts
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.quality.breaches import judge
from greenlang_iot.quality.figures import Scopes, widened
from greenlang_iot.quality.record import ARRIVED, FIELDS, ON_TIME, RECEIVED
from greenlang_iot.settings.model import QualitySettings

SECOND = 1_000_000_000
SETTINGS = QualitySettings(min_readings=20)


def devices(received: dict[str, int], *, due: int = 100, end: int = 3_600) -> Scopes:
    """Devices of site s1 (or s2 where the name says so) that received so many of `due` readings."""
    counts = np.zeros((len(received), FIELDS), np.int64)
    counts[:, RECEIVED] = counts[:, ARRIVED] = counts[:, ON_TIME] = list(received.values())
    n = len(received)
    return Scopes(
        ["acme"] * n,
        ["s2" if name.endswith("@s2") else "s1" for name in received],
        list(received),
        np.full(n, float(due)),
        counts,
        np.zeros(n),
        (end - 3_600) * SECOND,
        end * SECOND,
    )


def judged(
    alerts: WideAlerts, found: Scopes, settings: QualitySettings = SETTINGS, *, whole: bool = True
) -> list[Transition]:
    return judge(alerts, widened(found)[0], found, settings, whole=whole)


def said(transitions: list[Transition]) -> list[tuple[str, str, str, str]]:
    return sorted((t.state, t.site, t.device, t.detector) for t in transitions)


def test_a_device_that_misses_a_target_opens_one_alert_until_it_is_back() -> None:
    alerts = WideAlerts(100)
    (opened,) = judged(
        alerts, devices({"a": 50, "b": 100, "c": 100, **dict.fromkeys("defghijk", 100)})
    )
    assert (opened.rule, opened.state, opened.device) == ("quality", "open", "a")
    assert (opened.detector, opened.metric, opened.site) == ("completeness", "", "s1")
    assert (opened.value, opened.expected) == (pytest.approx(0.5), 0.95)
    assert opened.at_ns == 3_600 * SECOND
    assert opened.summary == (
        "completeness of device a was 50.0% in the last 60 min; its target is 95.0%"
    )
    well = dict.fromkeys("bcdefghijk", 100)
    assert judged(alerts, devices({"a": 94, **well}, end=4_200)) == []
    (back,) = judged(alerts, devices({"a": 95, **well}, end=4_800))
    assert (back.alert_id, back.state, back.number) == (opened.alert_id, "resolved", 2)


def test_a_site_that_misses_it_as_a_whole_is_one_alert() -> None:
    alerts = WideAlerts(100)
    found = devices({"a": 50, "b": 60, "c": 100, "x@s2": 10, "y@s2": 100})
    assert said(judged(alerts, found)) == [
        ("open", "s1", "", "completeness"),
        ("open", "s2", "", "completeness"),
    ]
    # the site is back, one device is not
    better = devices({"a": 90, "b": 100, "c": 100, "x@s2": 10, "y@s2": 100}, end=4_200)
    assert said(judged(alerts, better)) == [
        ("open", "s1", "a", "completeness"),
        ("resolved", "s1", "", "completeness"),
    ]


def test_too_few_readings_say_nothing() -> None:
    assert judged(WideAlerts(100), devices({"a": 1}, due=19)) == []
    assert len(judged(WideAlerts(100), devices({"a": 1}, due=20))) == 1


def test_for_whom_alerts_open_is_a_setting() -> None:
    found = devices({"a": 50, **dict.fromkeys("bcdefghijkl", 100)})
    for alerts, count in (("devices", 1), ("sites", 0), ("none", 0)):
        settings = QualitySettings(alerts=alerts)  # type: ignore[arg-type]
        assert len(judged(WideAlerts(100), found, settings)) == count


def test_a_device_that_left_the_registry_is_resolved() -> None:
    alerts = WideAlerts(100)
    well = dict.fromkeys("bcdefghijkl", 100)
    judged(alerts, devices({"a": 50, **well}))
    assert said(judged(alerts, devices(well, end=4_200))) == [
        ("resolved", "s1", "a", "completeness")
    ]


def test_a_shard_that_left_no_window_resolves_nothing() -> None:
    """Its devices and its sites did not get better; nobody knows."""
    alerts = WideAlerts(100)
    well = dict.fromkeys("bcdefghijkl", 100)
    judged(alerts, devices({"a": 50, **well, "x@s2": 10}))
    assert judged(alerts, devices({"y@s3": 100}, end=4_200), whole=False) == []
    assert said(judged(alerts, devices({"a": 100, **well}, end=4_800), whole=False)) == [
        ("resolved", "s1", "a", "completeness")
    ]
    assert said(judged(alerts, devices({"a": 100, **well}, end=5_400))) == [
        ("resolved", "s2", "", "completeness")
    ]


def test_an_alert_goes_on_after_a_restart() -> None:
    well = dict.fromkeys("bcdefghijkl", 100)
    (opened,) = judged(WideAlerts(100), devices({"a": 50, **well}))
    alerts = WideAlerts(100)
    alerts.keep(restored(opened.as_dict()))
    assert judged(alerts, devices({"a": 50, **well}, end=4_200)) == []
    (back,) = judged(alerts, devices({"a": 100, **well}, end=4_800))
    assert (back.alert_id, back.number) == (opened.alert_id, 2)


def test_the_number_of_alerts_is_bounded() -> None:
    alerts = WideAlerts(2)
    found = devices({"a": 50, "b": 50, "c": 50, **{f"n{i}": 100 for i in range(60)}})
    assert len(judged(alerts, found)) == 2
    assert alerts.suppressed == 1
