"""`python -m tests.faults [--short] [--seeded] [--report FILE] [ROW…]`: run the fault matrix.

The last line of the output is one JSON object: rows, passed, acked_lost, unexplained_duplicates.
--seeded runs each row with the bug that it names, and expects it to fail.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.check import Verdict
from tests.faults.network import isolate
from tests.faults.report import keep, write_report
from tests.faults.rows import ROWS, Row
from tests.faults.seeded import LOSING
from tests.faults.site import Field, Site, slack
from tests.services import influxdb1, kafka_server, mosquitto_server


@dataclass(slots=True)
class Result:
    """One row's outcome. problems: why it did not pass; empty where it did. load: processes that
    wanted to run, per core of this machine. logged: the log said what the row wants. alerts: transitions
    that were in an outbox, where they are followed."""

    row: Row
    verdict: Verdict = field(default_factory=Verdict)
    recovery: float | None = None
    logged: bool = True
    errors: list[str] = field(default_factory=list)
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    load: float = 0.0
    alerts: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def bar(self) -> float:
        """The row's, longer where the machine has more to do than it has cores for."""
        return self.row.bar * max(1.0, self.load)

    @property
    def passed(self) -> bool:
        return not self.problems

    @property
    def noticed(self) -> bool:
        """Whether the row failed because of its bug, and not because the machine was slow."""
        return bool(self.verdict.acked_lost if self.row.seeded in LOSING else self.problems)


UNMEANT = (
    "a task of the shard failed",
    "unhandled in the event loop",
    "a reload failed half-way",
    "failed beside the data plane",
)
"""Errors that no fault explains: a mistake of ours, even where a restart made it good."""
BEFORE, AFTER = 2.0, 1.5
"""Seconds of load before the fault and after the recovery."""
COUNTED = (
    "shard_restarts",
    "sink_spooled_readings",
    "sink_retries",
    "disconnects",
    "pauses",
    "readings_clock_suspect",
    "messages_undecodable",
    "sink_dropped_readings",
)


def run_row(site: Site, row: Row, *, seeded: bool = False) -> Result:
    """Run one row; whatever goes wrong in it is one of its problems."""
    result = Result(row)
    begun = time.monotonic()
    field_ = Field(site, row.name, bug=row.seeded if seeded else "", **row.options)
    try:
        if row.ready:
            field_.gateway.wait_ready()
        else:
            field_.subscribed()
        load = field_.publish(row.extra(), row.seconds)
        field_.run_for(BEFORE)
        field_.said.clear()  # what it said before it was ready
        result.recovery = row.act(field_)
        result.load = slack()
        result.logged = field_.logged(row.logs)
        result.said = [reason for reason, _ in field_.said.most_common()]
        field_.run_for(AFTER)
        load.stop()
        if row.drains:
            field_.settled(forgotten=row.loses_broker)
        result.counts = {name: field_.count(name) for name in COUNTED}
        field_.gateway.stop()
        result.verdict = field_.verdict()
        result.alerts = len(field_.outboxes.durable) if field_.outboxes else 0
        result.problems += field_.alert_problems()
    except Exception as error:  # a row that breaks is a failed row; the others go on
        traceback.print_exc()
        result.problems.append(f"{type(error).__name__}: {str(error)[:2_000]}")
        with contextlib.suppress(Exception):  # what it acknowledged until then counts all the same
            site.mend()
            if field_.load is not None:
                field_.load.stop()
            field_.gateway.end()
            result.verdict = field_.verdict()
    except BaseException:  # the run is ended by a signal: no gateway stays behind
        field_.gateway.end()
        raise
    result.errors = field_.errors()
    try:
        site.mend()
        field_.close()
    except Exception as error:
        result.problems.append(f"{type(error).__name__}: {str(error)[:2_000]}")
    finally:
        site.mosquitto.forget()  # the sessions of this row's gateway would go on queueing
    result.seconds = time.monotonic() - begun
    result.problems += problems_of(result)
    return result


def problems_of(result: Result) -> list[str]:
    """What is wrong with it, one sentence each."""
    verdict, row = result.verdict, result.row
    must_be_zero = ("acked_lost", "unknown", "stray_acks", "unexplained_duplicates")
    found = [f"{name}: {count}" for name in must_be_zero if (count := getattr(verdict, name))]
    if not verdict.acked:
        found.append("nothing was acknowledged")
    if verdict.unacked and row.drains and not row.loses_broker:
        found.append(f"{verdict.unacked} confirmed messages were never acknowledged")
    if result.recovery is not None and result.recovery > result.bar:
        found.append(f"recovery took {result.recovery:.1f} s (bar {result.bar:.0f} s)")
    if not any(row.says in reason for reason in result.said or [""]):
        found.append(f"/readyz never said {row.says!r}")
    if row.counts and not result.counts.get(row.counts):
        found.append(f"{row.counts} counted nothing")
    if not result.logged:
        found.append(f"the log never said {row.logs!r}")
    unmeant = [error for error in result.errors if error.startswith(UNMEANT)]
    return found + [error for error in unmeant if not row.explains or row.explains not in error]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seeded", action="store_true")
    parser.add_argument("--report", type=Path)
    parser.add_argument("rows", nargs="*")
    arguments = parser.parse_args()
    for why in (mosquitto_server.missing(), kafka_server.missing(), influxdb1.missing()):
        if why:
            sys.exit(why)
    chosen = [
        row
        for row in ROWS
        if (row.name in arguments.rows if arguments.rows else row.short or not arguments.short)
    ]
    unknown = set(arguments.rows) - {row.name for row in chosen}
    if unknown:
        sys.exit(f"no such row: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers are stopped on the way
    isolate()  # before any thread is started
    results = []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        site = Site(Path(folder) / "site")
        try:
            for row in chosen:
                if why := row.needs():
                    print(f"skip {row.name}: {why}", flush=True)
                    continue
                result = run_row(site, row, seeded=arguments.seeded)
                results.append(result)
                _print(result, arguments.seeded)
                if arguments.report:
                    keep(result, seeded=arguments.seeded)
        finally:
            site.close()
    if arguments.report:
        write_report(arguments.report, ROWS)
    summary = {
        "rows": len(results),
        "passed": sum(result.passed for result in results),
        "acked_lost": sum(result.verdict.acked_lost for result in results),
        "unexplained_duplicates": sum(r.verdict.unexplained_duplicates for r in results),
    }
    print(json.dumps(summary), flush=True)
    if arguments.seeded:
        return 0 if all(result.noticed for result in results) else 1
    return 0 if summary["passed"] == summary["rows"] else 1


def _print(result: Result, seeded: bool) -> None:
    verdict = result.verdict
    mark = "ok  " if result.passed else "FAIL"
    if seeded:
        mark = f"{'noticed' if result.noticed else 'MISSED'} {result.row.seeded},"
    recovery = "-" if result.recovery is None else f"{result.recovery:.1f} s"
    counts = {name: int(value) for name, value in result.counts.items() if value}
    print(
        f"{mark} {result.row.name}: acked {verdict.acked}, "
        f"lost {verdict.acked_lost}, duplicates {verdict.duplicates} "
        f"(forwarded twice {verdict.explained_by_forward}, cut {verdict.explained_by_cut}), "
        f"recovery {recovery}, {result.seconds:.0f} s, load {result.load:.1f}, {counts}, said {result.said[:4]}"
    )
    for line in (*result.problems, *verdict.examples, *result.errors[:5]):
        print(f"     {line}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
