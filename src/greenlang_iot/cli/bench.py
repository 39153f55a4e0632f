"""`greenlang-iot bench`: measures, on this machine, what the gateway costs."""

import sys
from typing import Annotated, Any

import typer

from greenlang_iot.cli.bench_detect import detect

app = typer.Typer(help="Measure the gateway on this machine.", no_args_is_help=True)
app.command()(detect)


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
    spool: Annotated[bool, typer.Option(help="Also with both sinks away.")] = True,
    by_hand: Annotated[bool, typer.Option(help="Also what one writes by hand.")] = True,
) -> None:
    """CPU per message of the whole gateway with everything on, against one orjson.loads.

    Example: greenlang-iot bench headline --json

    Exit codes: 0 measured and verified, 1 something was lost or wrong, 2 wrong input.
    """
    import orjson

    from greenlang_iot.bench.headline import Options
    from greenlang_iot.bench.headline import headline as run

    done = run(Options(seconds, devices, record_bytes, spool, by_hand))
    _print_table(done.result)
    for sentence in done.wrong:
        sys.stderr.write(f"WRONG: {sentence}\n")
    if json:
        sys.stdout.write(orjson.dumps(done.result).decode() + "\n")
    if done.wrong:
        raise typer.Exit(1)


def _print_table(result: dict[str, Any]) -> None:
    rows = {"everything on": result, "spooled": result.get("spool")}
    rows["by hand, half as much"] = result.get("by_hand")
    sys.stdout.write(
        f"{'':24}{'CPU ns/msg':>12}{'x orjson':>10}{'msg/s':>12}{'RSS MB':>8}{'verified':>10}\n"
    )
    for name, row in rows.items():
        if row:
            sys.stdout.write(
                f"{name:24}{row['cpu_ns_per_message']:>12.0f}{row['ratio']:>10.2f}"
                f"{row['messages_per_s']:>12,}{row.get('rss_mb', ''):>8}"
                f"{row.get('verified', ''):>10}\n"
            )
    sys.stdout.write(
        f"the unit, one orjson.loads: {result['unit_ns']:.0f} ns (spread {result['spread']:.0%}); "
        f"CPU per message p10 {result['cpu_ns_p10']:.0f}, p90 {result['cpu_ns_p90']:.0f}; "
        f"{result['messages']:,} messages in {result['seconds']:.0f} s\n"
    )
