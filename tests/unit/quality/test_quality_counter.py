"""What a shard counts, against the slow twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.directory import directory
from tests.fakes.readings import readings
from tests.reference.quality import Arrival, Said, compared, truth

from greenlang_iot.model import flags
from greenlang_iot.model.batches import Reject, ScoreBatch
from greenlang_iot.quality.counter import QualityCounter, due
from greenlang_iot.quality.record import (
    ACCURATE,
    ARRIVED,
    INCONSISTENT,
    JUDGED,
    LEAST_LAG,
    NO_LAG,
    ON_TIME,
    RECEIVED,
    REJECTED,
    SLOTS,
)
from greenlang_iot.settings.model import QualitySettings

SECOND = 1_000_000_000
SLOT = 10 * SECOND
SETTINGS = QualitySettings(window=60.0, lag=20.0)
START = 1_800_000_000 * SECOND
NAMES = {
    "received": RECEIVED,
    "arrived": ARRIVED,
    "on_time": ON_TIME,
    "inconsistent": INCONSISTENT,
    "judged": JUDGED,
    "accurate": ACCURATE,
}


def give(counter: QualityCounter, arrivals: list[Arrival]) -> None:
    """One batch; all of it arrived at the moment of the first. Devices have two series each."""
    n = len(arrivals)
    batch = readings(
        [2 * a.device for a in arrivals],
        [a.ts_ns for a in arrivals],
        [0.0 if a.within in (True, None) else 9.0 for a in arrivals],
        flags=[a.flags for a in arrivals],
        received_ns=arrivals[0].received_ns,
    )
    scores = ScoreBatch(
        n,
        score=np.zeros(n, np.float32),
        detector=np.zeros(n, np.uint8),
        verdict=np.array([flags.LEARNING if a.learning else 0 for a in arrivals], np.uint8),
        expected=np.zeros(n, np.float32),
        band=np.array([np.nan if a.within is None else 1.0 for a in arrivals], np.float32),
    )
    counter.count(batch, scores, [])


ARRIVALS = st.lists(
    st.tuples(
        st.integers(0, 3),  # device
        st.integers(-90_000, 9_000),  # ms, of measurement after arrival
        st.sampled_from([0, 0, 0, flags.DUPLICATE, flags.LATE, flags.RETAINED, flags.TS_COLLISION]),
        st.booleans(),
        st.sampled_from([True, False, None]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14_000), ARRIVALS), min_size=1, max_size=14))
def test_counts_are_those_of_the_slow_twin(
    batches: list[tuple[int, list[tuple[int, int, int, bool, bool | None]]]],
) -> None:
    counter = QualityCounter(directory(4), SETTINGS, START)
    told: list[Arrival] = []
    now = START
    for wait_ms, rows in batches:
        now += wait_ms * 1_000_000
        window = counter.close(now)
        if window is not None:
            assert window.to_ns == now // SLOT * SLOT
            assert window.from_ns == max(window.to_ns - SLOTS * SLOT, START // SLOT * SLOT + SLOT)
            for device in range(4):
                wanted = truth(
                    told,
                    device,
                    window.from_ns,
                    window.to_ns,
                    window.to_ns - SLOT,
                    20 * SECOND,
                )
                found = window.records[device]
                for name, at in NAMES.items():
                    assert found[at] == wanted.counts[name], name
                least = wanted.least_lag_ms
                assert found[LEAST_LAG] == (NO_LAG if least is None else least)
        arrivals = [
            Arrival(device, now + offset * 1_000_000, now, bits, learning, within)
            for device, offset, bits, learning, within in rows
        ]
        told += arrivals
        give(counter, arrivals)


SAID = st.lists(
    st.tuples(
        st.integers(0, 3),  # device
        st.integers(-50, 50),  # seconds, of measurement
        st.integers(0, 4),  # value
        st.sampled_from(
            [0, 0, 0, flags.DUPLICATE, flags.LATE, flags.CLOCK_SUSPECT, flags.RETAINED]
        ),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=50, deadline=None)
@given(SAID, st.booleans())
def test_accuracy_against_a_reference_is_that_of_the_slow_twin(
    rows: list[tuple[int, int, int, int]], has_interval: bool
) -> None:
    """Devices 1 and 2 are compared with device 0, with different tolerances; device 3 with its band."""
    registry = directory(4, interval_s=10.0 if has_interval else 0.0)
    registry.reference[[2, 4]] = 0
    registry.tolerance[[2, 4]] = 1.0, 2.5
    counter = QualityCounter(registry, SETTINGS, START)
    counter.close(START + SLOT)
    now = START + SLOT
    said = [Said(2 * d, now + at * SECOND, float(v), bits) for d, at, v, bits in rows]
    cut = len(said) // 2  # a reference's reading holds for the batches after it, too
    for part in filter(None, (said[:cut], said[cut:])):
        give_values(counter, part, now)
    window = counter.close(now + SLOT)
    assert window is not None
    age = 20 * SECOND if has_interval else 300 * SECOND
    verdicts = compared(said, {2: 0, 4: 0}, {2: 1.0, 4: 2.5}, {0: age})
    for device in (1, 2):
        mine = [v for item, v in zip(said, verdicts, strict=True) if item.series == 2 * device]
        assert window.records[device, JUDGED] == sum(v is not None for v in mine)
        assert window.records[device, ACCURATE] == sum(v is True for v in mine)
    sound = [i for i in said if not i.flags & (flags.NOT_LEARNT | flags.CLOCK_SUSPECT)]
    for device in (0, 3):  # by the band: expected 0 ± 1
        mine = [item.value <= 1 for item in sound if item.series == 2 * device]
        assert window.records[device, JUDGED] == len(mine)
        assert window.records[device, ACCURATE] == sum(mine)


def give_values(counter: QualityCounter, said: list[Said], now: int) -> None:
    n = len(said)
    batch = readings(
        [item.series for item in said],
        [item.ts_ns for item in said],
        [item.value for item in said],
        flags=[item.flags for item in said],
        received_ns=now,
    )
    scores = ScoreBatch(
        n,
        score=np.zeros(n, np.float32),
        detector=np.zeros(n, np.uint8),
        verdict=np.zeros(n, np.uint8),
        expected=np.zeros(n, np.float32),
        band=np.ones(n, np.float32),
    )
    counter.count(batch, scores, [])


def test_a_reload_may_name_a_reference() -> None:
    counter = QualityCounter(directory(2), SETTINGS, START)
    newer = directory(2)
    newer.reference[2], newer.tolerance[2] = 0, 0.5
    counter.grow(newer)
    counter.close(START + SLOT)
    now = START + SLOT
    give_values(counter, [Said(2, now, 5.0), Said(0, now, 5.0), Said(2, now, 5.4)], now)
    window = counter.close(now + SLOT)
    assert window is not None
    assert window.records[1, JUDGED] == 1, "before the reference said anything nothing is judged"
    assert window.records[1, ACCURATE] == 1


def test_a_late_reading_completes_the_slot_it_was_measured_in() -> None:
    counter = QualityCounter(directory(1), SETTINGS, START)
    counter.close(START + 3 * SLOT)
    give(counter, [Arrival(0, START + SLOT + 5, START + 3 * SLOT + 1)])
    window = counter.close(START + 4 * SLOT)
    assert window is not None
    assert (window.from_ns, window.to_ns) == (START + SLOT, START + 4 * SLOT)
    assert window.records[0, RECEIVED] == 1
    for end in range(5, 8):
        window = counter.close(START + end * SLOT)
        assert window is not None
        assert window.records[0, RECEIVED] == 1
    window = counter.close(START + 8 * SLOT)
    assert window is not None
    assert window.records[0, RECEIVED] == 0, "its slot has left the window"
    assert window.records[0, ARRIVED] == 1, "it arrived later than that"


def test_what_comes_before_the_first_whole_slot_is_in_no_window() -> None:
    counter = QualityCounter(directory(1), SETTINGS, START + 1)
    give(counter, [Arrival(0, START + 2, START + 2)])
    assert counter.close(START + 2) is None
    assert counter.close(START + SLOT) is None
    window = counter.close(START + 2 * SLOT)
    assert window is not None
    assert window.from_ns == START + SLOT
    assert window.records[0, ARRIVED] == 0
    assert window.expected[0] == 0, "the newest slot is not due yet"
    window = counter.close(START + 4 * SLOT)
    assert window is not None
    assert window.expected[0] == pytest.approx(2 * 20 / 60)  # two series, every minute


def test_a_gap_longer_than_the_window_leaves_nothing_behind() -> None:
    counter = QualityCounter(directory(1), SETTINGS, START)
    for slot in range(10):
        give(counter, [Arrival(0, START + slot * SLOT, START + slot * SLOT)])
        counter.close(START + (slot + 1) * SLOT)
    window = counter.close(START + 1_000 * SLOT)
    assert window is not None
    assert window.records[0].tolist() == [0, 0, 0, 0, 0, 0, 0, NO_LAG]


def test_a_clock_that_is_put_right_begins_anew() -> None:
    """It was a day ahead: for a day there would have been no figures."""
    counter = QualityCounter(directory(2), SETTINGS, START + 8_640 * SLOT)
    for slot in range(8_640, 8_650):
        now = START + slot * SLOT
        counter.close(now)
        give(counter, [Arrival(0, now, now)])
    assert counter.close(START + 8_648 * SLOT) is None, "a little is waited for"
    found = counter.close(START + 8_650 * SLOT)
    assert found is not None
    assert found.records[0, ARRIVED] == SLOTS
    assert counter.close(START) is None
    for slot in range(1, 4):
        now = START + slot * SLOT
        give(counter, [Arrival(0, now - 1, now - 1)])
        window = counter.close(now)
        assert (window is not None) == (slot > 1)
    give(counter, [Arrival(0, now, now)])
    window = counter.close(now + SLOT)
    assert window is not None
    assert (window.from_ns, window.to_ns) == (START + SLOT, now + SLOT)
    assert window.records[0, [RECEIVED, ARRIVED]].tolist() == [2, 3]
    assert window.expected[0] == pytest.approx(2 * 20 / 60)


def test_rejects_count_for_the_device_that_sent_them() -> None:
    registry = directory(3)
    counter = QualityCounter(registry, SETTINGS, START)
    counter.close(START + SLOT)
    by_series = Reject(b"t", b"p", "d001", [("value", "unknown_unit")], 1, [2])
    by_name = Reject(b"t", b"p", "d002", [("", "malformed")], 0)
    unknown = Reject(b"t", b"p", "", [("", "unknown_device")], 0)
    empty = readings([], [], [])
    counter.count(empty, ScoreBatch(0, *[np.zeros(0)] * 5), [by_series, by_name, unknown])  # type: ignore[arg-type]
    window = counter.close(START + 2 * SLOT)
    assert window is not None
    assert window.records[:, REJECTED].tolist() == [0, 1, 1]
    assert window.records[:, INCONSISTENT].tolist() == [0, 1, 0]


def test_counts_stay_with_their_device_when_the_registry_grows() -> None:
    counter = QualityCounter(directory(2), SETTINGS, START)
    counter.close(START + SLOT)
    give(counter, [Arrival(1, START + SLOT, START + SLOT)])
    counter.grow(directory(3, names=["other", "d001", "new"]))
    give(counter, [Arrival(2, START + SLOT, START + SLOT)])
    window = counter.close(START + 2 * SLOT)
    assert window is not None
    assert window.records[:, ARRIVED].tolist() == [0, 1, 1]


def test_a_device_that_moves_to_another_entry_keeps_its_counts() -> None:
    """It gained a metric: its old entry is vacant, its name stands behind all others."""
    counter = QualityCounter(directory(2), SETTINGS, START)
    for slot in (1, 2):
        now = START + slot * SLOT
        counter.close(now)
        give(counter, [Arrival(0, now, now), Arrival(1, now, now)])
    counter.grow(directory(3, names=["#0", "d001", "d000"]))
    window = counter.close(START + 4 * SLOT)
    assert window is not None
    assert window.records[:, RECEIVED].tolist() == [0, 2, 2]
    assert window.records[:, ARRIVED].tolist() == [0, 2, 2]
    assert window.expected[1:].tolist() == [pytest.approx(2 * 20 / 60)] * 2


def test_a_device_is_due_from_the_slot_after_the_reload_that_brings_it() -> None:
    """Else each new device would be an incomplete one for an hour, and an alert."""
    counter = QualityCounter(directory(1), SETTINGS, START)
    end = counter.close(START + 4 * SLOT)
    assert end is not None
    counter.grow(directory(2))
    give(counter, [Arrival(1, START + 4 * SLOT + 1, START + 4 * SLOT + 2)])
    expected, received = [], []
    for slot in (5, 6, 7):
        window = counter.close(START + slot * SLOT)
        assert window is not None
        expected.append(float(window.expected[1]))
        received.append(int(window.records[1, RECEIVED]))
        now = START + slot * SLOT
        give(counter, [Arrival(1, now, now)])
    assert expected == [0.0, 0.0, pytest.approx(20 / 60)]
    assert received == [0, 0, 1]
    assert window.records[1, ARRIVED] == 3, "what arrived is judged from the first reading on"


def test_another_interval_holds_from_the_slot_after_the_reload() -> None:
    counter = QualityCounter(directory(1, interval_s=10.0), SETTINGS, START)
    counter.close(START + SLOT)
    give(counter, [Arrival(0, START + SLOT, START + SLOT)])
    counter.close(START + 2 * SLOT)
    counter.grow(directory(1, interval_s=10.0))
    window = counter.close(START + 3 * SLOT)
    assert window is not None
    assert window.expected[0] == pytest.approx(2.0), "nothing changed"
    counter.grow(directory(1, interval_s=1.0))
    window = counter.close(START + 4 * SLOT)
    assert window is not None
    assert (window.expected[0], window.records[0, RECEIVED]) == (0.0, 0)
    window = counter.close(START + 6 * SLOT)
    assert window is not None
    assert window.expected[0] == pytest.approx(20.0)


def test_what_is_due_follows_the_intervals() -> None:
    registry = directory(2, interval_s=10.0)
    registry.enabled[1] = 0
    registry.interval_ns[0] = 0
    assert due(registry).tolist() == [pytest.approx(0.1), 0.0]


@pytest.mark.parametrize("readings_a_slot", [0, 255, 256, 65_536])
def test_a_window_adds_up_slots_of_any_size_also_over_a_reload(readings_a_slot: int) -> None:
    """Slots that are over are kept as narrow as their counts; devices move and keep theirs."""
    counter = QualityCounter(directory(2), SETTINGS, START)
    begin = START // SLOT * SLOT + SLOT
    for slot, sent in enumerate((3, readings_a_slot, 300)):
        now = begin + slot * SLOT + SECOND
        counter.close(now)
        if sent:
            give(counter, [Arrival(1, now - k, now, within=k % 2 == 0) for k in range(sent)])
        counter.grow(directory(3 + slot))
    window = counter.close(begin + 3 * SLOT)
    assert window is not None
    total = 3 + readings_a_slot + 300
    found = window.records
    assert found.shape == (5, 8)
    assert found[1, [ARRIVED, ON_TIME, JUDGED]].tolist() == [total] * 3
    assert found[1, ACCURATE] == 2 + (readings_a_slot + 1) // 2 + 150
    assert found[1, INCONSISTENT] == total - len([s for s in (3, readings_a_slot, 300) if s])
    assert found[1, RECEIVED] == total - 300
    assert found[1, LEAST_LAG] == 0
    assert (found[[0, 2, 3, 4], :LEAST_LAG] == 0).all()
    assert (found[[0, 2, 3, 4], LEAST_LAG] == NO_LAG).all()
