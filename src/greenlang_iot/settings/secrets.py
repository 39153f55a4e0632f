"""The secrets that a settings tree holds, so that logs can blank them; files that hold one."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, SecretStr


def secrets(section: object) -> Iterator[str]:
    """Every secret's value below `section`, in no particular order."""
    if isinstance(section, SecretStr):
        yield section.get_secret_value()
    elif isinstance(section, BaseModel):
        for name in type(section).model_fields:
            yield from secrets(getattr(section, name))
    elif isinstance(section, list | tuple):
        for item in section:
            yield from secrets(item)


def write_private(path: Path, body: bytes) -> None:
    """Replace `path` at once, readable by its owner only (0600) from the first byte. OSError."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(fd, "wb") as file:
        file.write(body)
    os.replace(temporary, path)
