"""`greenlang-iot spool`: what waits on disk for a sink."""

import os
import time
from pathlib import Path
from typing import Any

import typer

from greenlang_iot.cli.options import CONFIG_FILES, AsJson, ConfigFiles
from greenlang_iot.cli.terminal import console, print_json, say
from greenlang_iot.model.errors import GatewayError

app = typer.Typer(help="What waits on disk for a sink.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """What waits on disk for a sink."""


@app.command()
def status(
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Say what waits in the spool, per shard and sink; reads only, also while the gateway runs.

    Example: greenlang-iot spool status --json

    Exit codes: 0 said, 1 the spool cannot be read, 2 the settings are wrong.
    """
    from greenlang_iot.runtime.folders import spool_folder
    from greenlang_iot.settings.load import load

    settings = load(config, os.environ).settings
    folder = spool_folder(settings)
    try:
        rows = [_row(path, settings.spool.max_bytes) for path in sorted(folder.glob("shard-*/*/"))]
    except OSError as error:
        raise GatewayError(f"cannot read the spool in {folder}: {error.strerror}") from error
    if as_json:
        print_json({"folder": str(folder), "spools": rows})
        return
    if not rows:
        sinks = settings.sinks
        why = "the gateway has not run with it yet"
        if not (sinks.influxdb.enabled or sinks.kafka.enabled):
            why = "it is InfluxDB's and Kafka's, and neither is enabled"
        say(f"no spool in {folder}: {why}")
    out = console()
    for row in rows:
        waits = "empty"
        if row["chunks"]:
            waits = (
                f"{row['chunks']:,} chunks, {row['bytes'] / 1e6:,.1f} MB ({row['full']:.1%} full)"
            )
            if row["oldest_seconds"] is not None:
                waits += f", oldest at most {row['oldest_seconds']:,.0f} s old"
        if row["damaged"]:
            waits += f"; damaged: {', '.join(row['damaged'])}"
        out.print(f"shard {row['shard']}  {row['sink']:<9} {waits}")


def _row(path: Path, max_bytes: int) -> dict[str, Any]:
    from greenlang_iot.spool.status import log_status

    found = log_status(path)
    age = None if found.oldest_ns is None else max(0.0, (time.time_ns() - found.oldest_ns) / 1e9)
    return {
        "shard": int(path.parent.name.removeprefix("shard-")),
        "sink": path.name,
        "chunks": found.records,
        "segments": found.segments,
        "bytes": found.nbytes,
        "full": found.nbytes / max_bytes if max_bytes else 0.0,
        "oldest_seconds": age,
        "damaged": list(found.damaged),
    }
