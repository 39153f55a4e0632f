"""Child processes of a run: start, ask, CPU time to the nanosecond, and which core."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from greenlang_iot.model.errors import GatewayError

PATIENCE = 60.0
"""Seconds for a child to start or to answer."""


class Child:
    """A command that runs; ours are told by lines on stdin and answer by lines on stdout.

    cores: where it may run. log: file for its stderr. environment: on top of this process's.
    """

    def __init__(
        self,
        command: Sequence[object],
        *,
        cores: set[int],
        log: Path,
        environment: dict[str, str] | None = None,
        answers: bool = True,
    ) -> None:
        self.module = " ".join(map(str, command[2:4]))
        self._log = log
        with open(log, "ab") as stderr:
            self.process = subprocess.Popen(  # noqa: S603 (our own modules, or what was asked for)
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if answers else stderr,
                stderr=stderr,
                text=True,
                env=os.environ | (environment or {}),
                preexec_fn=partial(os.sched_setaffinity, 0, cores),  # before it counts the cores
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def line(self) -> str:
        """The next line of its stdout. GatewayError with the end of its log where it has none."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise GatewayError(f"{self.module} ended: {self.log()}")
        return line.strip()

    def log(self) -> str:
        """The end of its stderr."""
        return self._log.read_text()[-2000:]

    def ask(self, word: str = "stats") -> dict[str, Any]:
        """Its answer to a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.line())
        return answer

    def stop(self) -> None:
        """End of stdin, SIGTERM, and at last SIGKILL."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(15.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def family(pid: int) -> list[int]:
    """A process and all its descendants that live."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def cpu_ns(pids: list[int]) -> int:
    """CPU time of these processes, all threads, user and system."""
    # clock_getcpuclockid(3): the process' CPU clock, kept by the scheduler, not sampled
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids)


def rss_bytes(pids: list[int]) -> int:
    """Resident bytes of these processes; what they share counts once (proportional set size)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def cores() -> tuple[set[int], set[int]]:
    """(the gateway's core, everybody else's)."""
    known = sorted(os.sched_getaffinity(0))
    return {known[-1]}, set(known[:-1] or known)
