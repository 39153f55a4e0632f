"""What the rows came to: kept in a file, row by row, and shown as a table in the documentation.

A row's result stands until the row is run again, with the commit at which it ran.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.faults.__main__ import Result
    from tests.faults.rows import Row

KEPT = Path(__file__).with_name("results.json")
BEGIN, END = "<!-- matrix -->", "<!-- end of the matrix -->"


def keep(result: "Result", *, seeded: bool) -> None:
    """Remember the result of one row, or that it failed with its bug."""
    kept = _kept()
    row = kept.setdefault(result.row.name, {})
    if seeded:
        row["seeded"] = {
            "bug": result.row.seeded,
            "failed": result.noticed,
            "with": "; ".join(result.problems)[:160].partition("\n")[0],
            "commit": _commit(),
        }
    else:
        verdict = result.verdict
        row |= {
            "commit": _commit(),
            "passed": result.passed,
            "problems": [problem[:160].partition("\n")[0] for problem in result.problems],
            "acked": verdict.acked,
            "lost": verdict.acked_lost,
            "duplicates": verdict.duplicates,
            "forwarded_twice": verdict.explained_by_forward,
            "cut": verdict.explained_by_cut,
            "recovery": None if result.recovery is None else round(result.recovery, 1),
            "load": round(result.load, 1),
            "said": result.said[:2],
            "counts": {name: int(value) for name, value in result.counts.items() if value},
        }
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def write_report(path: Path, rows: "Sequence[Row]") -> None:
    """Replace what stands between the marks by the table of what is kept."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{_table(rows)}\n{END}{after}")


def _table(rows: "Sequence[Row]") -> str:
    kept = _kept()
    ran = [row for row in rows if "passed" in kept.get(row.name, {})]
    results = [kept[row.name] for row in ran]
    failed = [kept[row.name] for row in rows if kept.get(row.name, {}).get("seeded")]
    lines = [
        f"{len(rows)} rows; {len(ran)} have run, {sum(r['passed'] for r in results)} passed, "
        f"{sum(r['acked'] for r in results):,} messages acknowledged, "
        f"{sum(r['lost'] for r in results)} of them lost. "
        f"{sum(r['seeded']['failed'] for r in failed)} of {len(failed)} rows tried with a "
        "seeded bug failed with it.",
        "",
        "| fault | acked | lost | duplicates (forwarded twice / cut) | recovery, s (bar; load per "
        "core) | what it said | commit | seeded bug |",
        "|---|---:|---:|---:|---:|---|---|---|",
    ]
    lines += [_line(row, kept.get(row.name, {})) for row in rows]
    return "\n".join(lines)


def _line(row: "Row", result: dict[str, Any]) -> str:
    seeded = result.get("seeded")
    bug = f"`{row.seeded}`: " + (
        (seeded["with"] if seeded["failed"] else "**not noticed**") if seeded else "not tried"
    )
    if "passed" not in result:
        return f"| {row.what} |  |  |  |  | not run |  | {bug} |"
    recovery = "–"
    if result["recovery"] is not None:
        load = "–" if result["load"] is None else result["load"]
        recovery = f"{result['recovery']} ({row.bar:.0f}; {load})"
    told = ", ".join(f"{name} {count:,}" for name, count in result["counts"].items())
    said = "; ".join(part for part in (*result["said"], told) if part) or "–"
    mark = "" if result["passed"] else f" **failed: {'; '.join(result['problems'])}**"
    return (
        f"| {row.what}{mark} | {result['acked']:,} | {result['lost']} | {result['duplicates']} "
        f"({result['forwarded_twice']} / {result['cut']}) | {recovery} | {said} "
        f"| `{result['commit']}` | {bug} |"
    )


def _kept() -> dict[str, dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return kept


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
