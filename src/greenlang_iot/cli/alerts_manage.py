"""`greenlang-iot alerts list|show|ack|silence|silences|unsilence`: over the running gateway's admin API."""

import getpass
import os
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

import typer

from greenlang_iot.cli.gateway_client import ask
from greenlang_iot.cli.options import CONFIG_FILES, AsJson, ConfigFiles
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.model.severity import Severity

By = Annotated[str | None, typer.Option(help="Who does it. [default: the login name]")]
_PAGE = 1_000


def add_commands(app: typer.Typer) -> None:
    app.command("list")(list_alerts)
    app.command()(show)
    app.command()(ack)
    app.command()(silence)
    app.command()(silences)
    app.command()(unsilence)


def list_alerts(
    config: ConfigFiles = CONFIG_FILES,
    state: Annotated[
        str,
        typer.Option(help="States, with commas: pending, open, acknowledged, resolved; or all."),
    ] = "open,acknowledged",
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this device.")] = None,
    severity: Annotated[Severity | None, typer.Option(help="Only this severity.")] = None,
    rule: Annotated[str | None, typer.Option(help="Only this rule.")] = None,
    search: Annotated[str | None, typer.Option(help="Words that all occur in it.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List alerts of the running gateway, newest first.

    Example: greenlang-iot alerts list --site north --state open

    Exit codes: 0 listed, 1 the gateway cannot be asked, 2 wrong input.
    """
    from greenlang_iot.cli.alert_lines import line
    from greenlang_iot.cli.terminal import console, print_json, say

    filters: dict[str, Any] = {
        "site": site,
        "device": device,
        "severity": severity,
        "rule": rule,
        "q": search,
    }
    filters["state"] = None if state == "all" else state
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    total = 0
    while cursor is not None and len(found) < limit:
        query = filters | {"limit": min(limit - len(found), _PAGE), "cursor": cursor or None}
        page = _ask(config, "GET", "/api/v1/alerts", query=query)
        found += page["alerts"]
        cursor, total = page["next"], page["total"]
    if as_json:
        print_json({"alerts": found, "total": total})
        return
    out = console()
    for alert in found:
        out.print(f"{alert['alert_id']}  ", end="")
        out.print(line(alert))
    say(f"{len(found)} of {total}" if total else "no alerts")


def show(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Show one alert with its transitions and, of an incident, its members.

    Example: greenlang-iot alerts show 8f0c2c1f6f0e4a7b

    Exit codes: 0 shown, 1 the gateway cannot be asked, 2 there is no such alert.
    """
    from greenlang_iot.cli.alert_lines import line
    from greenlang_iot.cli.terminal import console, print_json
    from greenlang_iot.observe.printable import printable

    alert = _ask(config, "GET", f"/api/v1/alerts/{_quoted(alert_id)}")
    if as_json:
        print_json(alert)
        return
    out = console()
    out.print(line(alert))
    facts = {k: alert[k] for k in ("group", "by", "comment", "runbook") if alert.get(k)}
    facts |= {f"label {k}": v for k, v in alert.get("labels", {}).items()}
    for name, value in facts.items():
        out.print(f"{name}: {printable(str(value))}")
    out.print("transitions:")
    for transition in alert["transitions"]:
        out.print(f"  {transition['number']:>3}  ", end="")
        out.print(line(transition))
    if alert["members"]:
        out.print(f"members ({alert['members_total']}):")
        for member in alert["members"]:
            out.print(f"  {member['alert_id']}  ", end="")
            out.print(line(member))


def ack(
    alert_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    comment: Annotated[str, typer.Option(help="What is done about it.")] = "",
    by: By = None,
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Acknowledge an open alert; of an incident, all its members.

    Example: greenlang-iot alerts ack 8f0c2c1f6f0e4a7b --comment "pump is being replaced"

    Exit codes: 0 acknowledged, 1 the gateway cannot be asked, 2 there is no such alert, or it is not open.
    """
    from greenlang_iot.cli.alert_lines import line
    from greenlang_iot.cli.terminal import console, print_json

    body = {"comment": comment, "by": by if by is not None else _login()}
    alert = _ask(config, "POST", f"/api/v1/alerts/{_quoted(alert_id)}/ack", body)
    print_json(alert) if as_json else console().print(line(alert))


def silence(
    reason: Annotated[str, typer.Option(help="Why, for whoever wonders later.")],
    duration: Annotated[
        str | None, typer.Option("--for", help="How long: 30m, 8h, 2d.", metavar="DURATION")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Until when, instead of --for: ISO 8601.", metavar="TIME")
    ] = None,
    starts: Annotated[
        str | None,
        typer.Option(help="From when, for planned maintenance: ISO 8601.", metavar="TIME"),
    ] = None,
    site: Annotated[str | None, typer.Option(help="Pattern of the site.")] = None,
    device_type: Annotated[str | None, typer.Option("--type", help="Of the device's type.")] = None,
    device: Annotated[str | None, typer.Option(help="Of the device.")] = None,
    metric: Annotated[str | None, typer.Option(help="Of the metric.")] = None,
    rule: Annotated[str | None, typer.Option(help="Of the rule.")] = None,
    severity: Annotated[str | None, typer.Option(help="Of the severity.")] = None,
    by: By = None,
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Silence alerts: they are recorded with the flag and nobody is notified.

    Patterns hold * ? and [seq]; an alert is silenced if all that are given match.

    Example: greenlang-iot alerts silence --site north --device "pump-*" --for 4h --reason "pumps are cleaned"

    Exit codes: 0 silenced, 1 the gateway cannot be asked, 2 wrong input.
    """
    from greenlang_iot.cli.terminal import console, print_json

    given = {"site": site, "type": device_type, "device": device, "metric": metric}
    given |= {"rule": rule, "severity": severity}
    body: dict[str, Any] = {"match": {k: v for k, v in given.items() if v is not None}}
    body |= {"reason": reason, "by": by if by is not None else _login()}
    if duration is not None:
        body["duration"] = seconds(duration)
    body |= {k: v for k, v in (("until", until), ("starts", starts)) if v is not None}
    made = _ask(config, "POST", "/api/v1/silences", body)
    print_json(made) if as_json else console().print(_silence_line(made))


def silences(config: ConfigFiles = CONFIG_FILES, as_json: AsJson = False) -> None:
    """List silences that hold or will hold.

    Example: greenlang-iot alerts silences

    Exit codes: 0 listed, 1 the gateway cannot be asked.
    """
    from greenlang_iot.cli.terminal import console, print_json

    found = _ask(config, "GET", "/api/v1/silences")["silences"]
    if as_json:
        print_json({"silences": found})
        return
    for item in found:
        console().print(_silence_line(item))


def unsilence(
    silence_id: Annotated[str, typer.Argument(metavar="ID", help="As `silences` shows it.")],
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """End a silence now; alerts that are still open are notified.

    Example: greenlang-iot alerts unsilence 5f2a90c1d7e3

    Exit codes: 0 ended, 1 the gateway cannot be asked, 2 there is no such silence.
    """
    from greenlang_iot.cli.terminal import print_json

    done = _ask(config, "DELETE", f"/api/v1/silences/{_quoted(silence_id)}")
    print_json(done) if as_json else typer.echo(f"silence {done['ended']} ended")


def seconds(text: str) -> float:
    """`90`, `45s`, `30m`, `8h`, `7d` in seconds. Raises InputError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text.strip())
    if found is None:
        raise InputError(f"{text!r} is no duration: write 45s, 30m, 8h or 7d.")
    return (
        float(found[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}[found[2] or "s"]
    )


def _silence_line(item: dict[str, Any]) -> str:
    from greenlang_iot.cli.alert_lines import moment
    from greenlang_iot.observe.printable import printable

    match = " ".join(f"{k}={v}" for k, v in item["match"].items())
    who = f" ({item['by']})" if item["by"] else ""
    return printable(
        f"{item['id']}  {moment(item['starts'])} to {moment(item['until'])}  {match}  "
        f"{item['reason']}{who}"
    )


def _quoted(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _ask(
    config: list[Path],
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    query: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The gateway's answer. Raises InputError for what it refuses, GatewayError where it cannot."""
    from greenlang_iot.settings.load import load

    wanted = {name: value for name, value in (query or {}).items() if value is not None}
    if wanted:
        path += f"?{urlencode(wanted)}"
    status, answer = ask(load(config, os.environ).settings, method, path, body)
    if status < 400:
        return answer
    message = str(answer.get("error", answer))
    if status in (400, 404, 409):
        raise InputError(f"{message}.", tuple(map(str, answer.get("problems", ()))))
    raise GatewayError(f"the gateway answered {status}: {message}")
