"""What a run did, in numbers: read from the shards' counters when they have drained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from greenlang_iot.model.severity import SEVERITIES
from greenlang_iot.observe.catalog import (
    MESSAGE_REASONS,
    READING_REASONS,
    STATES,
    cell,
)
from greenlang_iot.observe.counters import Counters
from greenlang_iot.observe.health import enabled_sinks
from greenlang_iot.settings.model import Settings


@dataclass(slots=True, frozen=True)
class Summary:
    """Messages and readings are counted apart: received_messages and acked count messages,
    received_readings, delivered and duplicates readings; `dead_letter` has a reason each, whole messages
    that could not be decoded under reasons of their own."""

    received_messages: int
    received_readings: int
    delivered: dict[str, int]
    duplicates: int
    dead_letter: dict[str, int]
    alerts: dict[str, int]
    acked: int
    duration_s: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "received_messages": self.received_messages,
            "received_readings": self.received_readings,
            "delivered": self.delivered,
            "duplicates": self.duplicates,
            "dead_letter": self.dead_letter,
            "alerts": self.alerts,
            "acked": self.acked,
            "duration_s": round(self.duration_s, 3),
        }


def summarize(settings: Settings, shards: Mapping[int, Counters], duration_s: float) -> Summary:
    """Add the shards up."""

    def total(name: str) -> int:
        return int(sum(counters.total(name) for counters in shards.values()))

    def one(name: str, **labels: str) -> int:
        index = cell(name, **labels)
        return int(sum(counters.get(index) for counters in shards.values()))

    reasons = {r: one("messages_undecodable", reason=r) for r in MESSAGE_REASONS}
    reasons |= {r: one("readings_rejected", reason=r) for r in READING_REASONS}
    delivered = {
        name: one("sink_delivered_readings", sink=name) for name in enabled_sinks(settings)
    }
    refused = sum(one("sink_refused_readings", sink=name) for name in enabled_sinks(settings))
    if refused:
        reasons["sink_refused"] = refused
    alerts = {
        state: sum(one("alert_transitions", state=state, severity=s) for s in SEVERITIES)
        for state in STATES
    }
    return Summary(
        received_messages=total("messages_received"),
        received_readings=total("readings_decoded"),
        delivered=delivered,
        duplicates=total("readings_duplicate"),
        dead_letter={reason: count for reason, count in reasons.items() if count},
        alerts={state: count for state, count in alerts.items() if count},
        acked=total("acks_sent"),
        duration_s=duration_s,
    )
