"""The body of a webhook: JSON text in which `${summary}` and other members of an alert are put. Pure."""

import json
import re
from typing import Any, Final

PLACEHOLDER: Final = re.compile(r"\$(?:\$|\{([a-z_]+)\})")
EXAMPLE: Final[dict[str, Any]] = {
    "alert_id": "8f0c2c1f6f0e4a7b",
    "transition_id": "8f0c2c1f6f0e4a7b-1",
    "number": 1,
    "state": "open",
    "rule": "spike",
    "severity": "warning",
    "org": "acme",
    "site": "north",
    "device": "em-1",
    "metric": "power",
    "opened": 1,
    "at": 1,
    "value": 1.5,
    "expected": None,
    "band": None,
    "score": 0.5,
    "detector": "spike",
    "summary": 'power of em-1 read "1.5" kW',
    "flags": [],
    "type": "meter",
    "labels": {},
    "runbook": "",
    "by": "",
    "comment": "",
    "group": "",
    "members": [],
    "members_total": 0,
}
"""What a template may name, with values to try it with."""


def render(template: str, alert: dict[str, Any]) -> bytes:
    """The template with the alert's members in it; `$$` is a dollar sign.

    Within a JSON string a text stands as it is, escaped; elsewhere numbers, null, lists and objects
    stand as JSON. A member that the alert has not is empty.
    """

    def put(found: re.Match[str]) -> str:
        if found[1] is None:
            return "$"
        value = alert.get(found[1], "" if isinstance(EXAMPLE.get(found[1]), str) else None)
        return json.dumps(value)[1:-1] if isinstance(value, str) else json.dumps(value)

    return PLACEHOLDER.sub(put, template).encode()


def body_problem(template: str) -> str | None:
    """What is wrong with a template, as a sentence's end; None if nothing."""
    for found in PLACEHOLDER.finditer(template):
        if found[1] is not None and found[1] not in EXAMPLE:
            return f"there is no ${{{found[1]}}}; known: {', '.join(EXAMPLE)}"
    try:
        json.loads(render(template, EXAMPLE))
    except ValueError as error:
        return f"with an alert in it, it is not JSON: {error}"
    return None
