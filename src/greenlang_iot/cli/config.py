"""`greenlang-iot config`: make, check and look at settings without running anything."""

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from greenlang_iot.cli.config_init import init
from greenlang_iot.cli.options import (
    CONFIG_FILES,
    NOBODY,
    REGISTRY,
    AsJson,
    ConfigFiles,
    DevicesFile,
)
from greenlang_iot.cli.terminal import PROBLEMS_SHOWN, console, counted, print_json
from greenlang_iot.model.errors import InputError

if TYPE_CHECKING:
    from greenlang_iot.alerts.rule_file import RuleSet
    from greenlang_iot.model.directory import Directory
    from greenlang_iot.settings.model import Settings

app = typer.Typer(help="Make, check and look at settings.", no_args_is_help=True)
app.command()(init)


@app.callback()
def group() -> None:
    """Make, check and look at settings."""


@app.command()
def show(
    config: ConfigFiles = CONFIG_FILES,
    only: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only settings below this, such as mqtt.")
    ] = "",
    changed: Annotated[bool, typer.Option("--changed", help="Leave defaults out.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every effective setting and where its value comes from; secrets are masked.

    Example: greenlang-iot config show sinks.kafka --changed

    Exit codes: 0 shown, 2 the settings are wrong, or there is none of this name.
    """
    from rich.text import Text

    from greenlang_iot.devices.metrics import suggest
    from greenlang_iot.settings.explain import DEFAULT, effective
    from greenlang_iot.settings.load import load as load_settings

    every = list(effective(load_settings(config, os.environ)))
    rows = [row for row in every if row.name.startswith(only)]
    if not rows:
        raise InputError(f"there is no setting {only}{suggest(only, (row.name for row in every))}")
    rows = [row for row in rows if not (changed and row.source == DEFAULT)]
    if as_json:
        print_json({row.name: {"value": row.value, "source": row.source} for row in rows})
        return
    out = console()
    for row in rows:
        value = "null" if row.value is None else json.dumps(row.value, ensure_ascii=False)
        style = "dim" if row.source == DEFAULT else "cyan"
        out.print(Text.assemble(f"{row.name}: {value}", (f"  # {row.source}", style)))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors that complete and check YAML.

    Example: greenlang-iot config schema > config/iot-config.schema.json

    Then begin the file with: # yaml-language-server: $schema=iot-config.schema.json

    Exit codes: 0.
    """
    from greenlang_iot.settings.explain import json_schema

    print_json(json_schema())


@app.command()
def check(
    config: ConfigFiles = CONFIG_FILES,
    devices_file: DevicesFile = REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Report every mistake in both files at once.

    Example: greenlang-iot config check --config config/iot-config.yaml

    Exit codes: 0 no mistake (there may be warnings), 2 mistakes.
    """
    from rich.text import Text

    from greenlang_iot.devices.registry import load as load_registry
    from greenlang_iot.runtime.rules import load_rules
    from greenlang_iot.settings.load import load as load_settings

    failures: list[InputError] = []
    warnings: tuple[str, ...] = ()
    settings = directory = None
    try:
        loaded = load_settings(config, os.environ)
        settings, warnings = loaded.settings, loaded.warnings
    except InputError as error:
        failures.append(error)
    try:
        directory = load_registry(devices_file)
    except InputError as error:
        failures.append(error)

    rules = None
    if settings is not None:
        try:
            rules = load_rules(settings.alerts)
        except InputError as error:
            failures.append(error)

    summary: list[str] = []
    if settings and directory and rules:
        summary = _summary(settings, directory, rules)
        warnings += _unmatched(directory, rules)
        if not directory.n_devices and settings.mqtt.layout == "sites":
            warnings += (f"the gateway would hear nothing: {NOBODY}",)
    if as_json:
        print_json(
            {
                "valid": not failures,
                "mistakes": [p for f in failures for p in f.problems or (str(f),)],
                "warnings": warnings,
                "summary": summary,
            }
        )
    else:
        out = console()
        for warning in warnings:
            out.print(Text.assemble(("warning ", "yellow"), warning))
        for failure in failures:
            out.print(Text.assemble(("mistake ", "bold red"), str(failure)))
            for problem in failure.problems[:PROBLEMS_SHOWN]:
                out.print(Text(f"  {problem}"))
            if len(failure.problems) > PROBLEMS_SHOWN:
                out.print(Text(f"  … and {len(failure.problems) - PROBLEMS_SHOWN} more"))
        for line in summary:
            out.print(Text.assemble(("ok ", "green"), line))
    if failures:
        raise typer.Exit(2)


def _summary(settings: "Settings", directory: "Directory", rules: "RuleSet") -> list[str]:
    """What these two files make together: fleet, filters, the rate that the windows allow."""
    from greenlang_iot.runtime.layout import plan
    from greenlang_iot.settings.checks import ASSUMED_ACK_LATENCY

    shards = plan(directory, settings.mqtt, settings.runtime.shards, settings.instance)
    filters = {f for shard in shards for c in shard.connections for f in c.filters}
    connections = sum(len(shard.connections) for shard in shards)
    windows = sum(
        settings.mqtt.brokers[connection.broker].receive_maximum
        for shard in shards
        for connection in shard.connections
    )
    lines = [
        f"{counted(directory.n_devices, 'device')}, {directory.n_series:,} series, "
        f"{counted(len(directory.site), 'site')} of {counted(len(directory.org), 'org')}",
        f"{counted(settings.runtime.shards, 'shard')}, {counted(connections, 'connection')} to "
        f"{counted(len(settings.mqtt.brokers), 'broker')}, {counted(len(filters), 'topic filter')}",
    ]
    lines += [f"{len(rules.rules)} alert rules"] if rules.rules else []
    lines += [f"{entry.topic}: {entry.format}" for entry in settings.mqtt.formats]
    if settings.mqtt.qos == 1:
        lines.append(
            f"the receive windows allow {windows / ASSUMED_ACK_LATENCY:,.0f} messages/s "
            f"if an ack takes {ASSUMED_ACK_LATENCY:g} s"
        )
    return lines


def _unmatched(directory: "Directory", rules: "RuleSet") -> tuple[str, ...]:
    """Rules that no series of the registry is under: often a name that is misspelt."""
    from greenlang_iot.alerts.matching import unmatched

    found = unmatched(rules.rules, directory)
    return tuple(f"alert rule {name} matches nothing in this registry" for name in found)
