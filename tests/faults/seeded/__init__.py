"""Bugs to plant in a gateway, to see that the rows of the matrix notice them.

`sitecustomize.py` beside this file is imported by every interpreter whose PYTHONPATH has this folder, so
the planted bug is in the supervisor, in its fork server and in its shards; the product has no hook for it.
"""

import os
from pathlib import Path


def environment(bug: str, switches: Path | None = None) -> dict[str, str]:
    """What a gateway's environment needs for the bug of that name ("": none) and for the switches."""
    wanted = {"FAULTS_SEEDED_BUG": bug, "FAULTS_SWITCHES": str(switches or "")}
    planted = {name: value for name, value in wanted.items() if value}
    if not planted:
        return {}
    folder = str(Path(__file__).parent)
    path = os.pathsep.join(part for part in (folder, os.environ.get("PYTHONPATH")) if part)
    return {"PYTHONPATH": path, **planted}


LOSING = {
    "acks_first",
    "forgets_chunks",
    "forgets_failed",
    "forgets_backlog",
    "spool_lies",
    "drain_forgets",
    "dead_letters_lie",
    "letters_forgotten",
    "rates_drop",
    "trusts_the_clock",
    "damaged_ledger_releases",
    "refused_writes_count",
    "full_spool_drops",
}
"""Bugs that lose what was acknowledged: a row notices them only by that."""
