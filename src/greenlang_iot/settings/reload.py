"""Which settings a running gateway can take over, and what else changed. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel

from greenlang_iot.settings.model import Settings

RELOADABLE: Final[dict[str, frozenset[str]]] = {
    "limits": frozenset(
        {
            "max_payload_bytes",
            "max_readings_per_message",
            "max_age",
            "max_future",
            "missing_ts",
            "device_rate",
            "site_rate",
        }
    ),
    "detect": frozenset(
        {"enabled", "threshold", "warmup", "silence_intervals", "checkpoint_every"}
    ),
    "alerts": frozenset(
        {
            "pending_for",
            "open_after",
            "resolve_after",
            "resolve_spike_after",
            "max_active",
            "cooldown",
            "rules_file",
            "group_devices",
            "group_window",
            "flap_count",
            "flap_window",
            "max_silences",
        }
    ),
    "log": frozenset({"format", "level"}),
}
"""Section → its settings that need no restart."""


@dataclass(slots=True, frozen=True)
class SettingsReload:
    """settings: what holds from now on. applied, needs_restart: names of settings that differ."""

    settings: Settings
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def reload_settings(current: Settings, wanted: Settings) -> SettingsReload:
    """`current` with everything of `wanted` that needs no restart."""
    applied: list[str] = []
    needs_restart: list[str] = []
    for name in _differences(current, wanted, ""):
        section, _, key = name.partition(".")
        (applied if key in RELOADABLE.get(section, ()) else needs_restart).append(name)
    sections = {
        section: getattr(current, section).model_copy(
            update={key: getattr(getattr(wanted, section), key) for key in keys}
        )
        for section, keys in RELOADABLE.items()
    }
    return SettingsReload(current.model_copy(update=sections), tuple(applied), tuple(needs_restart))


def _differences(a: BaseModel, b: BaseModel, prefix: str) -> Iterator[str]:
    for name in type(a).model_fields:
        one, two = getattr(a, name), getattr(b, name)
        if one == two:
            continue
        if isinstance(one, BaseModel) and isinstance(two, BaseModel):
            yield from _differences(one, two, f"{prefix}{name}.")
        else:
            yield prefix + name
