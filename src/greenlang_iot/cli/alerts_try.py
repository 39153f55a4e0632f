"""`greenlang-iot alerts test|notify-test`: rules over history, and whether people would hear of an alert."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from greenlang_iot.cli.options import CONFIG_FILES, REGISTRY, AsJson, ConfigFiles, DevicesFile
from greenlang_iot.model.errors import GatewayError, InputError

if TYPE_CHECKING:
    from greenlang_iot.alerts.rule_file import RuleSet
    from greenlang_iot.model.directory import Directory
    from greenlang_iot.runtime.rule_history import History
    from greenlang_iot.runtime.rule_trial import Trial
    from greenlang_iot.settings.model import AlertSettings, Settings


def add_commands(app: typer.Typer) -> None:
    app.command("test")(try_on_history)
    app.command("notify-test")(notify_test)


def try_on_history(
    rules: Annotated[
        Path | None, typer.Option(help="Rules to try. [default: alerts.rules_file]")
    ] = None,
    since: Annotated[str, typer.Option(metavar="DURATION", help="How far back: 12h, 7d.")] = "7d",
    source: Annotated[
        Literal["lake", "influxdb"] | None,
        typer.Option(help="Where history is. [default: the lake if it is enabled, else InfluxDB]"),
    ] = None,
    lake: Annotated[
        Path | None, typer.Option(help="Folder of the lake. [default: the settings']")
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="First openings to show, per rule.")] = 3,
    devices_file: DevicesFile = REGISTRY,
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Say what rules would have fired over the lake's or InfluxDB's history, by the code that the gateway runs.

    Alerts that were open before, and values before, are not known: it begins anew.

    Example: greenlang-iot alerts test --rules devices/alert-rules.yaml --since 7d

    Exit codes: 0 done, 1 the history cannot be read, 2 the rules or other input are wrong.
    """
    import time

    from greenlang_iot.alerts.matching import unmatched
    from greenlang_iot.cli.alert_lines import line
    from greenlang_iot.cli.alerts_manage import seconds
    from greenlang_iot.cli.terminal import console, counted, print_json, progress, say
    from greenlang_iot.devices.registry import load as load_registry
    from greenlang_iot.runtime.rule_trial import try_rules
    from greenlang_iot.settings.load import load

    settings = load(config, os.environ).settings
    given = _rules(settings.alerts, rules)
    directory = load_registry(devices_file)
    history = _history(settings, directory, source, lake)
    to_ns = time.time_ns()
    from_ns = to_ns - int(seconds(since) * 1e9)
    with progress("history", to_ns - from_ns) as advance:
        trial = try_rules(
            history,
            given,
            directory,
            settings.alerts,
            from_ns,
            to_ns,
            examples=examples,
            advance=advance,
        )
    if as_json:
        print_json(_document(trial))
        return
    out = console()
    nowhere = unmatched(given.rules, directory)
    for name, result in trial.rules.items():
        if name in nowhere:
            out.print(f"{name}: matches nothing in this registry")
            continue
        where = f" on {counted(len(result.devices), 'device')}" if result.opened else ""
        out.print(f"{name}: {result.opened:,} opened{where}, {result.resolved:,} resolved")
        for transition in result.examples:
            out.print("  ", end="")
            out.print(line(transition.as_dict()))
    more = f", {trial.unknown:,} of series that are not registered" if trial.unknown else ""
    say(f"{trial.readings:,} readings{more}; {trial.incidents:,} incidents")


def _history(
    settings: "Settings", directory: "Directory", source: str | None, lake: Path | None
) -> "History":
    from greenlang_iot.runtime.folders import lake_folder
    from greenlang_iot.runtime.rule_history import InfluxHistory, LakeHistory

    if lake is not None and source == "influxdb":
        raise InputError("--lake goes without --source influxdb.")
    in_lake = source == "lake" or lake is not None or settings.sinks.lake.enabled
    if source != "influxdb" and in_lake:
        return LakeHistory(lake or lake_folder(settings), directory)
    if settings.sinks.influxdb.enabled or source == "influxdb":
        return InfluxHistory(settings.sinks.influxdb, directory)
    raise InputError("neither sinks.lake nor sinks.influxdb is enabled: there is no history.")


def _document(trial: "Trial") -> dict[str, Any]:
    return {
        "readings": trial.readings,
        "unknown": trial.unknown,
        "incidents": trial.incidents,
        "rules": {
            name: {
                "opened": result.opened,
                "resolved": result.resolved,
                "devices": len(result.devices),
                "examples": [t.as_dict() for t in result.examples],
            }
            for name, result in trial.rules.items()
        },
    }


def notify_test(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this notifier.")
    ] = None,
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Send an alert that says it is a test to the notifiers, and its end, and say how it went.

    Example: greenlang-iot alerts notify-test

    Exit codes: 0 all took it, 1 one did not, 2 there is no such notifier.
    """
    import asyncio

    from greenlang_iot.cli.terminal import print_json, say
    from greenlang_iot.devices.metrics import suggest
    from greenlang_iot.settings.load import load

    settings = load(config, os.environ).settings
    wanted = [n for n in settings.alerts.notifiers if name in (None, n.name)]
    if not wanted:
        known = [n.name for n in settings.alerts.notifiers]
        if not known:
            raise InputError(
                "there are no notifiers yet: alerts.notifiers in the settings names whom to tell"
            )
        raise InputError(f"there is no notifier {name!r}{suggest(name, known)}")
    problems = {
        n.name: asyncio.run(_notify(n.name, settings.alerts, settings.instance)) for n in wanted
    }
    if as_json:
        print_json([{"notifier": n, "took": not p, "problem": p} for n, p in problems.items()])
    else:
        for notifier, problem in problems.items():
            say(f"{notifier}: {problem or 'took it'}")
    failed = [notifier for notifier, problem in problems.items() if problem]
    if failed:
        raise GatewayError(f"not told: {', '.join(failed)}.")


async def _notify(name: str, settings: "AlertSettings", instance: str) -> str:
    """What went wrong; empty if nothing did."""
    import time

    from greenlang_iot.alerts.book import Book
    from greenlang_iot.model.errors import SinkError
    from greenlang_iot.model.outcomes import Transition
    from greenlang_iot.sinks.notifiers import make_notifier

    (given,) = [n for n in settings.notifiers if n.name == name]
    book = Book(settings)
    notifier = make_notifier(given, book, instance)
    try:
        opened = time.time_ns()
        for number, state in ((1, "open"), (2, "resolved")):
            item = Transition(
                f"test-{opened}",
                number,
                state,
                "notify-test",
                "critical",
                "",
                "",
                "",
                "",
                opened,
                opened,
                None,
                None,
                None,
                1.0,
                "notify-test",
                "This is a test of the gateway's notifiers; nothing is wrong.",
            )
            await notifier.deliver([e["t"] for e in book.take([item.as_dict()], opened)])
    except SinkError as error:
        return str(error)
    finally:
        await notifier.close()
    return ""


def _rules(settings: "AlertSettings", path: Path | None) -> "RuleSet":
    from greenlang_iot.runtime.rules import load_rules

    found = load_rules(
        settings if path is None else settings.model_copy(update={"rules_file": path})
    )
    if not found.rules:
        raise InputError("there are no rules: give --rules, or set alerts.rules_file.")
    return found
