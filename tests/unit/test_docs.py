"""The documents say what is there: commands, settings, metrics, reasons, files, signatures, links."""

import ast
import importlib
import inspect
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import typer.main
from docs.generator.reference import PAGES
from pydantic import BaseModel

from greenlang_iot.cli.main import app
from greenlang_iot.model.reasons import Reason
from greenlang_iot.observe.catalog import CATALOG
from greenlang_iot.settings.load import load
from greenlang_iot.settings.model import Settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "greenlang_iot"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in DOCUMENTS}
PROGRAM: Any = typer.main.get_command(app)  # takes 0.1 s
each_document = pytest.mark.parametrize("name", TEXTS)


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


def outside_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


# ---- reference, metrics and reasons ------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_the_reference_is_current(page: str) -> None:
    assert TEXTS[f"docs/{page}"] == PAGES[page](), "run: make docs-reference"


def test_every_setting_says_what_it_is_for() -> None:
    def silent(model: type[BaseModel]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            section = section_of(field.annotation)
            if section is None and not field.description:
                yield f"{model.__name__}.{name}"
            elif section is not None:
                yield from silent(section)

    assert not list(silent(Settings))


@each_document
def test_every_metric_named_exists(name: str) -> None:
    known = {metric.exported for metric in CATALOG}
    assert set(re.findall(r"\bgreenlang_iot_[a-z_]*[a-z]\b(?!/)", TEXTS[name])) <= known


def test_every_reason_is_explained() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", TEXTS["docs/contracts.md"], re.M))
    assert {reason.value for reason in Reason} <= rows


# ---- commands ----------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """Every `greenlang-iot …` of the shell blocks and of the inline code, as arguments."""
    lines = [line for block in blocks(text, "(?:sh|console)") for line in unfolded(block)]
    lines += re.findall(r"`((?:[A-Z_]+=\S+ )*greenlang-iot [^`\n]+)`", outside_blocks(text))
    for line in lines:
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
            words.pop(0)
        if words and words[0] == "greenlang-iot":
            end = next((i for i, word in enumerate(words) if word in {"|", ">", "&", "&&"}), None)
            yield words[1:end]


def unfolded(block: str) -> list[str]:
    """Lines of a shell block, those that end in a backslash joined."""
    return block.replace("\\\n", " ").splitlines()


@each_document
def test_every_command_line_is_understood(name: str) -> None:
    for arguments in commands(TEXTS[name]):
        command = PROGRAM
        rest = list(arguments)
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        if rest not in (["--help"], ["--install-completion"]):
            assert not hasattr(command, "commands"), f"no such command: {arguments}"
            if rest:  # without arguments it is only named
                command.make_context("greenlang-iot", rest)  # raises for a wrong option or value


def test_readme_shows_every_command() -> None:
    found = {tuple(words[:2]) for words in commands(TEXTS["README.md"])}
    shown = {words[0] for words in found} | {" ".join(words) for words in found}
    for name, command in PROGRAM.commands.items():
        for path in [f"{name} {sub}" for sub in getattr(command, "commands", {})] or [name]:
            assert path in shown, f"README does not show {path}"


@each_document
def test_every_make_target_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = TEXTS[name]
    lines = [line for block in blocks(text, "(?:sh|console)") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", outside_blocks(text))
    named = {
        m[1] for line in lines if (m := re.match(r"(?:\$ |[A-Z_]+=\S+ )*make ([a-z-]+)", line))
    }
    assert named <= targets


# ---- settings ----------------------------------------------------------------------------------------


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The settings section in an annotation: itself, optional, or the items of a list."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def exists(steps: list[str]) -> bool:
    """Whether these steps, for example ["mqtt", "brokers", "0", "host"], lead to a setting."""
    model: type[BaseModel] | None = Settings
    for step in steps:
        if step.isdecimal():
            continue
        if model is None or step not in model.model_fields:
            return False
        model = section_of(model.model_fields[step].annotation)
    return True


@pytest.mark.parametrize("name", [*TEXTS, "config/iot-config.yaml", "Dockerfile"])
def test_every_setting_named_exists(name: str) -> None:
    text = TEXTS.get(name) or (ROOT / name).read_text()
    for variable in re.findall(r"GREENLANG_IOT__([A-Z0-9_]*[A-Z0-9])", text):
        if variable != "SECTION__KEY":
            assert exists(variable.lower().split("__")), variable
    if name.endswith(".md"):
        for path in re.findall(
            r"`([a-z_]+(?:\[\])?(?:\.[a-z_]+(?:\[\])?)+)`", outside_blocks(text)
        ):
            steps = path.replace("[]", "").split(".")
            if steps[0] in Settings.model_fields and path.rsplit(".")[-1] not in {"py", "md"}:
                assert exists(steps), path


def test_the_shipped_settings_are_valid() -> None:
    """They need one secret and name certificates that a site brings."""
    environ = {"GREENLANG_IOT__SINKS__INFLUXDB__TOKEN": "a-token"}
    warnings = load(ROOT / "config" / "iot-config.yaml", environ).warnings
    assert all("ca_file: there is no file" in warning for warning in warnings)


def test_the_shipped_settings_show_every_key() -> None:
    """A setting stands there, or commented out with its default or what it is for."""
    text = (ROOT / "config" / "iot-config.yaml").read_text()
    shown = set(re.findall(r"^[ #-]*([a-z0-9_]+):", text, re.M))

    def names(model: type[BaseModel]) -> Iterator[str]:
        for name, field in model.model_fields.items():
            section = section_of(field.annotation)
            if section is None:
                yield name
            elif name != "tls":  # shown once, for a broker
                yield from names(section)

    assert set(names(Settings)) <= shown


# ---- examples ----------------------------------------------------------------------------------------

SCHEMAS = {"payload": "payload-v1", "reading": "reading-v1", "alert": "alert-v1"}
SCHEMAS["dead letter"] = "dead-letter-v1"


def examples() -> list[tuple[str, str]]:
    """(kind, JSON) of docs/contracts.md: `<!-- payload -->` stands before each block."""
    pattern = r"^<!-- ([a-z ]+) -->\n```json\n(.*?)^```"
    return re.findall(pattern, TEXTS["docs/contracts.md"], re.M | re.S)


@pytest.mark.parametrize(("kind", "text"), examples())
def test_examples_follow_their_schemas(kind: str, text: str) -> None:
    schema = json.loads((ROOT / "docs" / "schemas" / f"{SCHEMAS[kind]}.json").read_text())
    for line in text.splitlines() if kind == "payload" else [text]:
        jsonschema.validate(json.loads(line), schema)


def test_every_schema_has_an_example() -> None:
    assert {kind for kind, _ in examples()} == set(SCHEMAS)


# ---- the map -----------------------------------------------------------------------------------------


def signatures() -> list[tuple[str, str, list[str]]]:
    """(file, class.method, parameter names) of ARCHITECTURE.md's Python blocks."""
    found = []
    for block in blocks(TEXTS["ARCHITECTURE.md"], "python"):
        lines = block.splitlines()
        for node in ast.parse(block).body:
            assert isinstance(node, ast.ClassDef)
            file = lines[node.lineno - 1].rpartition("# ")[2].split()[0]
            for item in node.body:
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                    arguments = [*item.args.posonlyargs, *item.args.args, *item.args.kwonlyargs]
                    found.append((file, f"{node.name}.{item.name}", [a.arg for a in arguments]))
    return found


@pytest.mark.parametrize(("file", "name", "parameters"), signatures())
def test_the_map_shows_real_signatures(file: str, name: str, parameters: list[str]) -> None:
    module = importlib.import_module("greenlang_iot." + file.removesuffix(".py").replace("/", "."))
    owner, _, method = name.partition(".")
    assert list(inspect.signature(getattr(getattr(module, owner), method)).parameters) == parameters


ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())


@pytest.mark.parametrize("room", ROOMS)
def test_the_map_names_every_file_of_a_room(room: str) -> None:
    """In the room's own part, and nothing that is not there; and each file says what it is for."""
    modules = [path for path in (PACKAGE / room).rglob("*.py") if path.name != "__init__.py"]
    part = re.search(rf"^### `{room}/`\n(.*?)^#", TEXTS["ARCHITECTURE.md"], re.M | re.S)
    assert part is not None
    assert set(re.findall(r"`(\w+\.py)`", part[1])) == {path.name for path in modules}
    assert [path for path in modules if not ast.get_docstring(ast.parse(path.read_text()))] == []


@each_document
def test_every_file_named_exists(name: str) -> None:
    """Paths in inline code that begin with a folder of the repository or a room of the package."""
    tops = {"src", "tests", "docs", "config", "devices", "bench"}
    for path in re.findall(r"`([\w./-]+/[\w.-]+\.\w+)`", outside_blocks(TEXTS[name])):
        top = path.split("/")[0]
        if top in tops or (top in ROOMS and path.endswith(".py")):
            assert (ROOT / path).exists() or (PACKAGE / path).exists(), path


@each_document
def test_every_link_resolves(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", outside_blocks(TEXTS[name])):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / name).parent / file) if file else ROOT / name
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", outside_blocks(path.read_text()), re.M)
            slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
            assert anchor in slugs, target


@pytest.mark.skipif(os.name != "posix", reason="paths of a Unix machine")
@each_document
def test_documents_stand_alone(name: str) -> None:
    """No path of one machine, and nothing that only some people have."""
    assert not re.search(r"/work/|/tmp/|/home/\w|design\.md|\bissue \d", TEXTS[name])
