"""`greenlang-iot bench`: measures, on this machine, what the gateway costs."""

import sys
from typing import Annotated

import typer

app = typer.Typer(help="Measure the gateway on this machine.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Measure the gateway on this machine."""


@app.command()
def headline(
    json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
    seconds: Annotated[float, typer.Option(min=1.0, help="Seconds of load that count.")] = 20.0,
    devices: Annotated[int, typer.Option(min=4, max=100_000, help="Devices, a series each.")] = (
        10_000
    ),
    record_bytes: Annotated[
        int, typer.Option(min=128, max=65_536, help="What the loader writes at once.")
    ] = 16_384,
) -> None:
    """CPU per message of the whole gateway with everything on, against one orjson.loads.

    Example: greenlang-iot bench headline --json
    """
    import orjson

    from greenlang_iot.bench.headline import Options, everything_on

    options = Options(seconds, devices, record_bytes)
    result, wrong = everything_on(options)
    for name, value in result.items():
        sys.stdout.write(f"{name:>20}  {value}\n")
    for sentence in wrong:
        sys.stderr.write(f"WRONG {sentence}\n")
    if json:
        sys.stdout.write(orjson.dumps(result).decode() + "\n")
    if wrong:
        raise typer.Exit(1)
