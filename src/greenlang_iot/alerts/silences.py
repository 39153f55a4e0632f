"""Silences and maintenance windows: which alerts nobody wants to be told of, until when, and why. Pure."""

import hashlib
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from greenlang_iot.model.errors import InputError

MATCHED: Final = ("org", "site", "type", "device", "metric", "rule", "severity")
"""Members of an alert that a silence may match."""
LONGEST_TEXT: Final = 1_000


@dataclass(slots=True, frozen=True)
class Silence:
    """Alerts that match all of `match` are not notified from `starts_ns` to `until_ns` (wall time).

    match: member of the alert → pattern with * ? and [seq], case-sensitive.
    """

    silence_id: str
    match: dict[str, str]
    reason: str
    by: str
    created_ns: int
    starts_ns: int
    until_ns: int

    def active(self, now_ns: int) -> bool:
        return self.starts_ns <= now_ns < self.until_ns

    def matches(self, alert: dict[str, Any]) -> bool:
        """alert: a transition's document."""
        return all(fnmatchcase(alert.get(k, ""), pattern) for k, pattern in self.match.items())

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.silence_id,
            "match": dict(self.match),
            "reason": self.reason,
            "by": self.by,
            "created": self.created_ns,
            "starts": self.starts_ns,
            "until": self.until_ns,
        }

    @classmethod
    def from_dict(cls, item: dict[str, Any]) -> "Silence":
        return cls(
            item["id"],
            dict(item["match"]),
            item["reason"],
            item["by"],
            item["created"],
            item["starts"],
            item["until"],
        )


def new_silence(
    match: dict[str, str], reason: str, by: str, created_ns: int, starts_ns: int, until_ns: int
) -> Silence:
    """A checked silence; its id is the same for the same content. Raises InputError."""
    problems = [
        f"match: there is no {key}; it may name {', '.join(MATCHED)}"
        for key in match
        if key not in MATCHED
    ]
    if not match:
        problems.append(f"match names at least one of {', '.join(MATCHED)}; * matches everything")
    if any(not pattern for pattern in match.values()):
        problems.append("match: a pattern is not empty")
    if not reason:
        problems.append("reason: say why, for whoever wonders later")
    if any(len(text) > LONGEST_TEXT for text in (reason, by, *match.values())):
        problems.append(f"a text has at most {LONGEST_TEXT} characters")
    if until_ns <= max(created_ns, starts_ns):
        problems.append("until lies in the past, or before the start")
    if problems:
        raise InputError("the silence is wrong", tuple(problems))
    text = "\0".join((*sorted(f"{k}={v}" for k, v in match.items()), reason, by, str(created_ns)))
    silence_id = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return Silence(silence_id, dict(match), reason, by, created_ns, starts_ns, until_ns)
