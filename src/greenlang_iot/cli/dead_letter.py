"""`greenlang-iot dead-letter`: what was rejected and why, and another try for it."""

import asyncio
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from greenlang_iot.cli.options import CONFIG_FILES, AsJson, AsJsonLines, ConfigFiles
from greenlang_iot.cli.terminal import Advance, console, print_json, print_json_line, progress, say
from greenlang_iot.model.errors import GatewayError, InputError

if TYPE_CHECKING:
    from greenlang_iot.settings.model import Settings
    from greenlang_iot.sinks.replay import Journal, Stored

app = typer.Typer(help="What was rejected and why; try it again.", no_args_is_help=True)

Device = Annotated[str | None, typer.Option(help="Only of this device.")]
Reason = Annotated[str | None, typer.Option(help="Only with this reason, such as out_of_range.")]
Sink = Annotated[str | None, typer.Option(help="Only refused by this sink.")]
Since = Annotated[str | None, typer.Option(help="Only since: 30m, 12h, 7d or an ISO 8601 time.")]
_SHOWN = 200
_UNIT = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@app.callback()
def group() -> None:
    """What was rejected and why; try it again."""


@app.command("list")
def list_letters(
    config: ConfigFiles = CONFIG_FILES,
    device: Device = None,
    reason: Reason = None,
    sink: Sink = None,
    since: Since = None,
    as_json: AsJsonLines = False,
) -> None:
    """List dead letters, the oldest first.

    Example: greenlang-iot dead-letter list --reason out_of_range --since 12h

    Exit codes: 0 listed (perhaps none), 1 they cannot be read, 2 wrong input.
    """
    from greenlang_iot.observe.printable import printable

    settings = _settings(config)
    items = _wanted(_read(settings)[0], device, reason, sink, since)
    if as_json:
        for item in items:
            print_json_line(_summary(item))
        return
    out = console()
    for item in items[-_SHOWN:]:
        row = _summary(item)
        of = row["device"] or row["sink"] or _said_by(item.letter.topic, settings.mqtt.topic)
        of = printable(of) if of else f"{row['count']:,} beyond the bound"
        mark = "  (replayed)" if item.replayed else ""
        out.print(f"{item.ident}  {row['time'][:19]}  {of}  {', '.join(item.reasons)}{mark}")
    if len(items) > _SHOWN:
        say(f"the newest {_SHOWN} of {len(items):,}; --json prints all")
    if not items:
        say("no dead letters")


def _said_by(topic: str, template: str) -> str:
    """`org/site/device` as the topic has them; the whole topic where it does not fit the template."""
    levels, names = topic.split("/"), template.split("/")
    if len(levels) != len(names):
        return topic
    said = dict(zip(names, levels, strict=True))
    return "/".join(said[name] for name in ("{org}", "{site}", "{device}"))


@app.command()
def show(
    ident: Annotated[
        str, typer.Argument(metavar="ID", help="Name of the dead letter, from the list.")
    ],
    config: ConfigFiles = CONFIG_FILES,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: what came, what was wrong where, what a replay would send.

    Example: greenlang-iot dead-letter show 3f2a90c1d4e5

    Exit codes: 0 shown, 1 they cannot be read, 2 there is no such dead letter.
    """
    from greenlang_iot.observe.printable import printable
    from greenlang_iot.sinks.replay import message_of, topics

    settings = _settings(config)
    items = _read(settings)[0]
    found = [item for item in items if item.ident.startswith(ident)]
    if len(found) != 1:
        what = "no dead letter" if not found else f"{len(found)} dead letters"
        raise InputError(f"{what} named {ident!r}; `greenlang-iot dead-letter list` names them.")
    (item,) = found
    letter = item.letter
    document = _summary(item) | {
        "topic": letter.topic,
        "paths": [{"path": path, "reason": str(reason)} for path, reason in letter.paths],
        "answer": letter.answer,
        "payload": letter.payload.decode("utf-8", "backslashreplace"),
        "replay": message_of(item, topics(settings.mqtt))[1].decode("utf-8", "backslashreplace")
        if item.target == "mqtt"
        else None,
    }
    if as_json:
        print_json(document)
        return
    out = console()
    for name, value in document.items():
        if name == "paths":
            for path in document["paths"]:
                where = printable(path["path"]) or "the message"
                out.print(f"{'at':>10}  {where}: {path['reason']}")
        elif value not in ("", None, [], 0):
            text = ", ".join(value) if isinstance(value, list) else str(value)
            out.print(f"{name:>10}  {printable(text)}")


@app.command()
def replay(
    idents: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Names, from the list.")
    ] = None,
    config: ConfigFiles = CONFIG_FILES,
    device: Device = None,
    reason: Reason = None,
    sink: Sink = None,
    since: Since = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were not replayed.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also what was replayed before.")] = False,
    username: Annotated[
        str | None, typer.Option(help="Login that may publish telemetry; default: the settings'.")
    ] = None,
    password_file: Annotated[Path | None, typer.Option(help="With --username.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be sent.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Try dead letters again, each where it was refused.

    What was rejected at decode is published again on its topic, without the readings of the same
    message that were accepted; the login must be allowed to publish there. What a sink refused goes
    to that sink alone. What succeeds is remembered and not replayed twice.

    Example: greenlang-iot dead-letter replay --reason unknown_device --since 2h --dry-run

    Exit codes: 0 all were taken, 1 some were refused again or a target is away, 2 wrong input.
    """
    if not (idents or everything or device or reason or sink or since):
        raise InputError("say which: names, --all, --device, --reason, --sink or --since.")
    settings = _settings(config, username, password_file)
    items, journal = _read(settings)
    chosen = [
        item
        for item in _wanted(items, device, reason, sink, since)
        if (not idents or any(item.ident.startswith(i) for i in idents))
        and (again or not item.replayed)
    ]
    can = [item for item in chosen if item.target in ("mqtt", "influxdb", "kafka")]
    if dry_run:
        _plan(settings, can, as_json)
        return
    taken: list[str] = []
    refused: dict[str, str] = {}
    try:
        with progress("replaying", len(can)) as advance:
            asyncio.run(_replay(settings, can, journal, taken, refused, advance))
    finally:
        _audit(settings, len(can), len(taken), len(refused))
    done = len(taken)
    digests = len(chosen) - len(can)
    if as_json:
        print_json({"replayed": done, "refused": refused, "not_replayable": digests})
    else:
        for ident, why in list(refused.items())[:_SHOWN]:
            say(f"{ident} refused: {why}")
        if "Not authorized" in refused.values():
            say("  → log in as who may publish there: --username and --password-file")
        say(f"{done:,} replayed, {len(refused):,} refused again")
        if set(taken).intersection(item.ident for item in can if item.target == "mqtt"):
            say(
                "what the gateway still rejects is a new dead letter: greenlang-iot dead-letter list"
            )
        if digests:
            say(
                f"{digests:,} cannot be replayed: only a digest or the beginning was kept, or no replay "
                "goes there"
            )
    if refused:
        raise typer.Exit(1)


def _audit(settings: "Settings", wanted: int, taken: int, refused: int) -> None:
    from greenlang_iot.observe.audit import Audit, local_user

    outcome = "done" if taken == wanted else "partly" if taken else "refused"
    try:
        Audit(settings.data_dir, settings.admin.audit_max_bytes).record(
            "dead-letter replay",
            local_user(),
            outcome,
            wanted=wanted,
            taken=taken,
            refused=refused,
        )
    except OSError as error:
        say(f"warning: the audit log was not written: {error}")


async def _replay(
    settings: "Settings",
    items: Sequence["Stored"],
    journal: "Journal",
    taken: list[str],
    refused: dict[str, str],
    advance: Advance,
) -> None:
    """Fill `taken` and `refused` with names (and why), in the order of the answers."""
    from greenlang_iot.sinks import replay as targets

    sinks = settings.sinks
    results: list[AsyncIterator[tuple[Stored, str | None]]] = []
    for target in ("mqtt", "influxdb", "kafka"):
        mine = [item for item in items if item.target == target]
        if not mine:
            continue
        if target == "mqtt":
            results.append(_publish(settings, mine))
        elif not getattr(sinks, target).enabled:
            raise InputError(f"sinks.{target} is not enabled: nothing can be replayed to it.")
        elif target == "influxdb":
            results.append(targets.to_influxdb(sinks.influxdb, mine))
        else:
            results.append(targets.to_kafka(sinks.kafka, mine))
    remembered = 0
    try:
        for result in results:
            async for item, why in result:
                if why is None:
                    taken.append(item.ident)
                else:
                    refused[item.ident] = why
                if len(taken) - remembered >= targets.GROUP:
                    journal.add(taken[remembered:])
                    remembered = len(taken)
                advance(len(taken) + len(refused))
    finally:
        journal.add(taken[remembered:])


async def _publish(
    settings: "Settings", items: Sequence["Stored"]
) -> AsyncIterator[tuple["Stored", str | None]]:
    from greenlang_iot.mqtt.resubmit import resubmit
    from greenlang_iot.sinks.replay import message_of, topics

    known = topics(settings.mqtt)
    answers = resubmit(settings.mqtt.brokers[0], (message_of(item, known) for item in items))
    for item in items:
        yield item, await anext(answers)
    await answers.aclose()  # type: ignore[attr-defined]


def _plan(settings: "Settings", items: Sequence["Stored"], as_json: bool) -> None:
    from greenlang_iot.observe.printable import printable
    from greenlang_iot.sinks.replay import message_of, topics

    known = topics(settings.mqtt)
    rows = []
    for item in items:
        body = message_of(item, known)[1] if item.target == "mqtt" else item.letter.payload
        to = item.letter.topic if item.target == "mqtt" else item.target
        text = body.decode("utf-8", "backslashreplace")
        rows.append({"id": item.ident, "target": item.target, "to": to, "payload": text})
    if as_json:
        print_json(rows)
        return
    for row in rows[:_SHOWN]:
        sys.stdout.write(printable(f"{row['id']}  {row['to']}  {row['payload'][:500]}") + "\n")
    say(f"{len(rows):,} would be sent")


def _settings(
    config: list[Path], username: str | None = None, password_file: Path | None = None
) -> "Settings":
    from greenlang_iot.settings.load import load

    overrides: dict[str, object] = {}
    if username is not None:
        overrides["mqtt.brokers[0].username"] = username
        if password_file is None:
            raise InputError("--username goes with --password-file.")
    if password_file is not None:
        overrides["mqtt.brokers[0].password_file"] = str(password_file)
    return load(config, os.environ, overrides).settings


def _read(settings: "Settings") -> tuple[list["Stored"], "Journal"]:
    from greenlang_iot.runtime.folders import dead_letter_folder
    from greenlang_iot.sinks.deadletter import read_dead_letters
    from greenlang_iot.sinks.replay import Journal, from_kafka, stored

    folder = dead_letter_folder(settings)
    try:
        journal = Journal(folder)
        letters = list(read_dead_letters(folder))
    except OSError as error:
        raise GatewayError(f"cannot read the dead letters in {folder}: {error.strerror}") from error
    if settings.sinks.dead_letter.target == "kafka":

        async def gather() -> None:
            letters.extend([letter async for letter in from_kafka(settings.sinks.kafka)])

        asyncio.run(gather())
    items = stored(letters, journal)
    items.sort(key=lambda item: item.letter.ts_ns)
    return items, journal


def _wanted(
    items: Sequence["Stored"],
    device: str | None,
    reason: str | None,
    sink: str | None,
    since: str | None,
) -> list["Stored"]:
    earliest = _since_ns(since) if since is not None else 0
    if reason is not None:
        _check_reason(reason, items)
    return [
        item
        for item in items
        if device in (None, item.letter.device)
        and (reason is None or reason in item.reasons)
        and sink in (None, item.letter.sink)
        and item.letter.ts_ns >= earliest
    ]


def _check_reason(reason: str, items: Sequence["Stored"]) -> None:
    """A word that is no reason finds nothing, which would read as though there were nothing."""
    from greenlang_iot.devices.metrics import suggest
    from greenlang_iot.model.reasons import Reason

    known = {str(known) for known in Reason}.union(*(item.reasons for item in items))
    if reason not in known:
        raise InputError(f"there is no reason {reason!r}{suggest(reason, known)}")


def _since_ns(text: str) -> int:
    if match := re.fullmatch(r"(\d+)([smhd])", text):
        return time.time_ns() - int(match[1]) * _UNIT[match[2]] * 1_000_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"--since {text!r}: write 30m, 12h, 7d or an ISO 8601 time.") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e9)


def _summary(item: "Stored") -> dict[str, Any]:
    letter = item.letter
    return {
        "id": item.ident,
        "time": datetime.fromtimestamp(letter.ts_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
        "kind": letter.kind,
        "device": letter.device,
        "sink": letter.sink,
        "reasons": list(item.reasons),
        "readings": letter.readings,
        "bytes": len(letter.payload),
        "count": letter.count,
        "replayed": item.replayed,
    }
