"""Results of ladders as JSON files, with what they were measured on; and two of them compared."""

import math
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from greenlang_iot.model.errors import InputError

PACKAGES = ("greenlang-iot", "numba", "numpy", "orjson", "uvloop", "aiokafka", "aiohttp")


@dataclass(slots=True, frozen=True)
class Judged:
    """A rung of two runs, in units a message. noise: of their difference.

    figure: `ratio_paired` (each stretch of load by its own bursts) where both runs have it, else `ratio`.
    """

    name: str
    figure: str
    before: float
    after: float
    noise: float

    @property
    def verdict(self) -> str:
        if abs(self.after - self.before) <= self.noise:
            return "no difference that shows"
        return "slower" if self.after > self.before else "faster"


def environment() -> dict[str, Any]:
    """Of this process."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
        "versions": {name: version(name) for name in PACKAGES},
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """Of the checkout that this runs from; "+" where something in it is changed; None: no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def write(folder: Path, name: str, rows: list[dict[str, Any]], wrong: list[str]) -> Path:
    """NAME.json in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"name": name, "environment": environment(), "wrong": wrong, "rows": rows}
    path = folder / f"{name}.json"
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
    return path


def read(path: Path) -> dict[str, Any]:
    """Results as written. Raises InputError."""
    try:
        document: dict[str, Any] = orjson.loads(path.read_bytes())
        if not isinstance(document["rows"], list):
            raise TypeError("rows is no list")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no results of a ladder: {error}") from error
    return document


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Judged]:
    """The rungs that both have. Raises InputError where there is none."""
    known = {row["name"]: row for row in before["rows"] if "ratio" in row}
    judged = [
        _judge(old, row)
        for row in after["rows"]
        if (old := known.get(row["name"])) is not None and "ratio" in row
    ]
    if not judged:
        raise InputError("the two have no rung in common")
    return judged


def _judge(old: dict[str, Any], new: dict[str, Any]) -> Judged:
    figure = "ratio_paired" if "ratio_paired" in old and "ratio_paired" in new else "ratio"
    noise = math.hypot(_noise(old, figure), _noise(new, figure))
    return Judged(new["name"], figure, old[figure], new[figure], noise)


def _noise(row: dict[str, Any], figure: str) -> float:
    """Half of what lies between p10 and p90: of the paired ratio itself where the row says it, else of the
    cost and of the unit."""
    if figure == "ratio_paired" and "ratio_paired_p90" in row:
        return float(row["ratio_paired_p90"] - row["ratio_paired_p10"]) / 2
    cost = (row["cpu_ns_p90"] - row["cpu_ns_p10"]) / row["cpu_ns_per_message"]
    return float(row[figure] * math.hypot(cost, row["spread"]) / 2)
