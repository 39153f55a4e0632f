"""A whole run: the seeded fleet and, beside it, the replay of a recorded series."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from greenlang_iot.simulate import replay
from greenlang_iot.simulate.fleet import Fleet, FleetOptions, fleet_registry
from greenlang_iot.simulate.manifest import Expected, Header, Message


@dataclass(slots=True)
class Scenario:
    """header, expected: for the manifest. messages: in the order of `when`, to be taken once."""

    header: Header
    expected: list[Expected]
    messages: Iterator[Message]


def registry(options: FleetOptions, *, waterflow: bool) -> dict[str, Any]:
    """The registry document that a gateway needs for `scenario` with the same arguments."""
    document = fleet_registry(options)
    if waterflow:
        replay.add_device(document)
    return document


def scenario(options: FleetOptions, start_ns: int, *, waterflow: bool) -> Scenario:
    """The run that starts at `start_ns` (wall clock, ns since 1970)."""
    fleet = Fleet(options, start_ns)
    if not waterflow:
        return Scenario(fleet.header, fleet.expected, fleet.messages())
    fleet.header.unjudged.append(replay.DEVICE)
    recorded = replay.messages(
        registry(options, waterflow=True),
        options.topic,
        start_ns,
        options.backlog_seconds,
        options.seconds,
    )
    merged = heapq.merge(fleet.messages(), recorded, key=lambda message: message.when)
    return Scenario(fleet.header, fleet.expected, merged)
