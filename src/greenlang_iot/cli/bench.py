"""`greenlang-iot bench`: measures, on this machine, what the gateway costs."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from greenlang_iot.cli.bench_detect import detect
from greenlang_iot.cli.options import AsJson
from greenlang_iot.cli.terminal import print_json, say
from greenlang_iot.model.errors import InputError

app = typer.Typer(help="Measure the gateway on this machine.", no_args_is_help=True)
app.command()(detect)

_STALLED = """stalled: share of the time in which the machine itself computed several times slower than usual (a witness
sees it); p99 beside: without what was due then, and until that was worked off.
"""
_HEAD = ("CPU ns/msg", "x orjson", "paired", "msg/s", "RSS MB", "verified")
_INSIDE = {
    "spool": "both sinks away",
    "zstd": "Kafka zstd",
    "small_records": "a message a TLS record",
    "by_hand": "by hand, half as much",
}


@app.callback()
def group() -> None:
    """Measure the gateway on this machine."""


@app.command()
def headline(
    json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
    seconds: Annotated[float, typer.Option(min=1.0, help="Seconds of load that count.")] = 20.0,
    sustain: Annotated[
        float, typer.Option(min=0.0, help="Then so many without a pause; 0: none.")
    ] = 60.0,
    devices: Annotated[int, typer.Option(min=4, max=100_000, help="Devices, a series each.")] = (
        10_000
    ),
    record_bytes: Annotated[
        int, typer.Option(min=128, max=65_536, help="What the loader writes at once.")
    ] = 16_384,
    spool: Annotated[bool, typer.Option(help="Also with both sinks away.")] = True,
    zstd: Annotated[bool, typer.Option(help="Also with Kafka's batches compressed.")] = True,
    small_records: Annotated[
        bool, typer.Option(help="Also with one message in a TLS record.")
    ] = True,
    by_hand: Annotated[bool, typer.Option(help="Also what one writes by hand.")] = True,
    results: Annotated[Path | None, typer.Option(help="Folder for headline.json.")] = None,
) -> None:
    """CPU per message of the whole gateway with everything on, against one orjson.loads.

    Example: greenlang-iot bench headline --json

    Exit codes: 0 measured and verified, 1 something was lost or wrong, 2 wrong input.
    """
    import orjson

    from greenlang_iot.bench.headline import Options
    from greenlang_iot.bench.headline import headline as run
    from greenlang_iot.bench.results import write

    options = Options(
        seconds, sustain, devices, record_bytes, spool, zstd, small_records, by_hand
    )  # fmt: skip
    done = run(options, _next)
    row = done.row
    rows = [row] + [row[key] | {"name": name} for key, name in _INSIDE.items() if key in row]
    _print_rows(rows)
    sys.stdout.write(
        f"the unit, one orjson.loads: {row['unit_ns']:.0f} ns (spread {row['spread']:.0%}); "
        f"CPU per message p10 {row['cpu_ns_p10']:.0f}, p90 {row['cpu_ns_p90']:.0f}; "
        f"{row['messages']:,} messages in {row['seconds']:.0f} s\n"
    )
    if steady := row.get("sustained"):
        sys.stdout.write(
            f"sustained for {steady['seconds']:.0f} s: {steady['messages_per_s']:,} messages/s "
            f"(lowest of any 5 s: {steady['lowest_of_5_s']:,})\n"
        )
    if results is not None:
        said = [{k: v for k, v in r.items() if k not in _INSIDE} for r in rows]
        say(f"written: {write(results, 'headline', said, done.wrong)}")
    _complain(done.wrong)
    if json:
        sys.stdout.write(orjson.dumps(row).decode() + "\n")
    if done.wrong:
        raise typer.Exit(1)


@app.command()
def ladder(
    name: Annotated[
        str,
        typer.Argument(help="features, records, devices, batches, shards, latency or servers."),
    ],
    seconds: Annotated[float, typer.Option(min=0.2, help="Seconds of load of a rung.")] = 4.0,
    results: Annotated[Path | None, typer.Option(help="Folder for NAME.json.")] = None,
    broker: Annotated[
        str, typer.Option(help="servers: mqtts://[user:password@]host:port, a throw-away one.")
    ] = "",
    ca_file: Annotated[str, typer.Option(help="servers: who signed its certificate.")] = "",
    kafka: Annotated[str, typer.Option(help="servers, latency: host:port, a throw-away one.")] = "",
    influxdb: Annotated[
        str, typer.Option(help="servers, latency: http://host:port of a throw-away InfluxDB 1.x.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run after run of the gateway, each with one thing changed.

    `servers` puts real ones in the place of ours, and `latency` can. They get the load and keep it: give it none that you need.

    Example: greenlang-iot bench ladder features --results bench/results

    Exit codes: 0 measured and verified, 1 something was lost or wrong, 2 wrong input.
    """
    from greenlang_iot.bench import ladders, latency
    from greenlang_iot.bench.results import write

    if name == "latency":
        if broker:
            raise InputError(
                "ladder latency is its own broker, because that sees the acknowledgements: leave --broker out"
            )
        done = latency.run(seconds, _next, kafka, influxdb)
    elif name == "servers":
        rungs = ladders.servers(broker, ca_file, kafka, influxdb)
        if len(rungs) == 1:
            raise InputError("no server is given: name one with --broker, --kafka or --influxdb")
        done = ladders.run(rungs, seconds, _next)
    elif name in ladders.LADDERS:
        done = ladders.run(ladders.LADDERS[name], seconds, _next)
    else:
        known = ", ".join(("latency", "servers", *ladders.LADDERS))
        raise InputError(f"no ladder {name!r}; there are {known}")
    if as_json:
        print_json(done.rows)
    elif name == "latency":
        _print_latency(done.rows)
    else:
        _print_rows(done.rows)
    if results is not None:
        real = name == "latency" and (kafka or influxdb)
        file = "latency-servers" if real else name
        say(f"written: {write(results, file, done.rows, done.wrong)}")
    _complain(done.wrong)
    if done.wrong:
        raise typer.Exit(1)


@app.command()
def peers(
    gateway_command: Annotated[
        str | None, typer.Option(help="A command to measure as the gateway, instead.")
    ] = None,
    kafka: Annotated[bool, typer.Option(help="Whether that command writes to Kafka, too.")] = True,
    seconds: Annotated[float, typer.Option(min=0.5, help="Seconds of load.")] = 3.0,
    results: Annotated[
        Path | None, typer.Option(help="Folder for peers.json, or the command's name.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Others in the gateway's place: by hand, the stock clients, or a command of yours.

    The command finds BENCH_MQTT_PORT, BENCH_CA_FILE, BENCH_INFLUXDB_PORT and BENCH_KAFKA_PORT in its
    environment.

    Example: greenlang-iot bench peers --gateway-command "./my-gateway --fast"

    Exit codes: 0 measured, 1 not all arrived, 2 wrong input.
    """
    import shlex

    from greenlang_iot.bench import peers as others
    from greenlang_iot.bench.results import write

    chosen = [others.BY_HAND, others.STOCK]
    if gateway_command:
        words = shlex.split(gateway_command)
        chosen = [others.Peer(Path(words[0]).name, words, kafka=kafka)]
    rows, wrong = [], []
    for peer in chosen:
        _next(peer.name)
        done = others.run(peer, seconds)
        rows.append(done.row)
        wrong += done.wrong
    print_json(rows) if as_json else _print_rows(rows)
    if results is not None:
        name = "peers" if gateway_command is None else chosen[0].name
        say(f"written: {write(results, name, rows, wrong)}")
    _complain(wrong)
    if wrong:
        raise typer.Exit(1)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="OLD", help="Results of a ladder.")],
    after: Annotated[Path, typer.Argument(metavar="NEW", help="Results of the same one.")],
    as_json: AsJson = False,
) -> None:
    """Judge two runs of a ladder, with their noise: faster, slower, or no difference that shows.

    What is judged is said in each line: `ratio_paired`, which a machine that changes its speed leaves alone,
    where both runs have it; else `ratio`.

    Example: greenlang-iot bench compare old/features.json bench/results/features.json

    Exit codes: 0 nothing is slower, 1 something is, 2 wrong input.
    """
    from greenlang_iot.bench import results

    judged = results.compare(results.read(before), results.read(after))
    if as_json:
        print_json([dataclasses.asdict(item) for item in judged])
    for item in judged if not as_json else ():
        sys.stdout.write(
            f"{item.name:32}{item.before:>8.2f}{item.after:>8.2f} ± {item.noise:<6.2f}"
            f"{item.figure:14}{item.verdict}\n"
        )
    if any(item.verdict == "slower" for item in judged):
        raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of results.")] = Path("bench/results"),
    as_json: AsJson = False,
) -> None:
    """Tables (report.md) and a picture of every ladder whose results are in a folder.

    Example: greenlang-iot bench report bench/results

    Exit codes: 0 written, 2 wrong input.
    """
    from greenlang_iot.bench.report import report as write

    written = write(folder)
    if as_json:
        print_json([str(path) for path in written])
    else:
        for path in written:
            say(f"written: {path}")


def _next(name: str) -> None:
    say(f"measuring: {name}")


def _complain(wrong: list[str]) -> None:
    for sentence in wrong:
        sys.stderr.write(f"WRONG: {sentence}\n")


def _print_rows(rows: list[dict[str, Any]]) -> None:
    sys.stdout.write(f"{'':32}" + "".join(f"{title:>12}" for title in _HEAD) + "\n")
    for row in rows:
        sys.stdout.write(
            f"{row['name']:32}{row['cpu_ns_per_message']:>12,.0f}{row['ratio']:>12.2f}"
            f"{row.get('ratio_paired', math.nan):>12.2f}"
            f"{row['messages_per_s']:>12,}{row.get('rss_mb', ''):>12}"
            f"{row.get('verified', '')!s:>12}\n"
        )


def _print_latency(rows: list[dict[str, Any]]) -> None:
    titles = ("msg/s", "p50 ms", "p99 ms", "p99.9 ms", "stalled", "p99 beside", "CPU ns/msg")
    sys.stdout.write(f"{'':32}" + "".join(f"{title:>12}" for title in titles) + "\n")
    for row in rows:
        sys.stdout.write(
            f"{row['name']:32}{row['messages_per_s']:>12,}"
            f"{row['p50']:>12.1f}{row['p99']:>12.1f}{row['p99.9']:>12.1f}"
            f"{row['stalled']:>12.1%}{row.get('p99 beside', math.nan):>12.1f}"
            f"{row['cpu_ns_per_message']:>12,}\n"
        )
    sys.stdout.write(_STALLED)
