"""A file that a command writes and that was not there before."""

from pathlib import Path

from greenlang_iot.model.errors import InputError


def write_new(path: Path, body: bytes) -> None:
    """Write it, with the folders it needs, whole or not at all. Raises InputError, also where it exists."""
    begun = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            begun = True
            file.write(body)
    except OSError as error:
        if begun:
            path.unlink(missing_ok=True)
        elif isinstance(error, FileExistsError) and path.parent.is_dir():
            raise InputError(f"{path} exists already, and is left as it is.") from error
        why = "its folder is a file" if isinstance(error, FileExistsError) else error.strerror
        raise InputError(f"cannot write {path}: {why}") from error
