"""The reference pages, made of the code: `make docs-reference` writes them, a test compares them.

Nothing on these pages is written by hand: settings come from the model, commands from the command line
itself, metrics from the catalogue, units from their table, schemas from their JSON files.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from greenlang_iot.cli.main import app
from greenlang_iot.devices.units import UNITS
from greenlang_iot.observe.catalog import render_markdown
from greenlang_iot.settings.expect import describe, slot_at, unit_of
from greenlang_iot.settings.model import RunnerSettings, Settings, TlsSettings
from greenlang_iot.settings.reload import RELOADABLE

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SCHEMAS = ("payload-v1", "reading-v1", "alert-v1", "dead-letter-v1")

Table = Sequence[tuple[str, ...]]


def table(head: tuple[str, ...], rows: Table) -> Iterator[str]:
    """The lines of a Markdown table; a pipe in a cell is escaped."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in row) + " |"


# ---- settings ----------------------------------------------------------------------------------------

SETTINGS_HEAD = """# Settings

Every key of the settings file, with what it takes. Each can be set in the environment instead:
`mqtt.brokers[0].host` is `GREENLANG_IOT__MQTT__BROKERS__0__HOST`. `greenlang-iot config show` prints the values
that hold and where each comes from; `greenlang-iot config schema` prints all this as a JSON Schema for editors.
A setting marked *reload* is taken over by [a reload](operations.md#reload), the others need a restart.
"""


def settings_page() -> str:
    lines = [SETTINGS_HEAD]
    lines += _section("", Settings, lambda name: True)
    tls = ", ".join(f"`{name}`" for name in _tls_sections(Settings, ""))
    lines += ["## TLS", "", f"The keys of each of {tls}.", ""]
    lines += _rows("mqtt.brokers[0].tls", TlsSettings, lambda name: True)
    return "\n".join(lines)


def _tls_sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = section_of(field)
        if inner is TlsSettings:
            yield prefix + name
        elif inner is not None:
            yield from _tls_sections(inner, f"{prefix}{name}{'[]' if _is_list(field) else ''}.")


def _section(
    path: str, model: type[BaseModel], wanted: Callable[[str], bool], level: int = 2
) -> Iterator[str]:
    """A heading, what the section is for, its own keys, then the sections in it."""
    yield f"{'#' * level} {f'`{path}`' if path else 'The top'}"
    yield ""
    yield " ".join((model.__doc__ or "").split())
    yield ""
    yield from _rows(path, model, wanted)
    subsections = [(n, f, s) for n, f in model.model_fields.items() if (s := section_of(f))]
    runners = [n for n, _, s in subsections if issubclass(s, RunnerSettings)]
    if runners:
        yield f"{'#' * (level + 1)} Every sink"
        yield ""
        yield f"The same keys in each of {', '.join(f'`{path}.{n}`' for n in runners)}."
        yield ""
        yield from _rows(f"{path}.{runners[0]}", RunnerSettings, lambda name: True)
    for name, field, inner in subsections:
        if inner is TlsSettings:
            continue
        shared = RunnerSettings.model_fields if issubclass(inner, RunnerSettings) else {}
        below = f"{path}.{name}" if path else name
        yield from _section(
            below + ("[]" if _is_list(field) else ""),
            inner,
            lambda n, shared=shared: n not in shared,  # type: ignore[misc]
            level + 1 if path else level,
        )


def _rows(path: str, model: type[BaseModel], wanted: Callable[[str], bool]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = []
    for name, field in model.model_fields.items():
        inner = section_of(field)
        if not wanted(name) or (inner is not None and inner is not TlsSettings):
            continue
        place = tuple(
            int(step) if step.isdecimal() else step
            for step in re.findall(r"\w+", f"{path}.{name}".replace("[]", "[0]"))
        )
        slot = slot_at(place)
        assert slot is not None, place
        takes = "a section, see [TLS](#tls)" if inner else _code(describe(slot))
        section, _, _ = path.partition(".")
        reload = "*reload*" if "." not in path and name in RELOADABLE.get(section, ()) else ""
        rows.append((f"`{name}`", _default(field), takes, reload, field.description or ""))
    if rows:
        yield from table(("key", "default", "takes", "", "what it is for"), rows)
        yield ""


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The settings section that a field holds: itself, optional, or the items of a list."""
    for part in (field.annotation, *get_args(field.annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def _is_list(field: FieldInfo) -> bool:
    return isinstance(field.get_default(call_default_factory=True), list)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "needed"
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int | float):
        return f"`{value:.12g}`" + _in_words(float(value), unit_of(field))
    return f"`{value}`"


def _in_words(value: float, unit: str | None) -> str:
    """` (7 d)` or ` (64 MiB)` where the number is a whole number of something larger."""
    steps = {
        "seconds": ((86_400, "d"), (3_600, "h"), (60, "min")),
        "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")),
    }
    for size, name in steps.get(unit or "", ()):
        if value >= size and value % size == 0:
            return f" ({value / size:.0f} {name})"
    return ""


def _code(takes: str) -> str:
    """Patterns as code: they are full of Markdown."""
    head, of, pattern = takes.partition(" of the form ")
    return f"{head}{of}`{pattern}`" if of else takes


# ---- commands ----------------------------------------------------------------------------------------

COMMANDS_HEAD = """# Commands

Every command with all its options, as `--help` shows it. Every command has `--help`; what a person reads goes to
stderr, what a program may read to stdout. Colours appear only on a terminal, and not with `NO_COLOR`.
`greenlang-iot --install-completion` makes your shell complete commands and options.
"""


def commands_page() -> str:
    lines = [COMMANDS_HEAD]
    for path, command in every_command(typer.main.get_command(app)):
        lines += _command(path, command)
    return "\n".join(lines)


def every_command(group: Any, path: str = "greenlang-iot") -> Iterator[tuple[str, Any]]:
    """(`greenlang-iot devices list`, the command) of every command, in the order of the help."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _command(path: str, command: Any) -> Iterator[str]:
    yield f"## {path}"
    yield ""
    for paragraph in re.split(r"\n\s*\n", command.help.strip()):
        text = " ".join(paragraph.split())
        kind, colon, rest = text.partition(": ")
        if colon and kind == "Example":
            yield from ("```sh", rest, "```")
        elif colon and kind == "Exit codes":
            yield "Exit codes: " + re.sub(r"(?<!\w)(\d)(?= |\.$)", r"**\1**", rest)
        else:
            yield text
        yield ""
    context = command.make_context(path, [], resilient_parsing=True)
    shown = [p for p in command.params if p.name not in ("help", "show_completion")]
    if shown:
        rows = [(_name(p, context), _default_of(p), _help(p)) for p in shown]
        yield from table(("option", "default", "what it says"), rows)
        yield ""


def _name(parameter: Any, context: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return names
    takes = parameter.metavar or parameter.display_type(context)
    return f"{names} {takes.strip('<>')}"


def _default_of(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = getattr(parameter.default, "value", parameter.default)
    if isinstance(default, list):  # an option that may be given several times
        return ", ".join(f"`{item}`" for item in default)
    return "" if default in (None, "", False) else f"`{default}`"


def _help(parameter: Any) -> str:
    text = (parameter.help or "").strip()
    if parameter.envvar:
        text += f" Environment: `{parameter.envvar}`."
    return text


# ---- metrics -----------------------------------------------------------------------------------------

METRICS_HEAD = """# Metrics

Everything `/metrics` offers, from the one catalogue in `src/greenlang_iot/observe/catalog.py`.

"""


def metrics_page() -> str:
    return METRICS_HEAD + render_markdown()


# ---- units -------------------------------------------------------------------------------------------

UNITS_HEAD = """# Units

The units that convert into each other, by what they measure. How they are used: [units](how-to/units.md).

"""


def units_page() -> str:
    found: dict[str, list[str]] = {}
    for name, unit in UNITS.items():
        found.setdefault(unit.dimension, []).append(f"`{name}`")
    rows = [(dimension, ", ".join(names)) for dimension, names in found.items()]
    return UNITS_HEAD + "\n".join(table(("what", "units"), rows)) + "\n"


# ---- schemas -----------------------------------------------------------------------------------------

SCHEMAS_HEAD = """# Schemas

What goes in and comes out, as JSON Schemas (2020-12). Each has a version in its name; a change that a reader could
trip over gets a new number, and the old file stays. What the members mean for a fleet is told in
[contracts](contracts.md).
"""


def schemas_page() -> str:
    lines = [SCHEMAS_HEAD]
    files = [DOCS / "schemas" / f"{name}.json" for name in SCHEMAS]
    files.append(ROOT / "devices" / "devices-registry.schema.json")
    for file in files:
        schema = json.loads(file.read_text())
        link = (
            f"../{file.relative_to(ROOT)}" if DOCS not in file.parents else f"schemas/{file.name}"
        )
        lines += [f"## {schema['title']}", "", f"[{file.name}]({link})", ""]
        lines += [schema["description"], ""] if "description" in schema else []
        for title, part in _objects(schema):
            lines += [f"**{title}**", ""] if title else []
            lines += [*_members(part), ""]
    return "\n".join(lines).rstrip() + "\n"


def _objects(schema: dict[str, Any], title: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(title, schema) of every object with members: itself, its variants, its definitions."""
    if "properties" in schema:
        yield title, schema
    for key in ("oneOf", "anyOf"):
        for part in schema.get(key, ()):
            kind = part.get("properties", {}).get("kind", {}).get("const")
            yield from _objects(part, part.get("title", f'kind "{kind}"' if kind else ""))
    definitions = schema.get("$defs", {})
    for name, part in definitions.items():
        yield from _objects(part, part.get("title", name))
    leaves = {n: p for n, p in definitions.items() if "description" in p and "properties" not in p}
    if leaves:
        yield "Types named above", {"properties": leaves}


def _members(schema: dict[str, Any]) -> Iterator[str]:
    rows: list[tuple[str, ...]] = []
    for name, part in schema["properties"].items():
        if isinstance(part, bool):
            continue  # forbidden here, or described by the other objects
        needed = "required" if name in schema.get("required", ()) else ""
        rows.append((f"`{name}`", _type(part), needed, part.get("description", "")))
    yield from table(("member", "type", "", "what it says"), rows)


def _type(part: dict[str, Any]) -> str:
    if "$ref" in part:
        return str(part["$ref"]).rpartition("/")[2]
    if "const" in part:
        return f"`{json.dumps(part['const'])}`"
    if "enum" in part:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in part["enum"])
    kind = part.get("type", "any")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    if "minimum" in part:
        text += f", at least {part['minimum']}"
    if "maximum" in part:
        text += f", at most {part['maximum']}"
    return text


# ---- all of them -------------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "metrics.md": metrics_page,
    "units.md": units_page,
    "schemas.md": schemas_page,
}
"""Page in `docs/` → how it is made."""


if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make(), encoding="utf-8")
