"""What holds for every command: help, exit codes, streams, completion."""

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from greenlang_iot import __version__
from greenlang_iot.cli.main import app, main
from greenlang_iot.cli.new_file import write_new
from greenlang_iot.model.errors import InputError


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


PROGRAM: Any = typer.main.get_command(app)  # takes 0.1 s
EVERY = sorted(commands(PROGRAM))


def greenlang(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    program = "from greenlang_iot.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=240,
    )


Here = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """As `greenlang`, in this process: for what is wrong before anything begins."""

    def called(*arguments: str) -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr(sys, "argv", ["greenlang-iot", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(arguments, ended.value.code, said.out, said.err)

    return called


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help_has_an_example_and_the_exit_codes(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80", "NO_COLOR": "1"})
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert f"Example: greenlang-iot {' '.join(path)}" in text
    assert "Exit codes: 0" in text
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert max(map(len, lines)) <= 80
    for before, after in pairwise(lines[: lines.index("") + 40]):
        if before and after and before[0] not in "╭│╰" and after[0] not in "╭│╰":
            assert len(before) + len(after.split()[0]) >= 78  # broken by the terminal, not before
    assert "\x1b" not in result.stdout


ANOTHER_FORMAT = {("config", "schema"), ("devices", "export")}
"""Commands whose output is a file format already: a JSON Schema, CSV."""


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_command_speaks_json_under_one_name(path: tuple[str, ...]) -> None:
    command = PROGRAM
    for name in path:
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) is (path not in ANOTHER_FORMAT)


def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, here: Here
) -> None:
    (tmp_path / "file").write_text("")
    fleet = tmp_path / "fleet.csv"
    fleet.write_text("id,org,site,type\nem-1,acme,north,energy-meter\n")
    types = ("--types", "devices/devices-registry.json")
    for output, said in (
        ("file/new", "its folder is a file"),
        ("file/deep/new", "Not a directory"),
        ("x" * 300, "File name too long"),
    ):
        path = str(tmp_path / output)
        for command in (
            ("devices", "import", str(fleet), *types, "--output", path),
            ("devices", "export", "--devices-file", types[1], "--output", path),
            ("config", "init", "--yes", "--output", path),
        ):
            result = here(*command)
            assert (result.returncode, result.stderr.count("\n")) in ((2, 1), (1, 1)), result.stderr
            assert said in result.stderr


def test_a_disk_that_is_full_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, mode: str) -> Any:
        path.touch()
        return open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"cannot write .*new\.json: No space left on device"):
        write_new(tmp_path / "new.json", b"{}")
    assert not (tmp_path / "new.json").exists()


def test_arguments_that_are_no_utf8_are_one_sentence() -> None:
    result = greenlang("alerts", "show", os.fsdecode(b"caf\xe9"))
    assert result.returncode == 2
    assert result.stderr == "The command line holds bytes that are not UTF-8 text.\n"


def test_standard_output_that_is_full_is_one_sentence() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "greenlang_iot", "config", "schema"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "No space left on device"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", ["inf", "nan", "1e20"])
@pytest.mark.parametrize("option", ["--rate", "--seconds"])
def test_a_fleet_is_not_simulated_for_ever(option: str, number: str) -> None:
    result = CliRunner().invoke(app, ["simulate", option, number])
    assert result.exit_code == 2
    assert option in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--topic", "foo"), "--topic 'foo': "),
        (("--host", "broker..example"), "--host 'broker..example' is no host name or address"),
        (("--topic", "a/#/{org}/{site}/{device}"), "--topic 'a/#/"),
        (("--password-file", "nowhere/pw"), "cannot read nowhere/pw: No such file or directory"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_a_fleet_with_wrong_options_publishes_nothing(
    arguments: tuple[str, ...], words: str, here: Here
) -> None:
    result = here("simulate", "--no-tls", "--port", "9", *arguments)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Errno" not in result.stderr


@pytest.mark.parametrize("server", ["kafka..example:9092", "kafka.example", "a\tb:9092"])
def test_a_kafka_that_has_no_address_is_not_asked(server: str, here: Here) -> None:
    result = here("alerts", "tail", "--kafka", server)
    assert result.returncode == 2
    assert "sinks.kafka.bootstrap_servers" in result.stderr
    assert "must be host:port" in result.stderr


def test_a_kafka_that_is_not_there_is_one_sentence() -> None:
    result = greenlang("alerts", "tail", "--kafka", "127.0.0.1:9")
    assert result.returncode == 1
    assert result.stderr == "no alerts from Kafka at 127.0.0.1:9: connection refused\n"


def test_kafkas_client_adds_nothing_to_what_is_said(here: Here, tmp_path: Path) -> None:
    """It logged `Unable connect to "127.0.0.1:9"` beside our sentence."""
    config = tmp_path / "c.yaml"
    config.write_text(
        'sinks: {kafka: {enabled: true, bootstrap_servers: "127.0.0.1:9"}, influxdb: {enabled: false}}\n'
    )
    result = here("setup", "--config", str(config))
    assert result.returncode == 1
    assert result.stderr == "Kafka at 127.0.0.1:9: connection refused\n"


def test_version_as_json() -> None:
    document = json.loads(CliRunner().invoke(app, ["version", "--json"]).stdout)
    assert document["version"] == __version__
    assert document["config_version"] == 1


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}], ids=["colour", "NO_COLOR"])
def test_colour_only_on_a_terminal_that_wants_it(environment: dict[str, str]) -> None:
    """A pseudo-terminal, as a person has one; without one there is no colour (the tests above)."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "greenlang_iot", "config", "check", "--config", "nowhere.yaml"],
        stdout=theirs,
        stderr=theirs,
        env={k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        | {"TERM": "xterm-256color", **environment},
        timeout=60,
    )
    os.close(theirs)
    with open(ours, "rb") as terminal:
        said = terminal.read1(65_536)
    assert done.returncode == 2
    assert b"nowhere.yaml" in said
    coloured = re.search(rb"\x1b\[[\d;]*3[0-7]", said)
    assert (coloured is not None) is (not environment)


def test_exit_codes_without_a_stack_trace_or_a_warning() -> None:
    """One process for all: what Python warns of at its end would be seen, too."""
    codes = {
        ("version",): 0,
        ("config", "check", "--config", "nowhere.yaml"): 2,
        ("devices", "validate", "nowhere.json"): 2,
        ("devices", "show", "nobody", "--devices-file", "nowhere.json"): 2,
        ("spool", "status", "--config", "nowhere.yaml"): 2,
        ("doctor", "--config", "nowhere.yaml"): 2,
        ("dead-letter", "list", "--config", "nowhere.yaml"): 2,
        ("run", "--config", "nowhere.yaml"): 2,
        ("no-such-command",): 2,
    }
    program = (
        "import json, sys; from greenlang_iot.cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    sys.argv = ['greenlang-iot', *words]\n"
        "    try: main()\n"
        "    except SystemExit as ended: print(f'\\x1e{ended.code}', file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(list(codes))],
        capture_output=True,
        text=True,
        timeout=240,
    )
    for word in ("Traceback", "Warning"):
        assert word not in done.stderr + done.stdout
    ended = re.findall(r"(.*?)\x1e(\d)\n", done.stderr, re.S)
    assert [int(code) for _, code in ended] == list(codes.values())
    for words, (text, code) in zip(codes, ended, strict=True):
        said = [line for line in text.splitlines() if not line.startswith("first start")]
        assert len(said) <= (0 if code == "0" else 6), words


def test_completion_in_the_shell() -> None:
    program = Path(sys.executable).with_name("greenlang-iot")
    if not program.exists():
        pytest.skip("greenlang-iot is not installed in this environment")
    for words, wanted in (
        ("greenlang-iot dev", "devices"),
        ("greenlang-iot dead-letter re", "replay"),
    ):
        done = subprocess.run(
            [program],
            capture_output=True,
            text=True,
            env=os.environ
            | {
                "_GREENLANG_IOT_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
        )
        assert done.stdout.split() == [wanted]


def test_the_first_start_says_that_kernels_are_compiled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from greenlang_iot.cli.first_start import tell_first_start
    from greenlang_iot.model import kernel_cache

    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    monkeypatch.setattr(kernel_cache, "CACHE_FOLDER", tmp_path)
    monkeypatch.setattr(kernel_cache, "COMPILED", tmp_path / "complete")
    before = set(threading.enumerate())
    tell_first_start()
    assert "first start: compiling kernels" in capfd.readouterr().err
    kernel_cache.seal()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # else it speaks in another test
    assert "kernels are compiled" in capfd.readouterr().err
    tell_first_start()
    assert "first start" not in capfd.readouterr().err
