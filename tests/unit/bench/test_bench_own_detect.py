"""Our own detection benchmark: how faults and alerts are matched, and a small run of it."""

import pytest

from greenlang_iot.bench import own_detect as own
from greenlang_iot.bench.own_detect import KINDS, METRICS, MINUTE_NS, START_NS, Fault
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.model.outcomes import Transition


def alert(device: int, minute: float, rule: str = "spike") -> Transition:
    at = START_NS + int(minute * MINUTE_NS)
    return Transition(
        alert_id="x",
        number=1,
        state="open",
        rule=rule,
        severity="warning",
        org="own",
        site="bench",
        device=f"d{device:04d}",
        metric="m0",
        opened_ns=at,
        at_ns=at,
        value=None,
        expected=None,
        band=None,
        score=1.0,
        detector=rule,
        summary="",
    )


def test_an_alert_belongs_to_the_fault_of_its_device_and_time() -> None:
    faults = [Fault("spike", 0, 5_000), Fault("shift", 1, 5_000)]
    kinds, false = own._match(faults, [alert(0, 5_000), alert(1, 5_004), alert(2, 5_000)])
    assert (kinds["spike"].found, kinds["spike"].in_time, kinds["spike"].delays) == (1, 1, [1.0])
    assert (kinds["shift"].found, kinds["shift"].in_time, kinds["shift"].delays) == (1, 1, [5.0])
    assert false == 1


def test_late_is_late_and_before_is_false() -> None:
    faults = [Fault("shift", 0, 5_000), Fault("shift", 1, 5_000)]
    kinds, false = own._match(faults, [alert(0, 5_005), alert(1, 4_999)])
    assert (kinds["shift"].found, kinds["shift"].in_time) == (1, 0)
    assert false == 1


def test_only_silence_finds_a_dropout_and_a_late_burst_is_no_fault() -> None:
    faults = [Fault("dropout", 0, 5_000), Fault("late", 1, 5_000)]
    opened = [
        alert(0, 5_002.1, "silence"),
        alert(0, 5_010, "spike"),
        alert(1, 5_002, "silence"),
        alert(1, 5_030, "shift"),
    ]
    kinds, false = own._match(faults, opened)
    assert kinds["dropout"].in_time == 1
    assert "late" not in kinds
    assert false == 2


@pytest.mark.skipif(JIT_DISABLED, reason="tens of thousands of readings take minutes without it")
def test_a_small_run_finds_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "CLEAN_DEVICES", 2)
    monkeypatch.setattr(own, "CLEAN_DAYS", 3)
    monkeypatch.setattr(own, "FAULTY_DEVICES", 4)
    result = own.run()
    assert set(result.kinds) == set(KINDS) - {"late"}
    assert all(tally.faults == 4 for tally in result.kinds.values())
    assert result.kinds["dropout"].in_time == 4
    assert result.kinds["range"].in_time == 4
    assert result.clean_alerts <= METRICS
    assert "a device-month" in own.table(result)
