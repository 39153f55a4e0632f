"""Options that several commands share, so that they are named and explained alike."""

from pathlib import Path
from typing import Annotated, Final

import typer

ConfigFiles = Annotated[
    list[Path],
    typer.Option(
        "--config",
        metavar="<path>",
        help="Settings (YAML). Given again, the later file wins, key by key; "
        "the environment wins over all.",
    ),
]
DevicesFile = Annotated[Path, typer.Option(help="Device registry (JSON).")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
JsonSummary = Annotated[bool, typer.Option("--json", help="The same as --summary json.")]

CONFIG: Final = Path("config/iot-config.yaml")
CONFIG_FILES: Final = [CONFIG]
REGISTRY: Final = Path("devices/devices-registry.json")
NOBODY = "the registry has no devices; `greenlang-iot devices discover` proposes one"
"""Why a gateway hears nothing, and what to do."""
