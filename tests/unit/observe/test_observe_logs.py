import io
import json
import logging
import re

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from greenlang_iot.observe.logs import configure
from greenlang_iot.observe.printable import printable, printable_block
from greenlang_iot.settings.model import LogSettings


def logged(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_from_structlog_and_from_libraries() -> None:
    stream = io.StringIO()
    configure(LogSettings(format="json"), shard=3, stream=stream)
    structlog.get_logger("ours").info("batch", rows=5)
    logging.getLogger("theirs").warning("lost %s", "it")
    ours, theirs = logged(stream)
    assert (ours["event"], ours["rows"], ours["level"], ours["shard"]) == ("batch", 5, "info", 3)
    assert (theirs["event"], theirs["logger"], theirs["shard"]) == ("lost it", "theirs", 3)
    assert "timestamp" in ours


def test_level_and_auto_format() -> None:
    stream = io.StringIO()  # not a terminal: JSON
    configure(LogSettings(level="warning"), stream=stream)
    structlog.get_logger().info("hidden")
    structlog.get_logger().error("shown")
    logging.getLogger("aiokafka").info("hidden")
    assert [line["event"] for line in logged(stream)] == ["shown"]


def test_secrets_are_blanked_by_key_by_value_and_by_shape() -> None:
    stream = io.StringIO()
    configure(LogSettings(format="json"), secrets=["hunter22", "x"], stream=stream)
    log = structlog.get_logger()
    log.info("open", password="abc", nested={"api_key": "abc"}, setting=SecretStr("abcdef"))
    log.info("refused hunter22", url="mqtts://user:pw@broker:8883")
    log.info("sent", headers="Authorization: Token abcdefghijkl==")
    try:
        raise ValueError("login with hunter22 failed")
    except ValueError:
        log.exception("no")
    text = stream.getvalue()
    for secret in ("abc", "hunter22", "pw@", "abcdefghijkl"):
        assert secret not in text
    first, second, third, _ = logged(stream)
    assert first["password"] == "***"
    assert first["nested"] == {"api_key": "***"}
    assert second["url"] == "mqtts://***@broker:8883"
    assert third["headers"] == "Authorization: Token ***"


def test_a_text_from_outside_does_not_fill_the_log() -> None:
    """A server may answer with megabytes; what it says is in the first words."""
    stream = io.StringIO()
    configure(LogSettings(format="json"), secrets=["hunter22"], stream=stream)
    cut_within = "y" * 3_996 + "hunter22" + "y" * 1_000_000
    structlog.get_logger().warning("x" * 1_000_000, answer="y" * 1_000_000, many=["y" * 9_000])
    structlog.get_logger().warning("said", answer=cut_within)
    line, second = logged(stream)
    assert line["event"] == "x" * 4_000 + " … and 996,000 more characters"
    assert line["answer"] == "y" * 4_000 + " … and 996,000 more characters"
    assert line["many"] == ["y" * 4_000 + " … and 5,000 more characters"]
    assert "hunt" not in second["answer"]


@pytest.mark.parametrize("style", ["json", "console"])
def test_control_characters_do_not_reach_the_stream(style: str) -> None:
    stream = io.StringIO()
    configure(LogSettings.model_validate({"format": style}), stream=stream)
    hostile = "dev\x1b[2J\nfake line\x9b\u202e"
    structlog.get_logger().info(hostile, device=hostile, raw=hostile.encode(), many=[hostile])
    logging.getLogger("lib").warning("id %s", hostile)
    try:
        raise ValueError(hostile)
    except ValueError:
        structlog.get_logger().exception("failed")
    text = stream.getvalue()
    assert not {"\x1b", "\x9b", "\u202e"} & set(text)
    lines = text.splitlines()
    assert sum("fake line" in line for line in lines) >= 3
    assert not any(line.startswith("fake line") for line in lines[:2])


def test_console_writes_a_line_a_person_reads() -> None:
    stream = io.StringIO()
    configure(LogSettings(format="console"), stream=stream)
    structlog.get_logger().info("shard started", shard=1)
    line = stream.getvalue()
    assert "shard started" in line
    assert "shard=1" in line
    assert not line.startswith("{")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("no_color", [None, "", "1"])
def test_a_terminal_has_short_lines_and_colours_where_they_are_wanted(
    no_color: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    stream = Terminal()
    configure(LogSettings(), stream=stream)
    structlog.get_logger("greenlang_iot.runtime.gateway").info("ready", seconds=2.5)
    logging.getLogger("library").warning("lost it")
    assert ("\x1b" in stream.getvalue()) is (no_color != "1")
    ours, theirs = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} \[info\] ready seconds=2\.5", ours)
    assert re.fullmatch(r"\S+ \[warning\] lost it \[library\]", theirs)


@given(st.text())
def test_printable_is_one_printable_line(text: str) -> None:
    result = printable(text)
    result.encode()
    assert len(result.splitlines()) <= 1
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in result)
    assert printable(result) == result


def test_printable_keeps_what_is_harmless() -> None:
    assert printable("Größe 21.5 °C – 温度") == "Größe 21.5 °C – 温度"
    assert printable("a\x1b[0m\n\u2028") == "a\\x1b[0m\\x0a\\u2028"
    assert printable_block("a\n\tb\x1b") == "a\n\tb\\x1b"
