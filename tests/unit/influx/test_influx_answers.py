"""What InfluxDB's answers mean, from answers that InfluxDB 2.7.12 and 1.6.7 gave."""

import json

import pytest

from greenlang_iot.model.errors import SinkError
from greenlang_iot.sinks.influx_answers import (
    Verdict,
    dropped,
    judge,
    named_lines,
    retention_bound,
    retry_after,
    sort_out,
)
from greenlang_iot.sinks.influx_http import Answer

PARSE = (
    "unable to parse 'm,a=c w 2001': invalid field format\n"
    "unable to parse 'm,a=c,a= v=1 2001': missing tag value\n"
    """unable to parse '"x': missing fields"""
)
CONFLICT = (
    'failure writing points to database: partial write: field type conflict: input field "v" on '
    'measurement "m" is type float, already exists as type integer dropped=1'
)
RETENTION = (
    "failure writing points to database: partial write: dropped 2 points outside retention policy of "
    "duration 1h0m0s - oldest point m,a=b at 1970-01-01T00:00:00.000003Z dropped because it violates a "
    "Retention Policy Lower Bound at 2026-11-23T22:16:15.269541623Z, newest point m,a=b at "
    "1970-01-01T00:00:00.000003001Z dropped because it violates a Retention Policy Lower Bound at "
    "2026-11-23T22:16:15.269541623Z dropped=2 for database: d44c for retention policy: autogen"
)
BOUND = 1_795_472_175_269_541_623


def answer(status: int, message: str | None = None, **headers: str) -> Answer:
    body = b"" if message is None else json.dumps({"code": "x", "message": message}).encode()
    return Answer(status, headers, body)


def test_good_and_refused_bodies() -> None:
    assert judge(answer(204), 0) is Verdict.DONE
    assert judge(answer(400, PARSE), 0) is Verdict.REFUSED
    assert judge(answer(422, CONFLICT), 0) is Verdict.REFUSED
    assert judge(Answer(413, {}, b"<html>"), 0) is Verdict.TOO_LARGE
    one = Answer(400, {}, b'{"error":"partial write: points beyond retention policy dropped=2"}')
    assert judge(one, 0) is Verdict.REFUSED


@pytest.mark.parametrize(
    ("given", "reason", "retryable", "down"),
    [
        (answer(401, "unauthorized access"), "unauthorized", True, True),
        (answer(403, "insufficient permissions for write"), "forbidden", True, True),
        (answer(404, 'bucket "nosuch" not found'), "not_found", True, True),
        (answer(400, "Please provide either orgID or org"), "http_400", True, True),
        (Answer(400, {}, b"The plain HTTP request was sent to HTTPS port"), "http_400", True, True),
        (answer(301), "http_301", True, True),
        (
            Answer(200, {}, b"<html>Please log in"),
            "http_200",
            True,
            True,
        ),  # a proxy: nothing is written
        (answer(429, "slow down"), "http_429", True, False),
        (answer(503), "http_503", True, False),
        (answer(500, "cache-max-memory-size exceeded"), "http_500", True, False),
        (answer(500, "unable to read data: unexpected EOF"), "unreadable", False, False),
    ],
)
def test_an_outage_blames_no_line(given: Answer, reason: str, retryable: bool, down: bool) -> None:
    with pytest.raises(SinkError) as raised:
        judge(given, 0)
    assert (raised.value.reason, raised.value.retryable, raised.value.down) == (
        reason,
        retryable,
        down,
    )


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("Mon, 23 Nov 2026 22:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 21:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("86400", 300.0),  # a proxy's page for maintenance, which is long over then
        ("9" * 400, 300.0),
        ("Mon, 01 Jan 9999 00:00:00 GMT", 300.0),
        ("Mon, 01 Jan 99999999999999 00:00:00 GMT", None),
        ("Mon, 23 Nov 2026 22:00:30 +99999999999999", None),
        ("", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str, seconds: float | None) -> None:
    assert retry_after({"Retry-After": value}, 1_795_471_200.0) == seconds
    with pytest.raises(SinkError) as raised:
        judge(answer(503, **{"Retry-After": value}), 1_795_471_200.0)
    assert raised.value.retry_after == seconds


def test_named_lines_are_refused_and_the_rest_goes_again() -> None:
    lines = [b"m v=1 1", b"m,a=c w 2001", b'"x', b"m v=2 2", b"m,a=c,a= v=1 2001"]
    refused, again = sort_out(PARSE, lines)
    assert refused == [
        (b"m,a=c w 2001", "unable to parse: invalid field format"),
        (b'"x', "unable to parse: missing fields"),
        (b"m,a=c,a= v=1 2001", "unable to parse: missing tag value"),
    ]
    assert again == [[b"m v=1 1", b"m v=2 2"]]
    assert named_lines("partial write: unable to parse 'a b': bad timestamp dropped=0") == {
        "a b": "unable to parse: bad timestamp dropped=0"
    }


def test_a_message_that_names_nothing_of_ours_halves() -> None:
    lines = [b"m v=1 1", b"m v=2 2", b"m v=3 3"]
    assert sort_out("unable to parse 'other': bad timestamp", lines) == (
        [],
        [lines[:1], lines[1:]],
    )
    assert sort_out("unable to parse 'other': bad", lines[:1])[0] == [
        (b"m v=1 1", "unable to parse 'other': bad")
    ]


def test_lines_before_the_retention_bound_are_refused() -> None:
    assert retention_bound(RETENTION) == BOUND
    lines = [f"m v=1 {stamp}".encode() for stamp in (3, BOUND - 1, BOUND, BOUND + 1, BOUND + 2)]
    refused, again = sort_out(RETENTION, lines)
    assert [line for line, _ in refused] == lines[:2]
    assert again == [lines[2:]]


def test_dropped_proves_something_only_when_it_is_every_line() -> None:
    lines = [b"m v=1 1", b"m v=2 2"]
    assert sort_out(CONFLICT, lines) == ([], [lines[:1], lines[1:]])
    everything = CONFLICT.replace("dropped=1", "dropped=2")
    assert sort_out(everything, lines) == ([(line, everything) for line in lines], [])


def test_lines_with_the_field_in_conflict_are_tried_apart() -> None:
    lines = [b"m v=1 1", b"m w=2 2", b"m w=3,v=1 3", b"m vv=3 4"]
    assert sort_out(CONFLICT, lines) == ([], [[lines[1], lines[3]], [lines[0], lines[2]]])


def test_numbers_that_are_none_in_a_message_end_no_shard() -> None:
    """What answers need not be an InfluxDB that is well: lines are found by halves then."""
    lines = [b"m v=1 1", b"m v=2 2"]
    dated = "partial write: Retention Policy Lower Bound at 2026-13-45T22:16:15Z dropped=1"
    counted = "partial write: dropped=" + "9" * 5_000
    for message in (dated, counted):
        assert sort_out(message, lines) == ([], [lines[:1], lines[1:]])
    assert retention_bound(dated) is None
    assert dropped(counted) is None
