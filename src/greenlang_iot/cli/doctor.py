"""`greenlang-iot doctor`: is everything that the gateway needs there, and what to do where it is not."""

import asyncio
import os
import textwrap
from typing import TYPE_CHECKING

import typer

from greenlang_iot.cli.options import CONFIG_FILES, REGISTRY, AsJson, ConfigFiles, DevicesFile
from greenlang_iot.cli.terminal import console, print_json, say

if TYPE_CHECKING:
    from greenlang_iot.runtime.doctor.finding import Finding
    from greenlang_iot.settings.model import Settings

_STYLE = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def doctor(
    config: ConfigFiles = CONFIG_FILES,
    devices_file: DevicesFile = REGISTRY,
    as_json: AsJson = False,
) -> None:
    """Check broker, InfluxDB, Kafka and this machine, and say what to do about each problem.

    Safe beside a running gateway. It writes no readings and changes no settings; to learn what the
    login may publish it sends one empty, unretained message to the status and an alert topic.

    Example: greenlang-iot doctor --config config/iot-config.yaml

    Exit codes: 0 nothing failed (there may be warnings), 1 something failed, 2 wrong settings.
    """
    from greenlang_iot.devices.registry import load as load_registry
    from greenlang_iot.observe.logs import configure
    from greenlang_iot.runtime.layout import plan
    from greenlang_iot.settings.formats import templates
    from greenlang_iot.settings.load import load as load_settings

    loaded = load_settings(config, os.environ)
    settings = loaded.settings
    configure(settings.log.model_copy(update={"level": "error"}))
    if not as_json:
        for warning in loaded.warnings:
            say(f"warning: {warning}")
    if devices_file.exists():
        directory = load_registry(devices_file)
        shards = plan(directory, settings.mqtt, settings.runtime.shards, settings.instance)
        filters = sorted({f for s in shards for c in s.connections for f in c.filters})
    else:
        filters = [template.filter() for template in templates(settings.mqtt)]
    findings = asyncio.run(_examine(settings, filters, as_json))
    failed = sum(finding.state == "failed" for finding in findings)
    if as_json:
        print_json(
            {
                "healthy": not failed,
                "warnings": loaded.warnings,
                "findings": [finding.as_dict() for finding in findings],
            }
        )
    else:
        warned = sum(finding.state == "warning" for finding in findings)
        say(f"{len(findings)} checks, {failed} failed, {warned} warnings")
    if failed:
        raise typer.Exit(1)


async def _examine(settings: "Settings", filters: list[str], as_json: bool) -> list["Finding"]:
    from rich.text import Text

    from greenlang_iot.observe.printable import printable
    from greenlang_iot.runtime.doctor.checks import examine

    out = console()
    findings = []
    async for finding in examine(settings, filters):
        findings.append(finding)
        if as_json:
            continue
        said = Text(_wrapped(f"{finding.subject}: {printable(finding.said)}", "", out.width))
        out.print(Text.assemble((f"{finding.state:<8} ", _STYLE[finding.state]), said))
        if finding.advice:
            out.print(" " * 9 + _wrapped(finding.advice, "→ ", out.width))
    return findings


def _wrapped(text: str, head: str, width: int) -> str:
    """The text in lines that fit beside the column of states."""
    return textwrap.fill(
        head + text,
        max(width - 9, 40),
        subsequent_indent=" " * (9 + len(head)),
        break_long_words=False,
        break_on_hyphens=False,
    )
