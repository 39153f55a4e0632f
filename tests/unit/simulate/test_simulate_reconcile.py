"""The manifest's file, and a reconciliation that notices every single difference."""

from dataclasses import replace
from pathlib import Path

import pytest

from greenlang_iot.model.errors import InputError
from greenlang_iot.model.outcomes import DeadLetter
from greenlang_iot.simulate.manifest import (
    Expected,
    Header,
    Manifest,
    ManifestWriter,
    Message,
    Reading,
    read,
)
from greenlang_iot.simulate.reconcile import EXAMPLES, FoundAlert, Reconciliation, reconcile

A = Reading("d1", "temperature", 1_000, 20.5, 7)
B = Reading("d1", "humidity", 1_000, 48.0, 7)
C = Reading("d2", "temperature", 2_000, -3.25)
D = Reading("d3", "temperature", 3_000, 1.0)
SPIKE = Expected("d1", "temperature", "spike", 900, 1_100)
SILENCE = Expected("d2", "", "silence", 2_000, 9_000)

GOOD = Message(0.0, "t/d1", b"good", [A, B])
MIXED = Message(0.1, "t/d2", b"\xffmixed", [C], (("values.x", "unknown_metric"),), "unknown_metric")
BAD = Message(0.2, "t/d2", b"{", [], (("", "malformed"),), "truncated")
LETTERS = [
    DeadLetter("message", 0, topic="t/d2", payload=b"\xffmixed", paths=(("x", "unknown_metric"),)),
    DeadLetter("message", 0, topic="t/d2", payload=b"{", paths=(("", "malformed"),)),
]


def manifest(*extra: tuple[Message, bool]) -> Manifest:
    made = Manifest(Header(1, 3, 500, 9_000, ["real"]), [SPIKE, SILENCE])
    for message, confirmed in ((GOOD, True), (MIXED, True), (BAD, True), *extra):
        made.add(message, confirmed)
    return made


def counts(result: Reconciliation) -> dict[str, int]:
    """The differences that are not 0."""
    names = ("missing", "wrong_value", "unexpected", "repeated", "missing_rejects")
    names += ("unexpected_rejects", "repeated_rejects", "missed", "false_alerts")
    return {n: getattr(result, n) for n in names if getattr(result, n)}


def test_what_was_published_is_found() -> None:
    result = reconcile(manifest(), [C, B, A], LETTERS, None)
    assert result.ok
    assert counts(result) == {}
    assert (result.readings, result.found, result.rejects) == (3, 3, 2)


@pytest.mark.parametrize(
    ("rows", "difference"),
    [
        ([A, B], {"missing": 1}),
        ([A, B, C._replace(value=-3.5)], {"missing": 1, "wrong_value": 1}),
        ([A, B, C, C._replace(ts_ns=2_001)], {"unexpected": 1}),
        ([A._replace(seq=8), B, C], {"missing": 1, "unexpected": 1}),
        ([A._replace(seq=None), B, C], {"missing": 1, "unexpected": 1}),
        ([A, B, C, D], {"unexpected": 1}),
        ([], {"missing": 3}),
    ],
)
def test_every_difference_of_readings_is_noticed(
    rows: list[Reading], difference: dict[str, int]
) -> None:
    result = reconcile(manifest(), rows, LETTERS, None)
    assert not result.ok
    assert counts(result) == difference
    assert {len(result.examples[name]) for name in difference} <= {1, 3}


def test_repetitions_are_counted_and_no_fault() -> None:
    again = replace(GOOD, kind="duplicate")
    result = reconcile(manifest((again, True)), [A, A, B, C], [*LETTERS, LETTERS[0]], None)
    assert result.ok
    assert counts(result) == {"repeated": 1, "repeated_rejects": 1}


def test_without_seq_the_identity_is_device_metric_and_time() -> None:
    rows = [r._replace(seq=None) for r in (A, B, C)]
    assert reconcile(manifest(), rows, LETTERS, None, with_seq=False).ok


def test_two_values_of_one_identity() -> None:
    other = A._replace(value=21.0)
    published = manifest((Message(0.3, "t/d1", b"x", [other], kind="collision"), True))
    assert reconcile(published, [A, other, B, C], LETTERS, None).ok
    assert counts(reconcile(published, [A, B, C], LETTERS, None)) == {"missing": 1}
    for kept in (A, other):
        assert reconcile(published, [kept, B, C], LETTERS, None, one_value=True).ok
    lost = reconcile(published, [B, C], LETTERS, None, one_value=True)
    assert counts(lost) == {"missing": 1}


def test_an_unconfirmed_message_may_arrive_or_not() -> None:
    maybe = Message(0.3, "t/d3", b"maybe", [D], (("y", "not_a_number"),))
    published = manifest((maybe, False))
    letter = DeadLetter(
        "message", 0, topic="t/d3", payload=b"maybe", paths=(("y", "not_a_number"),)
    )
    assert reconcile(published, [A, B, C], LETTERS, None).ok
    arrived = reconcile(published, [A, B, C, D], [*LETTERS, letter], None)
    assert arrived.ok
    assert arrived.unconfirmed == 1


@pytest.mark.parametrize(
    ("letters", "difference"),
    [
        (LETTERS[:1], {"missing_rejects": 1}),
        ([], {"missing_rejects": 2}),
        (
            [LETTERS[0], replace(LETTERS[1], paths=(("", "too_large"),))],
            {"missing_rejects": 1, "unexpected_rejects": 1},
        ),
        (
            [LETTERS[0], replace(LETTERS[1], payload=b"[")],
            {"missing_rejects": 1, "unexpected_rejects": 1},
        ),
        ([*LETTERS, replace(LETTERS[0], topic="t/d9")], {"unexpected_rejects": 1}),
    ],
)
def test_every_difference_of_dead_letters_is_noticed(
    letters: list[DeadLetter], difference: dict[str, int]
) -> None:
    result = reconcile(manifest(), [A, B, C], letters, None)
    assert not result.ok
    assert counts(result) == difference


def test_a_line_refused_by_a_sink_is_no_reject_of_a_message() -> None:
    line = DeadLetter("line", 0, sink="influxdb", payload=b"x")
    assert reconcile(manifest(), [A, B, C], [*LETTERS, line], None).ok


def test_nothing_to_reconcile_is_not_ok() -> None:
    assert not reconcile(Manifest(Header(1, 0, 0, 0)), [], [], []).ok


@pytest.mark.parametrize(
    ("alerts", "difference"),
    [
        ([("d1", "temperature", "spike", 1_000), ("d2", "x", "silence", 3_000)], {}),
        ([("d1", "temperature", "rate", 1_000), ("d2", "x", "silence", 3_000)], {}),
        ([("d1", "temperature", "spike", 1_000)], {"missed": 1}),
        ([("d1", "temperature", "stuck", 1_000)], {"missed": 2}),  # about it, and not it
        ([("d1", "humidity", "spike", 1_000)], {"missed": 2, "false_alerts": 1}),
        ([("d1", "temperature", "spike", 1_200)], {"missed": 2, "false_alerts": 1}),
        ([("d3", "temperature", "spike", 1_000)], {"missed": 2, "false_alerts": 1}),
        ([("real", "flow", "shift", 1_000), ("", "", "outage", 1_000)], {"missed": 2}),
        ([("d1", "humidity", "silence", 9_000)], {"missed": 2}),  # after the end all are silent
    ],
)
def test_alerts_are_judged_beside_the_data(
    alerts: list[tuple[str, str, str, int]], difference: dict[str, int]
) -> None:
    result = reconcile(manifest(), [A, B, C], LETTERS, [FoundAlert(*a) for a in alerts])
    assert result.ok
    assert counts(result) == difference
    assert result.anomalies == 2


def test_examples_are_bounded() -> None:
    many = [A._replace(ts_ns=10_000 + i) for i in range(50)]
    result = reconcile(manifest(), [A, B, C, *many], LETTERS, None)
    assert result.unexpected == 50
    assert len(result.examples["unexpected"]) == EXAMPLES


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    made = manifest((replace(GOOD, kind="duplicate"), False))
    path = tmp_path / "m.jsonl"
    with ManifestWriter(path, made.header, made.expected) as writer:
        for message in (GOOD, MIXED, BAD):
            writer.add(message, True)
        writer.add(replace(GOOD, kind="duplicate"), False)
    assert read(path) == made


def test_a_manifest_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    with ManifestWriter(path, Header(1, 1, 0, 0), []) as writer:
        writer.add(GOOD, True)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(InputError, match="not complete"):
        read(path)
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="no line of a manifest"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="not complete"):
        read(path)
