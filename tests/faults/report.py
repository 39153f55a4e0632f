"""The filled matrix as a table in the documentation, between two marks."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.__main__ import Result

BEGIN, END = "<!-- matrix -->", "<!-- end of the matrix -->"


def write_report(path: Path, results: "Sequence[Result]") -> None:
    """Replace what stands between the marks."""
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n{_table(results)}\n{END}{after}")


def _table(results: "Sequence[Result]") -> str:
    passed = sum(result.passed for result in results)
    lines = [
        f"Commit `{_commit()}`: {len(results)} rows, {passed} passed.",
        "",
        "| fault | messages acked | lost | duplicates (forwarded twice / cut) | recovery (bar) "
        "| what it said | seen failing with |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for result in results:
        verdict, row = result.verdict, result.row
        recovery = "–" if result.recovery is None else f"{result.recovery:.1f} s ({row.bar:.0f})"
        said = "; ".join(result.said[:2]) or "–"
        told = ", ".join(f"{n} {int(v)}" for n, v in result.counts.items() if v)
        mark = "" if result.passed else f" **failed: {'; '.join(result.problems)[:200]}**"
        lines.append(
            f"| {row.what}{mark} | {verdict.acked} | {verdict.acked_lost} | {verdict.duplicates} "
            f"({verdict.explained_by_forward} / {verdict.explained_by_cut}) | {recovery} "
            f"| {said}; {told} | `{row.seeded}` |"
        )
    return "\n".join(lines)


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run(
        ["git", "status", "--porcelain", "src", "tests"], capture_output=True, text=True, check=True
    ).stdout
    return commit + (" and what was not committed" if changed.strip() else "")
