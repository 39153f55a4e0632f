"""Alerts from the message that causes them to every target: devices that leave their range, and a verdict.

What the gateway owes is known twice: from what was sent (a reading outside its range that was acknowledged
belongs to an alert), and from the outboxes, which this reads while shards write them (a transition that is
there comes to every target). What Kafka, InfluxDB and the lake hold is read by readers of their own.
"""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from tests.faults.proxy import Key

from greenlang_iot.simulate.fleet import FleetOptions, fleet_registry
from greenlang_iot.simulate.manifest import Message, Reading
from greenlang_iot.sinks.lake_query import LakeReader
from greenlang_iot.spool.format import Record
from greenlang_iot.spool.reader import SegmentReader, row_counts
from greenlang_iot.spool.status import newest_released

Document = dict[str, Any]
Step = tuple[str, str]
"""(alert id, state)"""

ALARM = "alarm"
"""Kind of a message whose reading is out of range."""
ALARMS = [f"alarm-{number}" for number in range(5)]
"""Devices that the fleet does not have and the registry has; so many at once are an incident."""
SETTINGS = {"cooldown": 0, "resolve_after": 3}
CYCLE, READINGS = 2.0, 8
"""Each device is out of range once in so many seconds, and sends so many readings in them."""
REFUSED = ("an alert is refused by a target", "InfluxDB refused an alert")
"""Said of a transition that will not arrive, which a row brings about by false answers."""


def alarms(seconds: float) -> Iterator[Message]:
    """Messages of all of them: a reading out of range, then readings that resolve its alert."""
    registry = fleet_registry(FleetOptions(devices=100, seed=7, history=20))
    first = registry["devices"][0]
    metric, wanted = sorted(registry["types"][first["type"]]["metrics"].items())[0]
    low, high = map(float, wanted["range"])
    step = CYCLE / READINGS / len(ALARMS)
    for number in range(int(seconds / step)):
        device = ALARMS[number % len(ALARMS)]
        turn = number // len(ALARMS)
        ts_ns = time.time_ns()
        bad = turn % READINGS == 0
        value = high + (high - low) if bad else low + (high - low) * (0.5 + 0.01 * (turn % 5))
        topic = f"greenlang/{first['org']}/{first['site']}/{device}/telemetry"
        body = f'{{"ts":{ts_ns},"metric":"{metric}","value":{value},"seq":{turn}}}'.encode()
        reading = Reading(device, metric, ts_ns, value, turn)
        if bad:
            # the reading stays known, for the alert; it must not arrive
            yield Message(number * step, topic, body, [], (("value", "out_of_range"),), ALARM)
        else:
            yield Message(number * step, topic, body, [reading], (), "")


class OutboxWatch:
    """Reads every outbox of a gateway ten times a second until `stop`; changes nothing there."""

    def __init__(self, data_dir: Path) -> None:
        self.durable: list[Document] = []
        """Transitions that were in an outbox, in order per outbox."""
        self._data_dir = data_dir
        self._readers: dict[Path, SegmentReader] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._end.set()
        self._thread.join(10)
        self._look()

    def delivered(self) -> bool:
        return delivered(self._data_dir)

    def _run(self) -> None:
        while not self._end.wait(0.1):
            self._look()

    def _look(self) -> None:
        for folder in sorted((self._data_dir / "outbox").glob("*")):
            reader = self._readers.setdefault(folder, SegmentReader(folder, sync=False))
            for item in reader.poll():
                if isinstance(item, Record):
                    self.durable += [t | {"outbox": folder.name} for t in json.loads(item.body)]


def delivered(data_dir: Path) -> bool:
    """Whether the parent says that it took every transition from the outboxes, and that every target has all of
    its journal."""
    for outbox in (data_dir / "outbox").glob("*"):
        state = outbox / "open.json"
        position = json.loads(state.read_text())["position"] if state.exists() else 0
        if position <= _newest(outbox):
            return False
    journal = data_dir / "alerts" / "journal"
    return newest_released(journal) >= _newest(journal)


def _newest(log: Path) -> int:
    """Number of a log's newest record; -1: it has none."""
    return max((number for number, _ in row_counts(log)), default=-1)


@dataclass(slots=True)
class Arrived:
    """What the targets hold, and what they refused.

    kafka: in order per alert. state: the last value of every key of the compacted topic. influx, lake:
    None where the target is off. refused: alerts of which a target said no to a transition for good.
    """

    kafka: list[Document] = field(default_factory=list)
    state: dict[str, bytes | None] = field(default_factory=dict)
    influx: set[Step] | None = None
    lake: set[Step] | None = None
    refused: set[str] = field(default_factory=set)


def lake_steps(lake: Path) -> set[Step]:
    rows = LakeReader(lake).query("SELECT DISTINCT alert_id, state FROM alerts")
    return set(zip(rows.column(0).to_pylist(), rows.column(1).to_pylist(), strict=True))


def influx_steps(points: Iterable[Document]) -> set[Step]:
    """points: as the stand-in gives them."""
    return {
        (p["fields"]["alert_id"], p["tags"]["state"])
        for p in points
        if p["measurement"] == "alerts"
    }


def refused_in(log: str) -> set[str]:
    """Alerts of which the gateway's log says that a target will not have a transition."""
    found = set()
    for line in log.splitlines():
        if any(words in line for words in REFUSED):
            said = json.loads(line)
            if "transition_id" in said:
                found.add(said["transition_id"].rpartition("-")[0])
            else:
                found.add(said["line"].partition('alert_id="')[2].partition('"')[0])
    return found


def judge_alerts(
    durable: Iterable[Document],
    sent: Mapping[Key, Message],
    acked: Iterable[Key],
    arrived: Arrived,
    forwarded: Mapping[Key, float],
) -> list[str]:
    """What is wrong, one sentence each. acked: of `sent`, without what nobody can foresee. forwarded: when
    the gateway first got a message; what came after newer readings of its device opens no alert."""
    written = list(durable)
    steps = {(t["alert_id"], t["state"]) for t in written}
    places = {"kafka": {(t["alert_id"], t["state"]) for t in arrived.kafka}}
    if arrived.influx is not None:
        places["influxdb"] = arrived.influx
    if arrived.lake is not None:
        places["lake"] = arrived.lake
    found = [
        f"alert {alert_id} {state}: in an outbox, not in {place}"
        for place, there in places.items()
        for alert_id, state in sorted(steps - there)
        if place == "lake" or alert_id not in arrived.refused
    ]
    by_id: dict[str, list[Document]] = defaultdict(list)
    for transition in arrived.kafka:
        by_id[transition["alert_id"]].append(transition)
    last = {i: max(ts, key=lambda t: int(t["number"])) for i, ts in by_id.items()}
    for alert_id, transitions in by_id.items():
        if alert_id in arrived.refused:
            continue
        numbers = list(dict.fromkeys(t["number"] for t in transitions))
        if numbers != sorted(numbers):
            found.append(f"alert {alert_id}: Kafka has its transitions in the order {numbers}")
        is_over = last[alert_id]["state"] == "resolved"
        if (alert_id, "resolved") in steps and not is_over:
            found.append(f"alert {alert_id}: resolved in an outbox, in Kafka it ends otherwise")
        if (arrived.state.get(alert_id) is None) != is_over:
            found.append(f"alert {alert_id}: the compacted topic does not say how it ends")
        if last[alert_id]["detector"] == "incident":
            members = [last[m]["state"] for m in last[alert_id]["members"] if m in last]
            if is_over != all(state == "resolved" for state in members):
                found.append(f"incident {alert_id} ends {last[alert_id]['state']}: {members}")
    open_now = [t for t in last.values() if t["state"] != "resolved"]
    return found + _uncovered(
        sent,
        acked,
        written,
        [t for t in open_now if t["alert_id"] not in arrived.refused],
        forwarded,
    )


def _uncovered(
    sent: Mapping[Key, Message],
    acked: Iterable[Key],
    written: Iterable[Document],
    open_now: Iterable[Document],
    forwarded: Mapping[Key, float],
) -> list[str]:
    """Acknowledged readings out of range that belong to no alert; alerts that their readings did not end."""
    newest: dict[str, Document] = {}
    for transition in written:
        known = newest.setdefault(transition["alert_id"], transition)
        if transition["number"] > known["number"]:
            newest[transition["alert_id"]] = transition
    episodes = _by_alarm(newest.values())
    found = []
    times: dict[str, list[int]] = defaultdict(list)
    in_order = _in_order(forwarded)
    for key in acked:
        message = sent.get(key)
        if message is None or message.kind != ALARM:
            continue
        device, ts_ns = _origin(key)
        times[device].append(ts_ns)
        if key in in_order and not any(
            e["opened"] <= ts_ns
            and (e["state"] != "resolved" or ts_ns <= max(e["at"], e["opened"]))
            for e in episodes[device]
        ):
            near = [(e["opened"], e["at"], e["state"]) for e in episodes[device]]
            near.sort(key=lambda e: abs(e[0] - ts_ns))
            found.append(
                f"{device} was out of range at {ts_ns}, acknowledged, and there is no alert: {near[:3]}"
            )
    for device, alerts in _by_alarm(open_now).items():
        settled = sorted(times[device])[-3:][0] if times[device] else 0
        found += [
            f"alert {e['alert_id']} of {device} is left open: since {e['opened']}, {settled} is past"
            for e in alerts
            if e["opened"] < settled
        ]
    return found


def _origin(key: Key) -> tuple[str, int]:
    """(device, time) of a message of `alarms`."""
    return key[0].split("/")[3], int(orjson.loads(key[1])["ts"])


def _in_order(forwarded: Mapping[Key, float]) -> set[Key]:
    """Messages of `alarms` that were forwarded before every newer one of their device."""
    by_device: dict[str, list[tuple[int, float, Key]]] = defaultdict(list)
    for key, at in forwarded.items():
        if key[0].split("/")[3:4] and key[0].split("/")[3] in ALARMS:
            device, ts_ns = _origin(key)
            by_device[device].append((ts_ns, at, key))
    found = set()
    for messages in by_device.values():
        earliest = float("inf")  # of the newer ones
        for _, at, key in sorted(messages, reverse=True):
            if at <= earliest:
                found.add(key)
            earliest = min(earliest, at)
    return found


def _by_alarm(transitions: Iterable[Document]) -> dict[str, list[Document]]:
    found: dict[str, list[Document]] = defaultdict(list)
    for transition in transitions:
        if transition["rule"] == "range" and transition["device"] in ALARMS:
            found[transition["device"]].append(transition)
    return found
