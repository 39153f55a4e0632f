"""What one check found, and what to do about it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(slots=True, frozen=True)
class Finding:
    """subject: what was looked at (`broker default: TLS`). said: what was found. advice: what to do."""

    subject: str
    state: State
    said: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
