"""What a sink says of a chunk, what the dead letter keeps, who is silent, what an alert transition is."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from greenlang_iot.model.batches import F64, I32, I64


@dataclass(slots=True, frozen=True)
class Refused:
    """One line or record that a sink refused for good: its encoded bytes and the sink's answer."""

    body: bytes
    answer: str
    readings: int = 1


@dataclass(slots=True)
class Outcome:
    """A chunk is done: `delivered` readings are durable in the sink, `refused` never will be."""

    delivered: int
    refused: list[Refused] = field(default_factory=list)


@dataclass(slots=True, frozen=True)
class DeadLetter:
    """One dead letter, as it is stored (JSON, schema v1 in docs/schemas/).

    kind: "message" (rejected at decode: `topic`, `payload`, `paths`), "line" (refused by a sink:
    `sink`, `payload` = its encoded bytes, `answer`) or "digest" (past the bound: `count`, `digest`).
    """

    kind: str
    ts_ns: int
    device: str = ""
    topic: str = ""
    payload: bytes = b""
    paths: tuple[tuple[str, str], ...] = ()
    readings: int = 0
    sink: str = ""
    answer: str = ""
    count: int = 0
    digest: str = ""


@dataclass(slots=True, frozen=True)
class Silences:
    """Series whose next reading is overdue. Columns of equal length.

    last_seen_ns: event time of the newest reading; 0 for a series that never sent one.
    overdue_ns: how long ago the next reading should have come, in event time.
    """

    series: I32
    last_seen_ns: I64
    overdue_ns: I64
    never: npt.NDArray[np.bool_]  # registered, and not heard of since the start


@dataclass(slots=True, frozen=True)
class Standing:
    """How some series stand, for somebody who looks at them. Columns of equal length.

    seen: has anything ever come; where not, the others say nothing. last_ts: event time (ns) of the
    newest reading that was learnt. quiet_ns: since the last arrival, outages left out; −1: none since
    the start. expected, band: what the next reading should be (± band); NaN where nothing can be said.
    """

    seen: npt.NDArray[np.bool_]
    last_ts: I64
    last_value: F64
    quiet_ns: I64
    learning: npt.NDArray[np.bool_]
    expected: F64
    band: F64


@dataclass(slots=True, frozen=True)
class Transition:
    """One change of one alert's state. `alert_id` + `number` identify it for ever.

    state: "pending", "open", "acknowledged", "resolved". severity: "info", "warning", "critical".
    scope: (org, site, device, metric), with "" for what does not apply.
    What stands after `flags` is left out of the document where it is empty.
    """

    alert_id: str
    number: int
    state: str
    rule: str
    severity: str
    org: str
    site: str
    device: str
    metric: str
    opened_ns: int  # event time of the reading that opened it
    at_ns: int  # event time of this transition
    value: float | None
    expected: float | None
    band: float | None
    score: float  # in [0, 1]
    detector: str
    summary: str = ""
    flags: tuple[str, ...] = ()  # "silenced", "flapping"
    type: str = ""  # of the device
    labels: dict[str, str] = field(default_factory=dict)  # of the rule
    runbook: str = ""  # of the rule
    by: str = ""  # who acknowledged it
    comment: str = ""
    group: str = ""  # id of the incident that it belongs to
    members: tuple[str, ...] = ()  # of an incident: alert ids, of many the first
    members_total: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The transition as plain JSON types (schema v1 in docs/schemas/)."""
        document: dict[str, Any] = {
            "v": 1,
            "alert_id": self.alert_id,
            "transition_id": f"{self.alert_id}-{self.number}",
            "number": self.number,
            "state": self.state,
            "rule": self.rule,
            "severity": self.severity,
            "org": self.org,
            "site": self.site,
            "device": self.device,
            "metric": self.metric,
            "opened": self.opened_ns,
            "at": self.at_ns,
            "value": self.value,
            "expected": self.expected,
            "band": self.band,
            "score": self.score,
            "detector": self.detector,
            "summary": self.summary,
            "flags": list(self.flags),
        }
        more: dict[str, Any] = {
            "type": self.type,
            "labels": dict(self.labels),
            "runbook": self.runbook,
            "by": self.by,
            "comment": self.comment,
            "group": self.group,
            "members": list(self.members),
            "members_total": self.members_total,
        }
        return document | {name: value for name, value in more.items() if value}

    @classmethod
    def from_dict(cls, item: dict[str, Any]) -> "Transition":
        """The transition that `as_dict` made this of."""
        return cls(
            alert_id=item["alert_id"],
            number=item["number"],
            state=item["state"],
            rule=item["rule"],
            severity=item["severity"],
            org=item["org"],
            site=item["site"],
            device=item["device"],
            metric=item["metric"],
            opened_ns=item["opened"],
            at_ns=item["at"],
            value=item["value"],
            expected=item["expected"],
            band=item["band"],
            score=item["score"],
            detector=item["detector"],
            summary=item["summary"],
            flags=tuple(item["flags"]),
            type=item.get("type", ""),
            labels=dict(item.get("labels", {})),
            runbook=item.get("runbook", ""),
            by=item.get("by", ""),
            comment=item.get("comment", ""),
            group=item.get("group", ""),
            members=tuple(item.get("members", ())),
            members_total=item.get("members_total", 0),
        )
