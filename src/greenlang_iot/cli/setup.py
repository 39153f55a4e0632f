"""`greenlang-iot setup`: make what the sinks need, and show the difference first if asked."""

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from greenlang_iot.cli.options import CONFIG_FILES, AsJson, ConfigFiles
from greenlang_iot.cli.terminal import print_json
from greenlang_iot.model.errors import GatewayError, SinkError

if TYPE_CHECKING:
    from greenlang_iot.settings.model import Settings


def setup(
    config: ConfigFiles = CONFIG_FILES,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the difference.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make InfluxDB's org, buckets and downsampling task and Kafka's topics. Safe to repeat.

    Example: greenlang-iot setup --config config/iot-config.yaml --dry-run

    Exit codes: 0 done (or, with --dry-run, shown), 1 a service refuses or is away, 2 wrong settings.
    """
    from greenlang_iot.settings.load import load

    settings = load(config, os.environ).settings
    differences, notes, failures = asyncio.run(_setup(settings, dry_run))
    if as_json:
        print_json({"applied": not dry_run, "differences": differences, "notes": notes})
    else:
        if not differences and not failures:
            sys.stdout.write("Nothing to do: everything is as the settings say.\n")
        for line in [*differences, *notes]:
            sys.stdout.write(line + "\n")
    if failures:
        raise GatewayError("\n".join(failures))


async def _setup(settings: "Settings", dry_run: bool) -> tuple[list[str], list[str], list[str]]:
    """(What was changed, or would be; what is to be known besides; why a service could not be asked.)

    Each service by itself: what is wrong with one keeps nothing from the other.
    """
    lines: list[str] = []
    notes: list[str] = []
    failures: list[str] = []
    if settings.sinks.influxdb.enabled:
        from greenlang_iot.sinks.influx_setup import influx_setup

        influx = influx_setup(settings.sinks.influxdb)
        try:
            changes = await (influx.plan() if dry_run else influx.apply())
            lines += [f"influxdb: {c.subject}: {c.current} → {c.wanted}" for c in changes]
            notes.append(f"influxdb: {await influx.downsampling()}")
        except (GatewayError, SinkError) as error:
            failures.append(str(error))
        finally:
            await influx.close()
    if settings.sinks.kafka.enabled:
        from greenlang_iot.sinks.kafka_setup import KafkaSetup

        kafka = KafkaSetup(settings.sinks.kafka)
        try:
            plans = await (kafka.plan() if dry_run else kafka.apply())
            lines += [f"kafka: {line}" for plan in plans for line in plan.lines()]
        except (GatewayError, SinkError) as error:
            failures.append(str(error))
    return lines, notes, failures
