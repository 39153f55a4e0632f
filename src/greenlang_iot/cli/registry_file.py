"""Registry documents on disk: read whole, written one device a line, never over a file."""

from pathlib import Path
from typing import Any

from greenlang_iot.cli.new_file import write_new


def read_document(path: Path) -> dict[str, Any]:
    """A sound registry as JSON types. Raises InputError with every mistake in it."""
    import orjson

    from greenlang_iot.devices.registry import BYTE_ORDER_MARK, parse, unreadable

    try:
        body = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    parse(body, str(path))
    document: dict[str, Any] = orjson.loads(body.removeprefix(BYTE_ORDER_MARK))
    return {"types": {}, "devices": [], **document}


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write a registry to a new file. Raises InputError where there is one already, or it cannot be."""
    import orjson

    parts = {
        key: orjson.dumps(value, option=orjson.OPT_INDENT_2).replace(b"\n", b"\n  ")
        for key, value in document.items()
        if key != "devices"
    }
    devices = b",\n    ".join(orjson.dumps(device) for device in document["devices"])
    parts["devices"] = b"[\n    " + devices + b"\n  ]" if devices else b"[]"
    body = b",\n  ".join(orjson.dumps(key) + b": " + value for key, value in parts.items())
    write_new(path, b"{\n  " + body + b"\n}\n")
