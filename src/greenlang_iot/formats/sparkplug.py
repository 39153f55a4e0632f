"""Sparkplug B (3.0): births, data, deaths, aliases, sequence numbers.

An edge node is a session: its births give metrics names, types and aliases, its data may use the aliases
alone, and everything it sends is numbered 0 to 255 in one row (`seq`). What is remembered is bounded; whatever
is not known for sure is not guessed: an alias without its birth, or after a gap in `seq` (the birth that
would have changed it may be what is missing), is `unknown_alias`, and the node is asked for a rebirth.
A value that its source calls bad or stale (property `Quality`) is `bad_quality`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError
from pydantic import BaseModel, ConfigDict, Field

from greenlang_iot.formats.base import PATH_NAME, Payload, Reading
from greenlang_iot.formats.sparkplug_proto import Payload as Message
from greenlang_iot.model.batches import Publication
from greenlang_iot.model.reasons import Reason

REBIRTH = "Node Control/Rebirth"
BD_SEQ = "bdSeq"
_CONTROL = ("Node Control/", "Device Control/")
_SIGNED_BITS = {1: 8, 2: 16, 3: 32, 4: 64}
"""Datatypes Int8 to Int64: sent in unsigned fields as two's complement."""
_DATE_TIME = 13
_REBIRTH_EVERY_NS = 10_000_000_000
"""A node is asked for a rebirth at most so often."""
_REBIRTH_IN_VAIN_NS = 600_000_000_000
"""The same where its births are known and lack the alias: another one may well lack it, too."""
_GOOD = 192
"""The `Quality` of a value that is neither bad (0) nor stale (500)."""
_COMPRESSED = "SPBV1.0_COMPRESSED"
"""The `uuid` of a payload that is compressed as Eclipse Tahu does it, which is not in the specification."""

_Known = tuple[str, int]
"""Name and datatype of a metric."""


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    max_nodes: int = Field(1_000, ge=1, le=100_000)
    max_metrics_per_node: int = Field(5_000, ge=1, le=1_000_000)


@dataclass(slots=True)
class _Node:
    """What the births of an edge node said. known: by device ("" is the node), by alias and by name."""

    key: tuple[str, str]  # group and node
    known: dict[str, dict[int | str, _Known]] = field(default_factory=dict)
    seq: int = -1  # the last one; −1: no birth since we listen, or a gap
    bd_seq: int = -1
    is_full: bool = False  # births gave more metrics than are remembered
    asked_ns: int = -_REBIRTH_EVERY_NS

    def forget(self) -> None:
        self.known.clear()
        self.seq = -1
        self.is_full = False


class SparkplugB:
    """Options: `max_nodes` and `max_metrics_per_node` bound what is remembered.

    Beyond `max_nodes` the node not heard of for longest is forgotten. One object per shard, and all
    messages of a node must come to it.
    """

    def __init__(self, **options: Any) -> None:
        chosen = _Options.model_validate(options)
        self._max_nodes = chosen.max_nodes
        self._max_metrics = chosen.max_metrics_per_node
        self._nodes: OrderedDict[tuple[str, str], _Node] = OrderedDict()
        self._due: dict[
            tuple[str, str], int
        ] = {}  # nodes to be asked for a rebirth: ns between asking
        self._gaps = 0

    def read(self, payload: Payload) -> Sequence[Reading]:
        _, group, kind, name, *rest = payload.topic.split("/")
        reader = _READERS.get(kind)
        if reader is None:
            return []  # commands to nodes
        try:
            message = Message.FromString(payload.data)
        except DecodeError as error:
            raise ValueError("not a Sparkplug B payload") from error
        if message.uuid == _COMPRESSED or (message.body and not message.metrics):
            raise ValueError("what it holds is in its body, which is not read")
        return reader(self, self._node(group, name), rest[0] if rest else "", message)

    def take_gaps(self) -> int:
        """Messages missing by `seq`, since the last call."""
        gaps, self._gaps = self._gaps, 0
        return gaps

    def publications(self, now_ns: int) -> list[Publication]:
        """NCMD with Node Control/Rebirth for nodes whose aliases are not known."""
        wanted: list[Publication] = []
        for key, every_ns in list(self._due.items()):
            node = self._nodes[key]
            if now_ns - node.asked_ns >= every_ns:
                del self._due[key]
                node.asked_ns = now_ns
                command = Message(timestamp=now_ns // 1_000_000)
                command.metrics.add(name=REBIRTH, datatype=11, boolean_value=True)
                topic = f"spBv1.0/{key[0]}/NCMD/{key[1]}"
                wanted.append(Publication(topic, command.SerializeToString()))
        return wanted

    def _node(self, group: str, name: str) -> _Node:
        node = self._nodes.get((group, name))
        if node is None:
            node = self._nodes[group, name] = _Node((group, name))
            if len(self._nodes) > self._max_nodes:
                forgotten, _ = self._nodes.popitem(last=False)
                self._due.pop(forgotten, None)
        self._nodes.move_to_end((group, name))
        return node

    def _node_birth(self, node: _Node, device: str, message: Any) -> list[Reading]:
        node.forget()
        self._due.pop(node.key, None)
        node.seq = message.seq & 255
        node.bd_seq = _bd_seq(message)
        return self._birth(node, device, message)

    def _device_birth(self, node: _Node, device: str, message: Any) -> list[Reading]:
        self._count(node, message)
        return self._birth(node, device, message)

    def _birth(self, node: _Node, device: str, message: Any) -> list[Reading]:
        node.known.pop(device, None)
        if node.seq < 0:
            return _readings(message, {})  # names stand in it; what it says of aliases may be old
        room = self._max_metrics - sum(map(len, node.known.values()))
        known: dict[int | str, _Known] = {}
        for metric in message.metrics:
            if metric.name and len(known) + 2 > room:
                node.is_full = True
            elif metric.name:
                known[metric.name] = (metric.name, metric.datatype)
                if metric.HasField("alias"):
                    known[metric.alias] = known[metric.name]
        node.known[device] = known
        return _readings(message, known)

    def _data(self, node: _Node, device: str, message: Any) -> list[Reading]:
        self._count(node, message)
        known = node.known.get(device, {})
        readings = _readings(message, known)
        if not known:
            self._due[node.key] = _REBIRTH_EVERY_NS
        elif not node.is_full and any(r.value is Reason.UNKNOWN_ALIAS for r in readings):
            self._due.setdefault(node.key, _REBIRTH_IN_VAIN_NS)
        return readings

    def _node_death(self, node: _Node, device: str, message: Any) -> list[Reading]:
        # The will of an earlier connection may come after the birth of the next one.
        if node.bd_seq < 0 or _bd_seq(message) == node.bd_seq:
            node.forget()
        return []

    def _device_death(self, node: _Node, device: str, message: Any) -> list[Reading]:
        self._count(node, message)
        node.known.pop(device, None)
        return []

    def _count(self, node: _Node, message: Any) -> None:
        """Follow `seq`; after a gap nothing that births said is trusted."""
        if not message.HasField("seq"):
            return
        seq = message.seq & 255
        if node.seq >= 0 and seq != (node.seq + 1) & 255:
            self._gaps += (seq - node.seq - 1) & 255
            node.forget()
        elif node.seq >= 0:
            node.seq = seq
        if node.seq < 0:
            self._due[node.key] = _REBIRTH_EVERY_NS


_READERS = {
    "NBIRTH": SparkplugB._node_birth,
    "DBIRTH": SparkplugB._device_birth,
    "NDATA": SparkplugB._data,
    "DDATA": SparkplugB._data,
    "NDEATH": SparkplugB._node_death,
    "DDEATH": SparkplugB._device_death,
}


def _bd_seq(message: Any) -> int:
    for metric in message.metrics:
        if metric.name == BD_SEQ:
            return int(metric.long_value or metric.int_value)
    return -1


def _readings(message: Any, known: dict[int | str, _Known]) -> list[Reading]:
    readings: list[Reading] = []
    sent = message.timestamp if message.HasField("timestamp") else None
    for i, metric in enumerate(message.metrics):
        name, datatype = metric.name, metric.datatype
        if not name or not datatype:
            found = known.get(name or (metric.alias if metric.HasField("alias") else ""))
            if found is not None:
                name, datatype = found[0], datatype or found[1]
        if not name:
            readings.append(Reading(f"metrics[{i}]", "", Reason.UNKNOWN_ALIAS, None))
        elif name != BD_SEQ and not name.startswith(_CONTROL):
            at = metric.timestamp if metric.HasField("timestamp") else sent
            path = f"metrics[{i}].{name[:PATH_NAME]}"
            readings.append(Reading(path, name, _value(metric, datatype), _ns(at)))
    return readings


def _ns(ms: int | None) -> int | Reason | None:
    if ms is None:
        return None
    return ms * 1_000_000 if ms < 2**63 // 1_000_000 else Reason.TS_INVALID


def _is_good(metric: Any) -> bool:
    """Whether its source does not call the value bad or stale."""
    properties = metric.properties
    return all(
        (value.int_value or value.long_value) == _GOOD
        for key, value in zip(properties.keys, properties.values, strict=False)
        if key == "Quality"
    )


def _value(metric: Any, datatype: int) -> Any:
    """The number in it: true and false count 1 and 0; what is no number is not_a_number."""
    if metric.HasField("properties") and not _is_good(metric):
        return Reason.BAD_QUALITY
    which = metric.WhichOneof("value")
    if which is None or which == "string_value" or metric.is_null or datatype == _DATE_TIME:
        return Reason.NOT_A_NUMBER
    value = getattr(metric, which)
    if which == "boolean_value":
        return int(value)
    bits = _SIGNED_BITS.get(datatype)
    if bits and type(value) is int:
        value &= (1 << bits) - 1
        return value - (1 << bits) if value >> (bits - 1) else value
    return value
