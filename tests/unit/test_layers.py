"""Imports point down only: each room may import rooms of its own layer or below."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "greenlang_iot"
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
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in {"__init__", "__main__"}:
        return
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] == "greenlang_iot" and len(parts) > 1 and parts[1] in LEVEL:
            assert LEVEL[parts[1]] <= LEVEL[room], f"{room} imports {name}, which lies above it"
        if room in PURE:
            assert parts[0] not in IMPURE_MODULES, f"{room} is pure and imports {name}"


def test_every_room_has_a_layer() -> None:
    rooms = {p.relative_to(PACKAGE).parts[0].removesuffix(".py") for p in SOURCES}
    assert rooms - {"__init__", "__main__"} <= set(LEVEL)
