"""`greenlang-iot config`: look at settings and registry without running anything."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenlang_iot.model.errors import InputError

if TYPE_CHECKING:
    from greenlang_iot.model.directory import Directory
    from greenlang_iot.settings.model import Settings

app = typer.Typer(help="Check settings and the device registry.", no_args_is_help=True)

_SHOWN = 100
"""Problems of one file that are printed; the rest are counted."""


@app.callback()
def group() -> None:
    """Check settings and the device registry."""


@app.command()
def check(
    config: Annotated[
        Path, typer.Option(help="Settings (YAML); the environment overrides it.")
    ] = Path("config/iot-config.yaml"),
    devices_file: Annotated[Path, typer.Option(help="Device registry (JSON).")] = Path(
        "devices/devices-registry.json"
    ),
) -> None:
    """Report every mistake in both files at once: exit 0 when there is none, 2 otherwise.

    Example: greenlang-iot config check --config config/iot-config.yaml
    """
    from rich.console import Console
    from rich.text import Text

    from greenlang_iot.devices.registry import load as load_registry
    from greenlang_iot.settings.load import load as load_settings

    console = Console(soft_wrap=True, highlight=False)
    failures: list[InputError] = []
    settings = directory = None
    try:
        loaded = load_settings(config, os.environ)
    except InputError as error:
        failures.append(error)
    else:
        settings = loaded.settings
        for warning in loaded.warnings:
            console.print(Text.assemble(("warning ", "yellow"), warning))
    try:
        directory = load_registry(devices_file)
    except InputError as error:
        failures.append(error)

    for failure in failures:
        console.print(Text.assemble(("mistake ", "bold red"), str(failure)))
        for problem in failure.problems[:_SHOWN]:
            console.print(Text(f"  {problem}"))
        if len(failure.problems) > _SHOWN:
            console.print(Text(f"  … and {len(failure.problems) - _SHOWN} more"))
    if settings is not None and directory is not None:
        for line in _summary(settings, directory):
            console.print(Text.assemble(("ok ", "green"), line))
    if failures:
        raise typer.Exit(2)


def _summary(settings: "Settings", directory: "Directory") -> list[str]:
    """What these two files make together: fleet, filters, the rate that the windows allow."""
    from greenlang_iot.runtime.layout import plan
    from greenlang_iot.settings.checks import ASSUMED_ACK_LATENCY, rate_bound

    shards = plan(directory, settings.mqtt, settings.runtime.shards, settings.instance)
    filters = {f for shard in shards for c in shard.connections for f in c.filters}
    connections = sum(len(shard.connections) for shard in shards)
    lines = [
        f"{directory.n_devices:,} devices, {directory.n_series:,} series, "
        f"{len(directory.site)} sites of {len(directory.org)} orgs",
        f"{settings.runtime.shards} shards, {connections} connections to "
        f"{len(settings.mqtt.brokers)} broker(s), {len(filters)} topic filters",
    ]
    if settings.mqtt.qos == 1:
        lines.append(
            f"the receive windows allow {rate_bound(settings):,.0f} messages/s "
            f"if an acknowledgement takes {ASSUMED_ACK_LATENCY:g} s"
        )
    return lines
