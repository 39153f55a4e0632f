"""`greenlang-iot detect`: what detection makes of history, under one setting or two, and why it alerted."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from greenlang_iot.cli.options import CONFIG_FILES, REGISTRY, AsJson, ConfigFiles, DevicesFile
from greenlang_iot.model.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from greenlang_iot.model.batches import F64, I64
    from greenlang_iot.model.directory import Directory
    from greenlang_iot.runtime.detect_replay import Episode, Replay
    from greenlang_iot.settings.model import Settings

app = typer.Typer(
    help="Try detection on history; ask why an alert was opened.", no_args_is_help=True
)
_SHOWN = 50
"""Alerts that a table on the screen shows."""

Series = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|SELECT",
        help="CSV or Parquet with timestamp and value, or a SELECT of ts and value over the lake. "
        "[default: the lake's readings of --device and --metric]",
    ),
]
Device = Annotated[str | None, typer.Option(help="Whose limits of the registry hold.")]
Metric = Annotated[str | None, typer.Option(help="With --device.")]
Since = Annotated[str, typer.Option(metavar="DURATION", help="How far back in the lake: 12h, 7d.")]
Lake = Annotated[Path | None, typer.Option(help="Folder of the lake. [default: the settings']")]
Pictures = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE", help="Write a picture: .png, or .html that zooms. May be repeated."
    ),
]
Rows = Annotated[
    Path | None, typer.Option("--table", help="Write every reading and its verdict here (CSV).")
]


@app.callback()
def group() -> None:
    """Try detection on history; ask why an alert was opened.

    Example: greenlang-iot detect replay --series history.csv --picture history.html

    Exit codes: 0 done, 1 failed, 2 wrong input.
    """


@app.command("replay")
def replay_command(
    series: Series = None,
    device: Device = None,
    metric: Metric = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            help="A profile of the registry, numbers, or both: spiky,threshold=6,warmup=60. "
            "[default: the registry's]",
        ),
    ] = None,
    since: Since = "7d",
    lake: Lake = None,
    picture: Pictures = None,
    table: Rows = None,
    devices_file: DevicesFile = REGISTRY,
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Replay history through the detector that the gateway runs: alerts, a picture, a table.

    It begins with an empty memory: the first readings are learnt and not judged.

    Example: greenlang-iot detect replay --device pump-7 --metric pressure --since 30d --picture pump-7.html

    Example: greenlang-iot detect replay --series history.csv --profile smooth --picture history.png

    Exit codes: 0 done, 1 the lake cannot be read, 2 the series or other input is wrong.
    """
    from greenlang_iot.cli.terminal import console, counted, print_json, say

    given = _given(series, device, metric, since, lake, devices_file, config)
    result = given.run(profile)
    for path in picture or []:
        from greenlang_iot.cli.detect_pictures import write

        write(path, given.title, [("", result)])
        say(f"written: {path}")
    if table is not None:
        _write_rows(table, result)
        say(f"written: {table}")
    if as_json:
        alerts = [episode.as_dict() for episode in result.episodes]
        print_json({"series": given.title, **result.figures(), "alerts_opened": alerts})
        return
    out = console(wrap=True)
    out.print(_figures(given.title, {"": result}))
    if result.episodes:
        out.print(_alerts(result.episodes))
    shed, per_1000 = result.figures()["shed"], given.settings.detect.second_stage.budget_per_1000
    if shed:
        say(
            f"shed: {counted(shed, 'reading')} that the second stage had no budget for "
            f"(detect.second_stage.budget_per_1000 is {per_1000:g}); a series alone has little of it at first"
        )
    if len(result.episodes) > _SHOWN:
        say(f"… and {len(result.episodes) - _SHOWN:,} more alerts; --json has them all")


@app.command("compare")
def compare_command(
    a: Annotated[str, typer.Option("--a", metavar="PROFILE", help="As --profile of replay.")],
    b: Annotated[str, typer.Option("--b", metavar="PROFILE", help="What it is compared with.")],
    series: Series = None,
    device: Device = None,
    metric: Metric = None,
    since: Since = "7d",
    lake: Lake = None,
    picture: Pictures = None,
    devices_file: DevicesFile = REGISTRY,
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Replay the same history under two profiles: what each finds and the other does not.

    Example: greenlang-iot detect compare --a default --b spiky --series history.csv --picture both.png

    Example: greenlang-iot detect compare --a default --b threshold=6 --device pump-7 --metric pressure

    Exit codes: 0 done, 1 the lake cannot be read, 2 the series or other input is wrong.
    """
    from greenlang_iot.cli.terminal import console, print_json, say
    from greenlang_iot.runtime.detect_replay import compare

    given = _given(series, device, metric, since, lake, devices_file, config)
    first, second = given.run(a), given.run(b)
    found = compare(first, second)
    for path in picture or []:
        from greenlang_iot.cli.detect_pictures import write

        write(path, given.title, [("a", first), ("b", second)])
        say(f"written: {path}")
    if as_json:
        print_json(
            {
                "series": given.title,
                "a": first.figures(),
                "b": second.figures(),
                "in_both": len(found.both),
                "only_a": [episode.as_dict() for episode in found.only_a],
                "only_b": [episode.as_dict() for episode in found.only_b],
            }
        )
        return
    out = console(wrap=True)
    out.print(_figures(given.title, {f"a: {a}": first, f"b: {b}": second}))
    out.print(f"alerts of both: {len(found.both)}")
    for title, episodes in (("only a", found.only_a), ("only b", found.only_b)):
        out.print(f"{title}: {len(episodes)}")
        if episodes:
            out.print(_alerts(episodes))


@app.command()
def explain(
    alert_id: Annotated[str, typer.Argument(metavar="ALERT_ID", help="As `alerts list` shows it.")],
    lake: Lake = None,
    devices_file: DevicesFile = REGISTRY,
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Say in words why an alert was opened: which detector, against which baseline, its numbers.

    The running gateway is asked first; where none runs, or it has forgotten the alert, the lake is.

    Example: greenlang-iot detect explain 5f2c9a0b7d31e846

    Exit codes: 0 explained, 1 nobody knows the alert, 2 wrong input.
    """
    from greenlang_iot.alerts.explained import explain as in_words
    from greenlang_iot.cli.detect_alert import before, find
    from greenlang_iot.cli.terminal import console, print_json

    settings = _settings(config)
    folder = _lake(settings, lake)
    history = find(settings, folder, alert_id)
    directory = _registry(devices_file)
    opening = next((t for t in history if t["state"] == "open"), history[0])
    sentences = in_words(opening, history[-1], directory, before(folder, opening))
    if as_json:
        print_json({"alert": opening, "newest": history[-1], "explanation": sentences})
        return
    out = console()
    for sentence in sentences:
        out.print(sentence)


# ---- what is replayed -------------------------------------------------------------------------------


class _Given(NamedTuple):
    title: str
    directory: "Directory"
    position: int
    ts_ns: "I64"
    value: "F64"
    settings: "Settings"

    def run(self, profile: str | None) -> "Replay":
        from greenlang_iot.runtime.detect_replay import replay

        name, changes = parse_profile(profile or "")
        detect = self.settings.detect
        if changes:
            from greenlang_iot.settings.model import DetectSettings

            detect = DetectSettings.model_validate(detect.model_dump() | changes)
        return replay(
            self.directory,
            self.position,
            self.ts_ns,
            self.value,
            detect,
            self.settings.alerts,
            name,
        )


_NUMBERS: dict[str, Callable[[str], float]] = {
    "threshold": float,
    "warmup": int,
    "silence_intervals": float,
}
"""What `--profile` may change of the detect settings."""


def parse_profile(text: str) -> tuple[str | None, dict[str, float]]:
    """`spiky,threshold=6` → ("spiky", {"threshold": 6.0}). Raises InputError."""
    from greenlang_iot.model.directory import PROFILES
    from greenlang_iot.settings.expect import suggest
    from greenlang_iot.settings.model import DetectSettings

    name, changes = None, {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals:
            if part not in PROFILES:
                raise InputError(f"there is no profile {part!r}; {suggest(part, PROFILES)}")
            name = part
            continue
        if key not in _NUMBERS:
            raise InputError(f"{key!r} is no number of a profile: {', '.join(_NUMBERS)}.")
        try:
            changes[key] = _NUMBERS[key](number)
            DetectSettings.model_validate(changes)
        except ValueError:
            raise InputError(f"{number!r} is no value for {key}.") from None
    return name, changes


def _given(
    series: str | None,
    device: str | None,
    metric: str | None,
    since: str,
    lake: Path | None,
    devices_file: Path,
    config: list[Path],
) -> _Given:
    from greenlang_iot.runtime import recorded
    from greenlang_iot.runtime.detect_replay import unregistered

    if (device is None) != (metric is None):
        raise InputError("--device and --metric go together.")
    if series is None and device is None:
        raise InputError("which series? give --series, or --device and --metric.")
    settings = _settings(config)
    if device is not None and metric is not None:
        directory = _registry(devices_file)
        if directory is None:
            raise InputError(f"there is no {devices_file}: it says what {device} is.")
        index = _index(directory, device, metric)
        title = f"{metric} of {device}"
    else:
        directory, index, title = unregistered(), 0, Path(series or "").name
    if series is not None and not recorded.is_query(series):
        ts, value = recorded.from_file(Path(series), device, metric)
    else:
        ts, value = _from_lake(_lake(settings, lake), series, device or "", metric or "", since)
        title = title if device else "a SELECT over the lake"
    if not len(ts):
        raise InputError(f"there is no reading of {title} to replay.")
    return _Given(title, directory, index, ts, value, settings)


def _from_lake(
    lake: Path, query: str | None, device: str, metric: str, since: str
) -> "tuple[I64, F64]":
    import time

    from greenlang_iot.cli.alerts_manage import seconds
    from greenlang_iot.runtime import recorded

    now = time.time_ns()
    return recorded.from_lake(lake, query, device, metric, now - int(seconds(since) * 1e9), now)


def _settings(config: list[Path]) -> "Settings":
    """The settings; the defaults where there is no file and none was asked for."""
    from greenlang_iot.settings.load import load

    files = None if config == CONFIG_FILES and not CONFIG_FILES[0].exists() else config
    # sends nothing, so it needs no sink's token
    return load(files, os.environ, {"sinks.influxdb.enabled": False}).settings


def _lake(settings: "Settings", lake: Path | None) -> Path:
    from greenlang_iot.runtime.folders import lake_folder

    return lake or lake_folder(settings)


def _registry(path: Path) -> "Directory | None":
    from greenlang_iot.devices.registry import load

    return None if path == REGISTRY and not path.exists() else load(path)


def _index(directory: "Directory", device: str, metric: str) -> int:
    from greenlang_iot.console.band import series_of
    from greenlang_iot.settings.expect import suggest

    names = [directory.device[i] for i in range(directory.n_devices)]
    if device not in names:
        raise InputError(f"the registry has no device {device!r}; {suggest(device, names[:20])}.")
    index = series_of(directory, names.index(device), metric)
    if index is None:
        raise InputError(f"{device} has no metric {metric!r}.")
    return index


# ---- what is printed --------------------------------------------------------------------------------


def _figures(title: str, replays: "dict[str, Replay]") -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column(title)
    for name in replays:
        table.add_column(name, justify="right")
    columns = [replay.figures() for replay in replays.values()]
    for key in columns[0]:
        table.add_row(key.replace("_", " "), *(_cell(column[key]) for column in columns))
    return table


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items()) or "–"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _alerts(episodes: "list[Episode]") -> "Table":
    from rich.table import Table

    from greenlang_iot.alerts.words import duration
    from greenlang_iot.cli.alert_lines import moment

    table = Table("opened", "for", "rule", "severity", "why")
    for episode in episodes[:_SHOWN]:
        t, end = episode.opening, episode.resolved_ns
        lasted = "open" if end is None else duration(end - t.opened_ns)
        table.add_row(moment(t.opened_ns), lasted, t.rule, t.severity, t.summary)
    return table


def _write_rows(path: Path, result: "Replay") -> None:
    import csv

    try:
        with path.open("w", newline="") as file:
            rows = result.rows()
            first = next(rows)
            writer = csv.DictWriter(file, list(first), lineterminator="\n")
            writer.writeheader()
            writer.writerow(first)
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
