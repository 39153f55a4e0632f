"""`greenlang-iot setup`: make what the sinks need, and show the difference first if asked."""

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenlang_iot.cli.options import CONFIG_FILES, AsJson, ConfigFiles
from greenlang_iot.cli.terminal import print_json
from greenlang_iot.model.errors import GatewayError, InputError, SinkError

if TYPE_CHECKING:
    from greenlang_iot.settings.model import Settings
    from greenlang_iot.sinks.influx_setup2 import InfluxSetup2


def setup(
    config: ConfigFiles = CONFIG_FILES,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the difference.")] = False,
    influxdb_token_out: Annotated[
        Path | None,
        typer.Option(
            help="Keep a token here that may write to the bucket and no more: for the gateway."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make InfluxDB's org, buckets and downsampling task and Kafka's topics. Safe to repeat.

    Example: greenlang-iot setup --config config/iot-config.yaml --dry-run

    Example: greenlang-iot setup --influxdb-token-out secrets/influxdb-gateway

    Exit codes: 0 done (or, with --dry-run, shown), 1 a service refuses or is away, 2 wrong settings.
    """
    from greenlang_iot.settings.load import load

    settings = load(config, os.environ).settings
    influxdb = settings.sinks.influxdb
    if influxdb_token_out is not None and not (influxdb.enabled and influxdb.version == "2"):
        raise InputError("--influxdb-token-out is for an InfluxDB 2 that is enabled.")
    differences, notes, failures = asyncio.run(_setup(settings, dry_run, influxdb_token_out))
    if as_json:
        print_json({"applied": not dry_run, "differences": differences, "notes": notes})
    else:
        if not differences and not failures:
            sys.stdout.write("Nothing to do: everything is as the settings say.\n")
        for line in [*differences, *notes]:
            sys.stdout.write(line + "\n")
    if failures:
        raise GatewayError("\n".join(failures))


async def _setup(
    settings: "Settings", dry_run: bool, token_out: Path | None
) -> tuple[list[str], list[str], list[str]]:
    """(What was changed, or would be; what is to be known besides; why a service could not be asked.)

    Each service by itself: what is wrong with one keeps nothing from the other.
    """
    lines: list[str] = []
    notes: list[str] = []
    failures: list[str] = []
    if settings.sinks.influxdb.enabled:
        from greenlang_iot.sinks.influx_setup import influx_setup
        from greenlang_iot.sinks.influx_setup2 import InfluxSetup2

        influx = influx_setup(settings.sinks.influxdb)
        try:
            changes = await (influx.plan() if dry_run else influx.apply())
            lines += [f"influxdb: {c.subject}: {c.current} → {c.wanted}" for c in changes]
            if isinstance(influx, InfluxSetup2) and token_out is not None:
                lines += await _gateway_token(influx, token_out, dry_run)
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


async def _gateway_token(influx: "InfluxSetup2", path: Path, dry_run: bool) -> list[str]:
    """The difference, if the file holds no token that InfluxDB takes. Raises InputError, SinkError."""
    from greenlang_iot.settings.secrets import write_private

    try:
        kept = _read(path)
        if kept and await influx.takes(kept):
            return []
        if not dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, f"{await influx.gateway_token()}\n".encode())
    except OSError as error:
        raise InputError(f"the token cannot be kept in {path}: {error.strerror}") from error
    return [f"influxdb: token in {path}: {'refused' if kept else 'missing'} → may write"]


def _read(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""
