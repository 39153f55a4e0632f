"""What bytes from outside can be given to, as functions of bytes that raise only where something is wrong.

Three drivers call them: hypothesis in the unit tests, `tests.fuzz.guided` with atheris, and whoever
reproduces a found case.
"""

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
from tests.fakes.directory import directory
from tests.reference.mqtt import publish
from tests.unit.decode.test_decode_fuzz import assert_as_twin

from greenlang_iot.alerts.expressions import compiled
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices.registry import parse as parse_registry
from greenlang_iot.encode import deadletter
from greenlang_iot.formats.base import Payload, PayloadFormat
from greenlang_iot.formats.catalog import BUILT_IN, make
from greenlang_iot.formats.topics import TopicTemplate
from greenlang_iot.model.errors import InputError, MqttError
from greenlang_iot.mqtt.session import Event, Session
from greenlang_iot.runtime.rules import load_rules
from greenlang_iot.settings.load import load as load_settings
from greenlang_iot.settings.model import AlertSettings, BrokerSettings, DetectSettings
from greenlang_iot.spool.format import FormatError, Record
from greenlang_iot.spool.reader import Segment, read_segment

NOW = 1_714_566_896_789_000_000
TEMPLATE = TopicTemplate("greenlang/{org}/{site}/{device}/telemetry")
GOLDEN = Path(__file__).parent.parent / "unit" / "spool" / "golden-v1.seg"


def session(data: bytes) -> None:
    """A broker that sends `data` after its CONNACK: at once or in pieces, the same comes of it.

    The first byte chooses the protocol version and where the stream is cut.
    """
    if data:
        version5, cut = bool(data[0] & 1), data[0] >> 1
        whole = _talk(data[1:], version5, len(data))
        assert _talk(data[1:], version5, cut) == whole


def _talk(data: bytes, version5: bool, cut: int) -> tuple[list[tuple[bytes, bytes]], str]:
    """(messages, how it ended) of a connection."""
    settings = BrokerSettings(protocol="5" if version5 else "3.1.1", maximum_packet_size=4_096)
    one = Session(settings, "fuzz", ["a/#"], 1, 65_536, lambda: 1)
    one.connect(0.0)
    granted = b"\x20\x03\x00\x00\x00" if version5 else b"\x20\x02\x00\x00"
    granted += b"\x90\x04\x00\x01\x00\x01" if version5 else b"\x90\x03\x00\x01\x01"
    messages: list[tuple[bytes, bytes]] = []
    try:
        for piece in (granted, data[:cut], data[cut:]):
            one.framer.space()[: len(piece)] = piece
            one.received(len(piece), 0.0)
            while True:
                try:
                    event = one.advance()
                finally:  # as a link does: also what came before a packet that ends it
                    frames = one.take(0)
                    messages += [(frames.topic(i), frames.payload(i)) for i in range(frames.n)]
                if event in (Event.NEED_DATA, Event.BLOCKED):
                    break
            one.framer.compact()
    except MqttError as error:
        return messages, error.reason
    return messages, "open"


def topic(data: bytes) -> None:
    """A topic names three levels of the topic it was read from, or nothing."""
    place = TEMPLATE.parse(data)
    if place is not None:
        names = (place.org.encode(), place.site.encode(), place.device.encode())
        assert b"greenlang/%b/%b/%b/telemetry" % names == data
        assert b"/" not in b"".join(names)


def json_payload(data: bytes) -> None:
    """Scanner, orjson and the slow twin read the same."""
    assert_as_twin([(b"greenlang/acme/site-0/d000/telemetry", data, False)])


def other_payload(data: bytes) -> None:
    """Every other format gives readings or ValueError; the first byte chooses it."""
    if not data:
        return
    name = sorted(BUILT_IN)[data[0] % len(BUILT_IN)]
    sparkplug = name == "sparkplug-b"
    kind = ("NBIRTH", "DBIRTH", "DDATA", "NDATA", "NDEATH", "DDEATH")[data[0] // 16 % 6]
    heard = f"spBv1.0/group/{kind}/node/device" if sparkplug else "t/m/d"
    with suppress(ValueError):
        for reading in _format(name).read(Payload(data[1:], heard, "m", NOW)):
            assert isinstance(reading.metric, str)
            assert isinstance(reading.seq, int)


@cache
def _format(name: str) -> PayloadFormat:
    options = {"json-map": {"ts": "t", "metrics": {"a": "b.0"}}}
    return make(name, options.get(name, {}))


def spool_segment(data: bytes) -> None:
    """A segment in which anything may stand: only what was written comes out of it."""
    written = _bodies(GOLDEN)
    with tempfile.TemporaryDirectory(dir=os.environ.get("FUZZ_FOLDER")) as folder:
        segment = Segment.named(Path(folder), 1)
        segment.path.write_bytes(data)
        with suppress(FormatError):
            for item in read_segment(segment):
                assert not isinstance(item, Record) or item.body in written


@cache
def _bodies(path: Path) -> frozenset[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        segment = Segment.named(Path(folder), 1)
        segment.path.write_bytes(path.read_bytes())
        return frozenset(i.body for i in read_segment(segment) if isinstance(i, Record))


def checkpoint(data: bytes) -> None:
    """State that was tampered with is refused with the reason, or is whole."""
    with suppress(ValueError):
        Detector(directory(2), DetectSettings()).restore(data)


def config(data: bytes) -> None:
    """A settings file gives settings, or every mistake as a sentence."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("FUZZ_FOLDER")) as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(data)
        with suppress(InputError):
            load_settings(path, {})


def alert_rules(data: bytes) -> None:
    """A rule file gives rules whose expressions can be asked, or every mistake as a sentence."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("FUZZ_FOLDER")) as folder:
        path = Path(folder) / "rules.yaml"
        path.write_bytes(data)
        with suppress(InputError):
            for rule in load_rules(AlertSettings(rules_file=path)).rules:
                if rule.expression is not None:
                    expression = compiled(rule.expression.holds)
                    columns = {name: np.zeros(3) for name in expression.metrics}
                    assert expression.holds(columns).shape in ((3,), ())


def registry(data: bytes) -> None:
    """A registry gives a Directory, or every mistake as a sentence."""
    with suppress(InputError):
        parse_registry(data)


def dead_letter(data: bytes) -> None:
    """A line of a dead letter file is one, or ValueError."""
    with suppress(ValueError):
        deadletter.ident(deadletter.decode(data))


TARGETS: dict[str, Callable[[bytes], None]] = {
    one.__name__: one
    for one in (
        session, topic, json_payload, other_payload, spool_segment, checkpoint, config, registry,
        alert_rules, dead_letter,
    )
}  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """Inputs that go deep into a target, to begin with."""
    root = Path(__file__).parents[2]
    match name:
        case "session":
            packets = [
                publish(b"t/1", b"x", 5),
                b"\xd0\x00",
                b"\xe0\x02\x8e\x00",
                b"\x40\x02\x00\x01",
            ]
            alias = publish(b"t", b"", 1, properties=b"\x23\x00\x02") + publish(
                b"", b"y", 2, properties=b"\x23\x00\x02"
            )
            return [bytes([n]) + b"".join(packets[:n]) for n in range(1, 5)] + [b"\x0d" + alias]
        case "topic":
            return [b"greenlang/acme/s/d/telemetry", b"greenlang/a/\xc3\xa9/d/telemetry"]
        case "spool_segment":
            return [GOLDEN.read_bytes()]
        case "checkpoint":
            return [Detector(directory(2), DetectSettings()).checkpoint()]
        case "config":
            return [
                (root / "config" / "iot-config.yaml").read_bytes(),
                b"mqtt: {brokers: [{port: 1}]}",
            ]
        case "alert_rules":
            return [
                (root / "devices" / "alert-rules.yaml").read_bytes(),
                b"version: 1\nrules: [{name: a, stuck: 5m}]",
                b"{version: 1, rules: [{name: a, expression: 'abs(x) > 1 and not (y < 2 or x == 3)'}]}",
            ]
        case "registry":
            small = b'{"version":1,"types":{"m":{"metrics":{"p":{"unit":"W","range":[0,1]}}}},"devices":[{"id":"a","org":"o","site":"s","type":"m"}]}'
            return [small, (root / "devices" / "devices-registry.json").read_bytes()]
        case "dead_letter":
            return [
                b'{"v":1,"kind":"message","ts":1,"readings":1,"device":"d","topic":"t","payload":"e30=","paths":[{"path":"value","reason":"x"}]}'
            ]
    reading = b'{"ts":1714566896,"metric":"temperature","value":21.5,"unit":"Cel","seq":1}'
    return [
        reading,
        b"\x00" + reading,
        b"[%b,%b]" % (reading, reading),
        b'\x03[{"n":"a","v":1,"t":1}]',
    ]
