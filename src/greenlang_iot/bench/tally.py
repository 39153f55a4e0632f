"""What a counting sink knows of each device, and how it answers the headline."""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from greenlang_iot.bench import kernels_check as check
from greenlang_iot.bench.inbox import SPARE
from greenlang_iot.bench.workload import FIRST_SEQ
from greenlang_iot.model.batches import I64, U8, U64


class Tally:
    """Checks bodies of line protocol and record batches of the workload, device by device."""

    def __init__(self, devices: int, start_ms: int) -> None:
        self._start_ms = start_ms
        self._next: I64 = np.ones(devices, np.int64)
        self._ahead: U64 = np.zeros(devices, np.uint64)
        self._found: I64 = np.zeros(check.FOUND, np.int64)
        spare = np.zeros(SPARE, np.uint8)
        self.lines(spare, 0)
        self.records(spare, 0, 0, 0)

    def lines(self, data: U8, size: int) -> tuple[int, int]:
        """(telemetry lines, other lines) of a body, data[:size], which has SPARE bytes behind it."""
        return check.check_lines(
            data, size, self._start_ms, self._next, self._ahead, self._found
        )  # fmt: skip

    def records(self, data: U8, first: int, stop: int, base_ms: int) -> int:
        """The records of an uncompressed batch, data[first:stop], which has SPARE bytes behind it."""
        return check.check_records(
            data, first, stop, base_ms, FIRST_SEQ,
            self._start_ms, self._next, self._ahead, self._found,
        )  # fmt: skip

    def counts(self) -> dict[str, int]:
        """What was wrong so far; `gaps`: devices of which a later reading came and an earlier not."""
        found = self._found.tolist()
        return {
            "readings": int(self._next.sum()) - len(self._next),
            "malformed": found[check.MALFORMED],
            "wrong_value": found[check.WRONG_VALUE],
            "duplicate": found[check.DUPLICATE],
            "lost": found[check.LOST],
            "disordered": found[check.AHEAD],
            "gaps": int(np.count_nonzero(self._ahead)),
        }


class Delay:
    """How long a counting sink keeps its answers back; `delay SECONDS` on its stdin sets it."""

    seconds = 0.0


async def answer_stdin(port: int, counts: Callable[[], dict[str, int]]) -> None:
    """Print the port; then for every line on stdin the counts; returns at its end."""
    gc.collect()
    gc.freeze()  # going through what was imported would hold an answer up for 40 ms
    print(port, flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        if line.startswith(b"delay "):
            Delay.seconds = float(line[6:])
        print(json.dumps({**counts(), "cpu_s": time.process_time()}), flush=True)
