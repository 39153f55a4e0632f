"""Every fenced block of every document: run by a test, or checked, or marked with why it is not run."""

import json
import os
import re
import subprocess
import threading
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
import yaml
from tests.docs.blocks import LANGUAGES, REASONS, Block, blocks, fits

from greenlang_iot.alerts import rule_file
from greenlang_iot.devices.registry import parse
from greenlang_iot.settings.load import load

ROOT = Path(__file__).resolve().parents[3]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
BLOCKS = [block for page, text in PAGES.items() for block in blocks(page, text)]
RUN_HERE = ("docs/how-to/topics.md", "docs/how-to/units.md", "docs/how-to/tls.md")
RUN_HERE += ("docs/how-to/sizing.md", "docs/how-to/upgrade.md", "docs/how-to/detection.md")
RUN_WITH_SERVERS = ("docs/tutorial.md", "docs/how-to/influxdb.md", "docs/how-to/kafka.md")
"""Run by tests/services/test_docs_pages.py."""
GENERATED = ("docs/commands.md",)
"""Its commands are the `--help` examples: what they take is checked by tests/unit/test_docs.py."""
SECRETS = {
    "GREENLANG_IOT__SINKS__INFLUXDB__TOKEN": "a-token",
    "GREENLANG_IOT__MQTT__BROKERS__0__PASSWORD": "a-password",
}
SCHEMAS = {
    "payload": "payload-v1",
    "reading": "reading-v1",
    "alert": "alert-v1",
    "dead letter": "dead-letter-v1",
}


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def test_every_block_is_of_a_known_kind() -> None:
    for block in BLOCKS:
        assert block.language in LANGUAGES, block
        assert block.not_run is None or block.not_run in REASONS, f"{block}: {block.not_run}"


def test_every_command_is_run_or_says_why_not() -> None:
    for block in of("sh"):
        if block.page not in (*RUN_HERE, *RUN_WITH_SERVERS, *GENERATED):
            assert block.not_run is not None, f"{block} is run by nobody and does not say why"
    assert set(RUN_HERE + RUN_WITH_SERVERS) <= {block.page for block in of("sh")}


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_commands_are_shell(block: Block) -> None:
    text = re.sub(r"<[a-z ]+>", "word", block.text)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_settings_are_loaded(block: Block, tmp_path: Path) -> None:
    if block.marker == "alert rules":
        assert rule_file.parse(block.text, block.page).rules
        return
    document = yaml.safe_load(block.text)
    if block.marker:  # of another program, which the marker names
        assert isinstance(document, dict | list)
        return
    text = block.text
    for secret in re.findall(r"(?:password|token|secret)_file: (\S+)", text):
        file = tmp_path / Path(secret).name
        file.write_text("secret\n")
        file.chmod(0o600)
        text = text.replace(secret, str(file))
    (tmp_path / "settings.yaml").write_text(text)
    load(tmp_path / "settings.yaml", {} if "token_file" in text else SECRETS)


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_json_follows_its_schema(block: Block) -> None:
    if block.marker == "registry":
        parse(block.text.encode())
        return
    assert block.marker in SCHEMAS, f"{block}: say which of {', '.join(SCHEMAS)}, registry it is"
    schema = json.loads((ROOT / "docs" / "schemas" / f"{SCHEMAS[block.marker]}.json").read_text())
    whole = [block.text] if block.marker != "payload" else block.text.splitlines()
    for document in whole:
        jsonschema.validate(json.loads(document), schema)


@pytest.mark.parametrize("page", RUN_HERE)
def test_the_page_does_what_it_says(page: str) -> None:
    from tests.docs.run import run_page

    assert run_page(page, []) == 0


# ---- the runner itself -------------------------------------------------------------------------------


def test_an_output_may_leave_things_open() -> None:
    assert fits("a … c\n", "a b c\n")
    assert fits("a\n…\nd\n", "a\nb\nc\nd\n")
    assert fits("a\n…\n", "a\n")
    assert not fits("a\n", "a\nb\n")
    assert not fits("a … d\n", "a b c\n")


def test_a_marker_belongs_to_the_block_after_it() -> None:
    text = "<!-- not run: long -->\n```sh\na\n```\n\n```sh\nb\n```\n  <!-- payload -->\n  ```json\n  {}\n  ```\n"
    found = blocks("p", text)
    assert [(b.line, b.marker, b.not_run, b.text) for b in found] == [
        (2, "not run: long", "long", "a\n"),
        (6, "", None, "b\n"),
        (10, "payload", None, "{}\n"),
    ]


def test_a_page_that_lies_is_found_out(tmp_path: Path) -> None:
    from tests.docs.shell import Mistake, Shell

    shell = Shell(tmp_path, {"PATH": "/usr/bin:/bin"})
    first, second = blocks("p", "```sh\nx=1; echo $x\n```\n```output\n2\n```\n")
    shell.run(first)
    with pytest.raises(Mistake, match="and this came\n1"):
        shell.run(second)
    with pytest.raises(Mistake, match="a command failed"):
        shell.run(blocks("p", "```sh\nfalse\ntrue\n```\n")[0])
    shell.close()


def test_what_a_terminal_is_about_to_say_is_waited_for(tmp_path: Path) -> None:
    from tests.docs.shell import Shell

    shell = Shell(tmp_path, {"PATH": "/usr/bin:/bin"})
    text = "<!-- terminal t -->\n```sh\nread line < told; echo $line\n```\n"
    text += "<!-- output of t -->\n```output\n42 µg\n```\n"
    os.mkfifo(tmp_path / "told")
    terminal, output = blocks("p", text)
    shell.run(terminal)
    late = threading.Timer(0.05, (tmp_path / "told").write_text, ("42 µg\n",))
    late.start()
    shell.run(output)
    late.join()
    shell.close()


# ---- troubleshooting ---------------------------------------------------------------------------------


def test_what_troubleshooting_quotes_is_really_said() -> None:
    """The first column of each table: its fixed words stand in the sources."""
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)  # a sentence over several lines
    quoted = re.findall(r"^ *\| (`.+?`) \|", PAGES["docs/troubleshooting.md"], re.M)
    counted = Counter()
    for cell in quoted:
        for words in re.findall(r"`([^`]+)`", cell):
            for part in re.split(r"…|\d+|\binfluxdb\b|:", words):
                if len(part.strip()) > 2:
                    assert part.strip() in source, f"nothing says {part.strip()!r}"
                    counted[cell] += 1
    assert len(counted) == len(quoted) > 20
