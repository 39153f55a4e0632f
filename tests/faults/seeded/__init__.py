"""Bugs to plant in a gateway, to see that the rows of the matrix notice them.

`sitecustomize.py` beside this file is imported by every interpreter whose PYTHONPATH has this folder, so
the planted bug is in the supervisor, in its fork server and in its shards; the product has no hook for it.
"""

import os
from pathlib import Path

VARIABLE = "FAULTS_SEEDED_BUG"


def environment(bug: str) -> dict[str, str]:
    """What a gateway's environment needs for the bug of that name; nothing for no bug."""
    if not bug:
        return {}
    folder = str(Path(__file__).parent)
    path = os.pathsep.join(part for part in (folder, os.environ.get("PYTHONPATH")) if part)
    return {"PYTHONPATH": path, VARIABLE: bug}
