"""How serious an alert is."""

from typing import Final, Literal, TypeAlias, get_args

Severity: TypeAlias = Literal["info", "warning", "critical"]
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
"""From the least serious to the most."""
