"""Our own detection benchmark: how faults and alerts are matched, and a small run of it."""

import numpy as np
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


def matched(faults: list[Fault], opened: list[Transition]) -> tuple[dict[str, own.Tally], int]:
    part = own._match(faults, opened, ["gaussian"] * 3, own.DAY)["gaussian"]
    assert part.alerts == len(opened)
    return part.kinds, part.false_alerts


def test_an_alert_belongs_to_the_fault_of_its_device_and_time() -> None:
    faults = [Fault("spike", 0, 5_000), Fault("shift", 1, 5_000)]
    kinds, false = matched(faults, [alert(0, 5_000), alert(1, 5_004), alert(2, 5_000)])
    assert (kinds["spike"].found, kinds["spike"].in_time, kinds["spike"].delays) == (1, 1, [1.0])
    assert (kinds["shift"].found, kinds["shift"].in_time, kinds["shift"].delays) == (1, 1, [5.0])
    assert false == 1


def test_late_is_late_and_before_is_false() -> None:
    faults = [Fault("shift", 0, 5_000), Fault("shift", 1, 5_000)]
    kinds, false = matched(faults, [alert(0, 5_005), alert(1, 4_999)])
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
    kinds, false = matched(faults, opened)
    assert kinds["dropout"].in_time == 1
    assert "late" not in kinds
    assert false == 2


@pytest.mark.skipif(JIT_DISABLED, reason="tens of thousands of readings take minutes without it")
def test_a_small_run_finds_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "CLEAN_DEVICES", 1)
    monkeypatch.setattr(own, "CLEAN_DAYS", 3)
    monkeypatch.setattr(own, "FAULTY_DEVICES", {})
    monkeypatch.setattr(own, "OTHER_FAULTY_DEVICES", 4)
    result = own.run()
    assert set(result.parts) == set(own.NOISES)
    part = result.parts["gaussian"]
    assert set(part.kinds) == set(KINDS) - {"late", "decoupled"}
    assert set(result.parts["coupled"].kinds) == set(KINDS) - {"late"}
    assert all(tally.faults == 4 for tally in part.kinds.values())
    assert part.kinds["dropout"].in_time == 4
    assert part.kinds["range"].in_time == 4
    assert part.clean_alerts <= METRICS
    assert "clean / device-month" in own.table(result)
    assert own.summary(result)["heavy"]["kinds"]["range"]["in_time"] == 4


@pytest.mark.parametrize(("noise", "keep"), [("gaussian", 0.0), ("ar 0.5", 0.5), ("ar 0.9", 0.9)])
def test_noise_has_unit_spread_and_the_memory_it_is_named_after(noise: str, keep: float) -> None:
    x, _ = own._noise([noise], 20_000, np.random.default_rng(1))
    assert x.std() == pytest.approx(1.0, abs=0.05)
    for column in x.T:
        assert np.corrcoef(column[1:], column[:-1])[0, 1] == pytest.approx(keep, abs=0.03)


def test_coupled_metrics_share_their_variance_and_a_decoupled_one_turns_around() -> None:
    noises = ["gaussian", "coupled"]
    fault = Fault("decoupled", 1, 1_000)
    rng = np.random.default_rng(3)
    plain = own._values(noises, 2_000, [], np.random.default_rng(3))
    x = own._values(noises, 2_000, [fault], rng)
    changed = np.argwhere(x != plain)
    assert set(changed[:, 0].tolist()) <= set(range(1_000, 1_060))
    (series,) = set(changed[:, 1].tolist())
    noise, _ = own._noise(["coupled"], 20_000, np.random.default_rng(1))
    assert np.corrcoef(noise.T)[0, 1] == pytest.approx(0.9, abs=0.02)
    assert 4 <= series < 8


def test_heavy_noise_has_far_readings() -> None:
    x, _ = own._noise(["heavy"], 20_000, np.random.default_rng(1))
    assert (np.abs(x) > 6).mean() > 1e-3
