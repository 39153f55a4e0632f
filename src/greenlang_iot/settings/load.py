"""Settings from YAML files, the environment and overrides; every mistake at once.

- The later of files (in their order), environment (`GREENLANG_IOT__MQTT__BROKERS__0__PORT=1883`), overrides wins.
- Relative paths are relative to the current directory, wherever the file lies.
- Secrets come from the environment or from files (`token_file`, `password_file`), which are read
  here; no message ever shows a secret's value.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.checks import check
from greenlang_iot.settings.document import PREFIX, Document
from greenlang_iot.settings.expect import Place, Slot, describe, show, slot_at, suggest, unknown
from greenlang_iot.settings.model import CONFIG_VERSION, Settings


@dataclass(slots=True, frozen=True)
class Loaded:
    """Valid settings, what a person should know about them (one sentence each), and where each value
    was set (`document`, which holds secrets in the clear)."""

    settings: Settings
    warnings: tuple[str, ...]
    document: Document = field(repr=False)


def load(
    files: Path | Sequence[Path] | None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Loaded:
    """Read settings; without a file the defaults are the base.

    files: one, or several of which the later wins, key by key (lists as a whole).
    environ: usually `os.environ`. overrides: {"mqtt.brokers[0].port": 1883}.
    Raises InputError whose `problems` name every mistake: where, which setting, what is wrong.
    """
    paths = [files] if isinstance(files, Path) else files or []
    document = Document(", ".join(map(str, paths)) or "defaults")
    for path in paths:
        document.read_yaml(_text(path), str(path))
        if document.unreadable:
            break
    document.read_environment(environ or {})
    document.read_overrides(overrides or {})

    problems = list(document.problems)
    warnings = _read_secrets(document, problems)
    settings = _validate(document, problems)
    if settings is not None:
        touched = [place for place, _ in problems]
        for finding in check(settings):
            if any(_overlap(a, b) for a in touched for b in finding.places):
                continue  # it would judge a value that is wrong already
            place = finding.places[0]
            (warnings if finding.is_warning else problems).append((place, finding.message))
    if problems or settings is None:
        problems.sort(key=lambda problem: document.source(problem[0]).order)
        where = document.name if paths else "the settings"
        count = f"{len(problems)} mistake{'' if len(problems) == 1 else 's'}"
        raise InputError(f"{where}: {count}", tuple(_sentence(document, *p) for p in problems))
    return Loaded(settings, tuple(_sentence(document, *w) for w in warnings), document)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(
            f"there are no settings {path}: name yours with --config, or write a first file with "
            "`greenlang-iot config init`"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read the settings {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the settings {path} are not UTF-8 text") from error


def _sentence(document: Document, place: Place, message: str) -> str:
    name = show(place)
    return f"{document.source(place).text}: {name + ': ' if name else ''}{message}"


def _overlap(a: Place, b: Place) -> bool:
    shorter = min(len(a), len(b))
    return a[:shorter] == b[:shorter]


def _validate(document: Document, problems: list[tuple[Place, str]]) -> Settings | None:
    """The settings; where values are wrong, the settings with defaults in their place.

    So the checks between settings still run and report their mistakes in the same go.
    """
    data = document.data
    for _ in range(2):
        try:
            return Settings.model_validate(data)
        except ValidationError as error:
            data = copy.deepcopy(data)
            for found in error.errors(include_url=False, include_context=False):
                place: Place = tuple(found["loc"])
                if not any(
                    _overlap(place, known) and len(known) <= len(place) for known, _ in problems
                ):
                    problems.append((place, _explain(place, found["type"], found["input"])))
                _forget(data, place)
    return None


def _forget(data: Any, place: Place) -> None:
    for step in place[:-1]:
        data = data[step]
    last: Any = place[-1]
    if isinstance(data, list):
        data[last] = {}  # the other items keep their index
    else:
        data.pop(last, None)


def _explain(place: Place, error: str, value: object) -> str:
    slot = slot_at(place)
    if slot is None:
        return unknown(place) or error
    if error == "too_short":
        return "the list must not be empty"
    wanted = f"expected {describe(slot)}"
    if value is None:
        return f"nothing is set; {wanted}"
    if place == ("config_version",):
        return _other_version(value)
    if slot.kind is SecretStr or not isinstance(value, str | int | float):
        return wanted
    hint = ""
    if slot.is_text and (choices := describe(slot).split(" or "))[1:]:
        hint = f"; {suggest(str(value), choices)}"
    return f"{str(value)[:64]!r} does not fit; {wanted}{hint if 'did you mean' in hint else ''}"


def _other_version(value: object) -> str:
    if not isinstance(value, int) or isinstance(value, bool):
        return f"{value!r} is not a version; this release reads version {CONFIG_VERSION}"
    if value > CONFIG_VERSION:
        return (
            f"the file is of version {value}, newer than this release, which reads version "
            f"{CONFIG_VERSION}: install the release it was written for, or go back to the file you "
            "had before the upgrade"
        )
    return (
        f"the file is of version {value}, older than this release, which reads version "
        f"{CONFIG_VERSION}: the change log says what changed; compare with `config init`, then set "
        f"config_version: {CONFIG_VERSION}"
    )


def _read_secrets(document: Document, problems: list[tuple[Place, str]]) -> list[tuple[Place, str]]:
    """Put the contents of `*_file` where the secrets belong; returns warnings."""
    warnings: list[tuple[Place, str]] = []
    for place, data in _sections(document.data, ()):
        section = (slot_at(place) or Slot(None, False, None)).section
        for name in section.model_fields if section is not None else ():
            slot = slot_at((*place, name))
            if slot is None or slot.kind is not SecretStr:
                continue
            here, file_here = (*place, name), (*place, f"{name}_file")
            if data.get(name) in (None, ""):
                data.pop(name, None)
            elif document.source(here).rank == 0:
                advice = f"set {variable(here)} or {name}_file instead"
                warnings.append((here, f"a secret stands in the settings file; {advice}"))
            if data.get(f"{name}_file") is None:
                continue
            if name in data:
                ranks = document.source(here).rank, document.source(file_here).rank
                if ranks[0] == ranks[1]:
                    problems.append((here, f"both {name} and {name}_file are set; keep one"))
                if ranks[0] >= ranks[1]:
                    continue
            _read_secret(data, name, file_here, problems, warnings)
    return warnings


def _read_secret(
    data: dict[str, Any],
    name: str,
    place: Place,
    problems: list[tuple[Place, str]],
    warnings: list[tuple[Place, str]],
) -> None:
    path = Path(str(data[f"{name}_file"]))
    try:
        secret = path.read_text(encoding="utf-8").strip("\r\n")
        mode = path.stat().st_mode
    except OSError as error:
        whole = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        problems.append((place, f"cannot read {path}: {error.strerror}{whole}"))
    except UnicodeDecodeError:
        problems.append((place, f"{path} is not UTF-8 text"))
    else:
        if not secret:
            problems.append((place, f"{path} is empty"))
        if mode & 0o077:
            warnings.append((place, f"{path} is open to group or others; chmod 600 it"))
        data[name] = secret


def _sections(data: object, place: Place) -> list[tuple[Place, dict[str, Any]]]:
    """Every mapping in the tree with its place."""
    if isinstance(data, dict):
        found: list[tuple[Place, dict[str, Any]]] = [(place, data)]
        return found + [s for key, inner in data.items() for s in _sections(inner, (*place, key))]
    if isinstance(data, list):
        return [s for i, inner in enumerate(data) for s in _sections(inner, (*place, i))]
    return []


def variable(place: Place) -> str:
    """The environment variable that sets `place`."""
    return PREFIX + "__".join(str(step).upper() for step in place)
