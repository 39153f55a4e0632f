"""What a device sends stays data: no other device's tags, no line, no key, no log line, no escape."""

import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import structlog
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from tests.fakes import lineprotocol
from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory
from tests.fakes.readings import scores
from typer.testing import CliRunner

from greenlang_iot.cli import query, terminal
from greenlang_iot.cli.alert_lines import json_line, line
from greenlang_iot.cli.main import app, main
from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.encode.bodies import pieces
from greenlang_iot.encode.deadletter import decode as read_letter
from greenlang_iot.encode.deadletter import encode, from_rejects
from greenlang_iot.encode.lines import LineEncoder
from greenlang_iot.encode.records import RecordEncoder
from greenlang_iot.model.batches import Decoded
from greenlang_iot.model.errors import InputError
from greenlang_iot.observe.logs import configure
from greenlang_iot.settings.model import (
    DeadLetterSettings,
    InfluxSettings,
    LimitSettings,
    LogSettings,
)
from greenlang_iot.sinks.deadletter import DeadLetterWriter
from greenlang_iot.sinks.kafka_batches import records_of

TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
NOW = 1_714_566_896_789_000_000
TOPIC = b"greenlang/acme/site-0/d000/telemetry"
REGISTRY = directory(4)
FORGED = "x,device=d001 temperature=99 1714566896789000000"
NASTY = (
    FORGED, f"t 1\n{FORGED}", "temperature,device=d001", "temperature=1,humidity", 'a"b', "a\\", "\\,",
    "a b", "\n", "\r\n", "\x00", "\x1b[2J\x1b[31m", "\x9b2J", "‮txt.exe", "\u2028forged", "d001", "",
    "../../d001", "$SYS", "+", "#", "%s%n", "{org}", "${jndi:ldap://x}", "é" * 70, "\ud7ff", "🔥" * 40,
)  # fmt: skip
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def payloads(text: str) -> list[dict[str, Any]]:
    """`text` in every place where a payload has a text, and as names of members."""
    ts = NOW
    return [
        {"ts": ts, "metric": text, "value": 1},
        {"ts": ts, "metric": "temperature", "value": 1, "unit": text},
        {"ts": ts, "metric": "temperature", "value": text},
        {"ts": text, "metric": "temperature", "value": 1},
        {"ts": ts, "values": {text: 1, "temperature": 2}},
        {"ts": ts, "metric": "temperature", "value": 1, "seq": text},
        {
            "ts": ts,
            "metric": "temperature",
            "value": 1,
            text: text,
            "device": "d001",
            "site": "site-1",
        },
        {"ts": ts, "metric": "temperature", "value": 1, "tags": {"device": "d001"}, "topic": text},
        {"device": "d001", "id": "d001", "ts": ts, "values": {"temperature": 1, "device": 5}},
    ]


def decoded(
    messages: list[tuple[bytes, bytes, bool]], unknown: str = "reject"
) -> tuple[Any, Decoded]:
    limits = LimitSettings.model_validate({"unknown_devices": unknown})
    decoder = Decoder(REGISTRY, limits, TEMPLATE)
    found = decoder.decode(frame_batch(messages, received_ns=NOW), NOW)
    return decoder.directory, found


def assert_only_of(device: str, messages: list[tuple[bytes, bytes, bool]], unknown: str) -> None:
    """Everything that these messages lead to carries this device and its registered place."""
    place, found = decoded(messages, unknown)
    judged = scores([0.0] * found.readings.n)
    lines = LineEncoder(place, InfluxSettings())
    lines.append(found.readings, judged)
    written = lines.seal().decode()
    parsed = [lineprotocol.parse(text) for text in written.splitlines()]
    assert len(parsed) == written.count("\n")
    for point in parsed:
        assert point.measurement == "telemetry"
        assert point.tags["device"] == device
        assert set(point.tags) == {"device", "org", "site", "type"}
    kafka = RecordEncoder(place, 3, "none", 65_536)
    kafka.append(found.readings, judged)
    for piece in pieces(kafka.seal()):
        for record in records_of(piece.batch):
            assert record.key == device.encode()
            assert json.loads(record.value)["device"] == device
    for reject in found.rejects:
        assert reject.device in ("", device)


@pytest.mark.parametrize("unknown", ["reject", "accept"])
@pytest.mark.parametrize("text", NASTY)
def test_a_payload_writes_under_its_own_devices_tags_only(text: str, unknown: str) -> None:
    bodies = [
        json.dumps(p, ensure_ascii=False).encode(errors="surrogatepass") for p in payloads(text)
    ]
    assert_only_of("d000", [(TOPIC, body, False) for body in bodies], unknown)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from(NASTY),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(NASTY), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
KEYS = st.sampled_from(["ts", "metric", "value", "values", "unit", "seq", "device", "tags"])


@settings(max_examples=25)
@given(st.lists(st.dictionaries(KEYS, JSON, max_size=6), min_size=1, max_size=4), st.booleans())
def test_whatever_the_document(items: list[dict[str, Any]], accept: bool) -> None:
    items = [{"ts": NOW, "metric": "temperature", "value": 1.5} | item for item in items]
    body = json.dumps(items).encode()
    assert_only_of("d000", [(TOPIC, body, False)], "accept" if accept else "reject")


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("level", ["org", "site", "device"])
def test_names_in_a_topic_are_refused_or_harmless(name: str, level: str) -> None:
    """Unknown devices are accepted here: their names come from whoever publishes."""
    names = {"org": "acme", "site": "site-0", "device": "new"} | {level: name}
    topic = TEMPLATE.format(**names).encode(errors="surrogatepass")
    body = b'{"ts":%d,"metric":"m","value":1}' % NOW
    place, found = decoded([(topic, body, False)], "accept")
    lines = LineEncoder(place, InfluxSettings())
    lines.append(found.readings, scores([0.0] * found.readings.n))
    for written in lines.seal().decode().splitlines():
        point = lineprotocol.parse(written)
        assert {key: point.tags[key] for key in names} == names
        assert point.tags["type"] == "unknown"
        assert not UNSAFE.search(written)
    assert found.readings.n + len(found.rejects) == 1


# logs and terminals


def clean(output: str) -> None:
    """Nothing in it moves a cursor, fakes a line or turns text around."""
    assert not UNSAFE.search(output), ascii(output)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("text", NASTY)
def test_a_log_line_stays_one_line(text: str, form: str) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure(LogSettings.model_validate({"format": form}), stream=stream)
        structlog.get_logger("test").warning(text or "-", device=text, nested={"k": [text]})
        logging.getLogger("library").warning("%s", text)
    finally:
        root.handlers[:], root.level = before[0], before[1]
        structlog.reset_defaults()
    assert len(stream.getvalue().splitlines()) == 2
    clean(stream.getvalue())


class Show:
    """`dead-letter` commands on a folder with one letter that is as bad as can be."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "c.yaml"
        self.config.write_text(yaml.safe_dump({"data_dir": str(folder / "data")}))

    def __call__(self, *arguments: str) -> str:
        command = ["dead-letter", *arguments, "--config", str(self.config)]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0
        return result.output


async def test_dead_letters_are_shown_without_acting_on_the_terminal(tmp_path: Path) -> None:
    text = "".join(NASTY)
    body = json.dumps(payloads(text), ensure_ascii=False).encode(errors="surrogatepass")
    topic = b"greenlang/acme/site-0/\x1b[2J\xc2\x9b\xff/telemetry"
    _, found = decoded([(TOPIC, body, False), (topic, b"\x1b[2J\xff\xc2\x9b", False)])
    writer = DeadLetterWriter(DeadLetterSettings(), tmp_path / "data" / "dead-letter" / "shard-0")
    await writer.durable(writer.submit(found.rejects, NOW))
    await writer.close()
    show = Show(tmp_path)
    listed = [json.loads(line) for line in show("list", "--json").splitlines()]
    assert len(listed) == 2
    for ident in [item["id"] for item in listed]:
        for more in ((), ("--json",)):
            clean(show("show", ident, *more))
        clean(show("replay", ident, "--dry-run"))
    for more in ((), ("--json",)):
        clean(show("list", *more))


def test_a_dead_letters_line_is_one_line_and_keeps_the_bytes() -> None:
    body = b'{"ts":1,"metric":"\x1b[2J\n","value":1}\xff'
    _, found = decoded([(TOPIC, body, False)])
    (letter,) = from_rejects(found.rejects, NOW)
    written = encode(letter)
    assert written.count(b"\n") <= 1
    clean(written.decode().rstrip("\n"))
    assert read_letter(written).payload == body


@pytest.mark.parametrize("text", NASTY)
def test_alerts_tail_and_tables(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    alert = dict.fromkeys(("alert_id", "org", "site", "device", "metric", "state", "rule", "severity", "summary", "at", "value"), text)  # fmt: skip
    terminal.console().print(line(alert))
    print(json_line(alert))
    table = Table()
    table.add_column(text)
    table.add_row(text)
    terminal.console(wrap=True, width=200).print(table, text)
    terminal.print_json({text: text})
    terminal.print_json_line([text])
    terminal.say(text)
    rows = pa.table({"device": [text.encode(errors="replace").decode()]})
    query._print_csv(rows)
    query._print_table(rows)
    captured = capsys.readouterr()
    clean(captured.out)
    clean(captured.err)


def test_the_sentence_of_a_mistake_is_printed_safely(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong() -> None:
        raise InputError("the file \x1b[2J is wrong", ("line 3: \x9b‮",))

    monkeypatch.setattr("greenlang_iot.cli.main.app", wrong)
    with pytest.raises(SystemExit):
        main()
    clean(capsys.readouterr().err)
