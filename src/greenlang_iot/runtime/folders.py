"""Where below `data_dir` things are kept."""

from pathlib import Path
from typing import Final

from greenlang_iot.settings.model import Settings

QUALITY_OUTBOX: Final = "gateway"
"""Below `outbox_folder`: what the parent finds of quality."""


def spool_folder(settings: Settings) -> Path:
    return settings.spool.path or settings.data_dir / "spool"


def lake_folder(settings: Settings) -> Path:
    return settings.sinks.lake.path or settings.data_dir / "lake"


def dead_letter_folder(settings: Settings) -> Path:
    return settings.sinks.dead_letter.path or settings.data_dir / "dead-letter"


def outbox_folder(settings: Settings) -> Path:
    return settings.data_dir / "outbox"


def alerts_folder(settings: Settings) -> Path:
    return settings.data_dir / "alerts"


def admin_url_file(settings: Settings) -> Path:
    """Holds the address of the admin endpoint while a gateway runs: `https://127.0.0.1:8090`."""
    return settings.data_dir / "run" / "admin-url"
