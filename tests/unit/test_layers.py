"""Imports point down only: each room may import rooms of its own layer or below, and nothing in a circle."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src"
PACKAGE = SOURCE / "greenlang_iot"
LAYERS = (
    ("model",),
    ("settings", "devices", "formats"),
    ("decode", "detect", "alerts", "quality", "encode", "acks"),
    ("mqtt", "sinks", "spool", "observe", "console", "simulate"),
    ("pipeline",),
    ("runtime", "bench"),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
PURE = {"model", "formats", "decode", "detect", "alerts", "quality", "encode", "acks"}
IMPURE_MODULES = {"asyncio", "socket", "ssl", "aiohttp", "aiokafka", "aiomqtt", "uvloop", "time"}


def imported(path: Path) -> Iterator[str]:
    """Dotted names, also those that are imported in a function or for types only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


IMPORTS = {module(path): set(imported(path)) for path in sorted(PACKAGE.rglob("*.py"))}
ROOMS = {name for name in IMPORTS if name not in ("greenlang_iot", "greenlang_iot.__main__")}


def room(name: str) -> str:
    return name.split(".")[1]


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_imports_point_down(name: str) -> None:
    for other in IMPORTS[name]:
        parts = other.split(".")
        if parts[0] == "greenlang_iot" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[room(name)], f"{name} imports {other}: it lies above"
        if room(name) in PURE:
            assert parts[0] not in IMPURE_MODULES, f"{room(name)} is pure and imports {other}"


def test_nothing_imports_in_a_circle() -> None:
    """Neither files nor rooms: each can be read with what it imports, and without what imports it."""
    files: dict[str, set[str]] = {}
    for name, others in IMPORTS.items():
        found = {o if o in IMPORTS else o.rpartition(".")[0] for o in others}
        files[name] = (found & ROOMS) - {name}
    rooms: dict[str, set[str]] = {}
    for name in ROOMS:
        rooms.setdefault(room(name), set()).update(
            room(other) for other in files[name] if room(other) != room(name)
        )
    for graph in (files, rooms):
        TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_every_room_has_a_layer() -> None:
    assert {room(name) for name in ROOMS} <= set(LEVEL)
