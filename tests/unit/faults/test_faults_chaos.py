"""The schedule of overlapping faults: the same for the same seed, one fault of a part at a time."""

from itertools import pairwise

from tests.faults.chaos import FAULTS, schedule


def test_the_same_seed_gives_the_same_schedule() -> None:
    assert schedule(3, 60.0, []) == schedule(3, 60.0, [])
    assert schedule(3, 60.0, []) != schedule(4, 60.0, [])


def test_a_part_has_one_fault_at_a_time_and_all_of_them_end() -> None:
    planned = schedule(1, 600.0, list(FAULTS))
    assert {p.part for p in planned} == set(FAULTS)
    for part in FAULTS:
        mine = [p for p in planned if p.part == part]
        assert all(0 < p.begins < p.ends <= 600.0 for p in mine)
        assert all(one.ends < other.begins for one, other in pairwise(mine))


def test_faults_of_different_parts_overlap() -> None:
    planned = schedule(1, 600.0, ["kafka", "disk"])
    kafka = [p for p in planned if p.part == "kafka"]
    disk = [p for p in planned if p.part == "disk"]
    assert any(k.begins < d.ends and d.begins < k.ends for k in kafka for d in disk)


def test_parts_can_be_picked() -> None:
    assert {p.part for p in schedule(5, 300.0, ["disk", "clock"])} == {"disk", "clock"}
