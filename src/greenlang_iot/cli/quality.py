"""`greenlang-iot quality`: how good the data is, from the lake's table `quality`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenlang_iot.cli.options import CONFIG_FILES, AsJson, ConfigFiles
from greenlang_iot.cli.quality_words import figure_text, headline, site_name, skew_text
from greenlang_iot.cli.terminal import console, print_json, say
from greenlang_iot.model.errors import GatewayError, InputError

if TYPE_CHECKING:
    from rich.table import Table

    from greenlang_iot.sinks.lake_query import LakeReader

HEADINGS = ("complete", "timely", "valid", "consistent", "accurate")
"""Of the figures, where room is short."""

app = typer.Typer(help="How good the data is.", no_args_is_help=True)


@app.callback()
def quality() -> None:
    """How good the data is: complete, on time, valid, consistent, accurate.

    Example: greenlang-iot quality report --site plant-a

    Exit codes: 0 done, 1 there are no figures yet, 2 wrong input.
    """


@app.command()
def report(
    lake: Annotated[
        Path | None, typer.Option(help="Folder of the lake; default: what the settings say.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Only this site: its name, or org/site.")] = None,
    hours: Annotated[float, typer.Option(help="How far back the trend goes.", min=0.01)] = 24.0,
    devices: Annotated[int, typer.Option(help="Devices shown, the worst first.", min=0)] = 20,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures here.")] = None,
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """The latest window of the fleet, its sites and its worst devices; the trend in JSON and HTML.

    Example: greenlang-iot quality report --html quality.html

    Exit codes: 0 done, 1 there are no figures yet, 2 wrong input.
    """
    from greenlang_iot.settings.load import load
    from greenlang_iot.sinks.lake_query import LakeReader

    if lake is None:
        settings = load(config, os.environ).settings
        lake = settings.sinks.lake.path or settings.data_dir / "lake"
    document = collect(LakeReader(lake), site, hours, devices)
    if html is not None:
        from greenlang_iot.cli.quality_html import page

        try:
            html.write_text(page(document))
        except OSError as error:
            raise InputError(f"{html} cannot be written: {error.strerror}") from error
        say(f"written: {html}")
    if as_json:
        print_json(document)
    elif html is None:
        _print(document)


def collect(lake: "LakeReader", site: str | None, hours: float, devices: int) -> dict[str, Any]:
    """The report as plain JSON types. GatewayError where there are no figures yet."""
    (newest,) = lake.query("SELECT max(ts) AS ts FROM quality").to_pylist()
    if newest["ts"] is None:
        raise GatewayError(
            "There are no figures of quality yet: the first come after a third of quality.window, "
            "where sinks.lake is enabled."
        )
    ts = int(newest["ts"])
    rows = lake.query(f"SELECT * EXCLUDE (time) FROM quality WHERE ts = {ts}").to_pylist()  # noqa: S608
    wanted = ("", "") if site is None else _place(site, rows)
    if site is not None:
        rows = [row for row in rows if (row["org"], row["site"]) == wanted]
    scopes = {name: [r for r in rows if r["scope"] == name] for name in ("fleet", "site", "device")}
    worst = sorted(scopes["device"], key=_badness)
    since = ts - int(hours * 3.6e12)
    scope = "fleet" if site is None else "site"
    trend = [
        row
        for row in lake.query(
            f"SELECT * EXCLUDE (time) FROM quality WHERE scope = '{scope}' AND ts > {since} ORDER BY ts"  # noqa: S608
        ).to_pylist()
        if (row["org"], row["site"]) == wanted
    ]
    return {
        "to": ts,
        "seconds": rows[0]["seconds"],
        "fleet": scopes["fleet"][0] if scopes["fleet"] else None,
        "sites": sorted(scopes["site"], key=_badness),
        "devices_in_all": len(scopes["device"]),
        "devices_below": sum(bool(row["below"]) for row in scopes["device"]),
        "devices": worst[:devices],
        "trend": trend,
    }


def _place(site: str, rows: list[dict[str, Any]]) -> tuple[str, str]:
    """(org, site) of `site`, which may be written org/site."""
    places = sorted({(row["org"], row["site"]) for row in rows if row["scope"] == "site"})
    found = [place for place in places if site in (place[1], "/".join(place))]
    if not found:
        raise InputError(f"no figures of a site {site!r}: is it in the registry?")
    if len(found) > 1:
        names = ", ".join(map("/".join, found))
        raise InputError(f"there is more than one site {site!r}; say which: {names}")
    return found[0]


def _badness(row: dict[str, Any]) -> tuple[int, float, str]:
    """Most missed targets first, then the least complete."""
    complete = row["completeness"]
    return -len(row["below"]), 1.0 if complete is None else complete, row["site"] + row["device"]


def _print(document: dict[str, Any]) -> None:
    out = console()
    out.print(headline(document))
    if document["fleet"] is not None:
        out.print(_table("Fleet", [document["fleet"]], lambda row: "all"))
    out.print(_table("Sites", document["sites"], site_name))
    shown, every = len(document["devices"]), document["devices_in_all"]
    title = f"Devices, the worst {shown} of {every:,}"
    out.print(_table(title, document["devices"], lambda row: str(row["device"])))


def _table(title: str, rows: list[dict[str, Any]], name: Any) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from greenlang_iot.observe.printable import printable_block
    from greenlang_iot.quality.figures import FIGURES

    table = Table(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=0
    )
    table.add_column("", no_wrap=True)
    for heading in (*HEADINGS, "skew", "readings"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        figures = [figure_text(row, figure) for figure in FIGURES]
        table.add_row(printable_block(name(row)), *figures, skew_text(row), f"{row['received']:,}")
    return table
