"""The how-to's settings and payloads are read as it says; its example package is loaded as a plug-in."""

import re
import sys
from pathlib import Path

import pytest
import yaml
from tests.fakes.decode_frames import frame_batch

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.devices.registry import load
from greenlang_iot.formats.catalog import names
from greenlang_iot.settings.formats import entry_problem, routes
from greenlang_iot.settings.model import FormatSettings, LimitSettings, MqttSettings

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "payload-format-example"
PAGE = (ROOT / "docs" / "how-to" / "payload-formats.md").read_text()
NOW = 1_772_366_401 * 10**9
EXAMPLES = re.findall(
    r"```yaml\n([^`]*?)```\n\n<!-- format: (\S+) -->\n```text\n(.*?)```", PAGE, re.S
)


def entries(text: str) -> list[FormatSettings]:
    """`mqtt.formats` of a snippet."""
    return MqttSettings.model_validate(yaml.safe_load(text)["mqtt"]).formats


def decoded(entry: FormatSettings, names: str, payload: bytes) -> list[tuple[str, float]]:
    registry = load(ROOT / "devices" / "devices-registry.json")
    settings = MqttSettings(formats=[entry])
    decoder = Decoder(registry, LimitSettings(), settings.topic, routes(settings))
    topic = f"{entry.topic.split('/')[0]}/{names}"
    read = decoder.decode(frame_batch([(topic.encode(), payload, False)], received_ns=NOW), NOW)
    assert read.rejects == []
    metric = [registry.metric[int(registry.series_metric[s])] for s in read.readings.series]
    return list(zip(metric, read.readings.value.tolist(), strict=True))


@pytest.mark.parametrize(("entry", "place", "payload"), EXAMPLES)
def test_the_examples_of_the_page_are_read(entry: str, place: str, payload: str) -> None:
    [settings] = entries(entry)
    assert entry_problem(settings) is None
    assert ("power", 301.7) in decoded(settings, place, payload.encode())


def test_every_settings_snippet_of_the_page_is_valid_and_every_format_is_on_it() -> None:
    snippets = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    found = [entry for text in snippets for entry in entries(text)]
    assert [entry_problem(entry) for entry in found] == [None] * len(found)
    assert len(EXAMPLES) == 4
    for name in names():
        assert f"`{name}`" in PAGE or name == "json"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `pip install` of the example leaves: its module, and the metadata that names it."""
    metadata = tmp_path / "greenlang_iot_semicolons-1.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: greenlang-iot-semicolons\nVersion: 1.0.0\n")
    project = (EXAMPLE / "pyproject.toml").read_text()
    name, value = re.findall(r'^(\w+) = "(\w+:\w+)"$', project, re.M)[-1]
    (metadata / "entry_points.txt").write_text(
        f"[greenlang_iot.payload_formats]\n{name} = {value}\n"
    )
    (tmp_path / "semicolons.py").write_text((EXAMPLE / "semicolons.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "semicolons", raising=False)


@pytest.mark.usefixtures("installed")
def test_the_example_package_is_a_format() -> None:
    assert "semicolons" in names()
    entry = FormatSettings(
        topic="s/{org}/{site}/{device}", format="semicolons", options={"separator": "|"}
    )
    assert entry_problem(entry) is None
    payload = f"power|301.7|{NOW // 10**6}\nvoltage|231.2|{NOW // 10**6}".encode()
    assert decoded(entry, "acme/plant-a/em-main-a", payload) == [
        ("power", 301.7),
        ("voltage", 231.2),
    ]
    wrong = entry.model_copy(update={"options": {"colour": "red"}})
    problem = entry_problem(wrong)
    assert problem is not None
    assert problem[0] == "options"


def test_the_page_shows_the_example_as_it_is() -> None:
    assert (EXAMPLE / "semicolons.py").read_text() in PAGE


def test_any_error_of_a_plug_in_costs_the_message_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.fakes.format_decoder import FormatDecoder

    from greenlang_iot.formats.plain import Plain

    made = FormatDecoder("plain", "x/{device}/{metric}", missing_ts="receive_time")
    monkeypatch.setattr(Plain, "read", lambda self, payload: 1 // 0)
    read = made.read(b"1", topic="x/d000/temperature")
    assert read.rejects == [[("", "malformed")]]
