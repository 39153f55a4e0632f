"""The fleet's good messages in other payload formats, each with the entry of `mqtt.formats` that reads it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cbor2
import orjson
import ormsgpack

from greenlang_iot.devices.catalog import Document
from greenlang_iot.formats.sparkplug_proto import Payload
from greenlang_iot.settings.model import FormatSettings
from greenlang_iot.simulate.manifest import Message, Reading

BIRTH_EVERY = 10.0
"""Seconds after which a simulated edge node is born again: it hears no request for a rebirth."""

_Write = Callable[[Sequence[Reading]], bytes]

ENTRIES = {
    entry.format: entry
    for entry in (
        FormatSettings(
            topic="mapped/{org}/{site}/{device}",
            format="json-map",
            options={
                "each": "data.points",
                "ts": "at",
                "metric": "name",
                "value": "v.now",
                "seq": "no",
            },
        ),
        FormatSettings(topic="cbor/{org}/{site}/{device}", format="cbor"),
        FormatSettings(topic="msgpack/{org}/{site}/{device}", format="messagepack"),
        FormatSettings(topic="senml/{org}/{site}/{device}", format="senml-json"),
        FormatSettings(topic="senmlc/{org}/{site}/{device}", format="senml-cbor"),
        FormatSettings(topic="lines/{org}/{site}/{device}", format="line-protocol"),
        FormatSettings(
            topic="plain/{org}/{site}/{device}/{metric}", format="plain", missing_ts="receive_time"
        ),
        FormatSettings(topic="spBv1.0/{org}/{type}/{site}/{device}", format="sparkplug-b"),
    )
}


def in_format(
    name: str, messages: Iterator[Message], places: dict[str, tuple[str, str]]
) -> Iterator[Message]:
    """The messages without faults in their payload, written in another format.

    places: (org, site) of each device. Readings keep their `seq` only where the format has one.
    """
    good = (message for message in messages if not message.rejects)
    if name == "sparkplug-b":
        yield from _sparkplug(good, places)
        return
    template = ENTRIES[name].topic
    for message in good:
        device = message.readings[0].device
        org, site = places[device]
        names = {"org": org, "site": site, "device": device}
        if name == "plain":
            for reading in message.readings:
                topic = template.format(**names, metric=reading.metric)
                yield Message(
                    message.when, topic, b"%a" % reading.value, [reading], (), message.kind
                )
            continue
        readings = message.readings
        if name not in _WITH_SEQ:
            readings = [reading._replace(seq=None) for reading in readings]
        payload = _WRITERS[name](readings)
        yield Message(message.when, template.format(**names), payload, readings, (), message.kind)


def places(document: Document) -> dict[str, tuple[str, str]]:
    """Where a registry's devices are."""
    return {entry["id"]: (entry["org"], entry["site"]) for entry in document["devices"]}


def _objects(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    items = []
    for reading in readings:
        item = {"metric": reading.metric, "ts": reading.ts_ns // 1_000_000, "value": reading.value}
        items.append(item if reading.seq is None else item | {"seq": reading.seq})
    return items


def _mapped(readings: Sequence[Reading]) -> bytes:
    points = [
        {"at": item["ts"], "name": item["metric"], "v": {"now": item["value"]}}
        | ({"no": item["seq"]} if "seq" in item else {})
        for item in _objects(readings)
    ]
    return orjson.dumps({"data": {"points": points}})


def _senml(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Whole ms as decimal seconds, relative to the base time."""
    base = readings[0].ts_ns // 1_000_000_000
    records: list[dict[str, Any]] = [{"bn": f"urn:dev:ops:{readings[0].device}:", "bt": base}]
    for reading in readings:
        ms = (reading.ts_ns - base * 1_000_000_000) // 1_000_000
        records.append({"n": reading.metric, "t": ms / 1000, "v": reading.value})
    return records


_SENML_LABELS = {"bn": -2, "bt": -3, "n": 0, "v": 2, "t": 6}


def _senml_cbor(readings: Sequence[Reading]) -> bytes:
    records = [{_SENML_LABELS[k]: v for k, v in record.items()} for record in _senml(readings)]
    return cbor2.dumps(records)


def _lines(readings: Sequence[Reading]) -> bytes:
    lines = (f"fleet,device={r.device} {r.metric}={r.value!r} {r.ts_ns}" for r in readings)
    return "\n".join(lines).encode()


_WITH_SEQ = ("json-map", "cbor", "messagepack")
_WRITERS: dict[str, _Write] = {
    "json-map": _mapped,
    "cbor": lambda readings: cbor2.dumps(_objects(readings)),
    "messagepack": lambda readings: ormsgpack.packb(_objects(readings)),
    "senml-json": lambda readings: orjson.dumps(_senml(readings)),
    "senml-cbor": _senml_cbor,
    "line-protocol": _lines,
}


def _sparkplug(messages: Iterator[Message], where: dict[str, tuple[str, str]]) -> Iterator[Message]:
    """Each site is an edge node: group = org, node = site; births name metrics, data uses aliases."""
    nodes: dict[tuple[str, str], _EdgeNode] = {}
    for message in messages:
        device = message.readings[0].device
        node = nodes.setdefault(where[device], _EdgeNode(*where[device]))
        readings = [reading._replace(seq=None) for reading in message.readings]
        for kind, payload in node.births(message, readings):
            suffix = f"/{device}" if kind == "DBIRTH" else ""
            yield Message(
                message.when, f"spBv1.0/{node.group}/{kind}/{node.name}{suffix}", payload, []
            )
        topic = f"spBv1.0/{node.group}/DDATA/{node.name}/{device}"
        yield Message(message.when, topic, node.data(readings), readings, (), message.kind)


class _EdgeNode:
    def __init__(self, group: str, name: str) -> None:
        self.group, self.name = group, name
        self._born = -BIRTH_EVERY
        self._seq = self._bd_seq = -1
        self._aliases: dict[tuple[str, str], int] = {}
        self._known: dict[str, dict[str, Reading]] = {}  # by device and metric, as first heard of
        self._alive: set[str] = set()  # devices born since the node was

    def births(self, message: Message, readings: Sequence[Reading]) -> Iterator[tuple[str, bytes]]:
        """(type, payload) of the births that are due before these readings of a device."""
        if message.when - self._born >= BIRTH_EVERY:
            self._born = message.when
            self._seq, self._bd_seq = -1, self._bd_seq + 1
            self._alive.clear()
            payload = Payload(timestamp=readings[0].ts_ns // 1_000_000, seq=self._next())
            payload.metrics.add(name="bdSeq", datatype=4, long_value=self._bd_seq)
            payload.metrics.add(name="Node Control/Rebirth", datatype=11, boolean_value=False)
            yield "NBIRTH", payload.SerializeToString()
        device = readings[0].device
        known = self._known.setdefault(device, {})
        if device in self._alive and all(reading.metric in known for reading in readings):
            return
        for reading in readings:
            known.setdefault(reading.metric, reading)
        self._alive.add(device)
        payload = Payload(seq=self._next())
        for reading in known.values():
            metric = self._metric(payload, reading)
            metric.name, metric.datatype = reading.metric, 10
        yield "DBIRTH", payload.SerializeToString()

    def data(self, readings: Sequence[Reading]) -> bytes:
        """A DDATA payload: aliases alone."""
        payload = Payload(seq=self._next())
        for reading in readings:
            self._metric(payload, reading)
        data: bytes = payload.SerializeToString()
        return data

    def _metric(self, payload: Any, reading: Reading) -> Any:
        return payload.metrics.add(
            alias=self._aliases.setdefault((reading.device, reading.metric), len(self._aliases)),
            timestamp=reading.ts_ns // 1_000_000,
            double_value=reading.value,
        )

    def _next(self) -> int:
        self._seq = (self._seq + 1) & 255
        return self._seq
