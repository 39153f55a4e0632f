"""`greenlang-iot config init`: a settings file that works, from five questions or from flags."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenlang_iot.cli.new_file import write_new
from greenlang_iot.cli.options import CONFIG, REGISTRY, AsJson
from greenlang_iot.cli.terminal import print_json, say
from greenlang_iot.model.errors import InputError

if TYPE_CHECKING:
    from greenlang_iot.settings.starter import Answers


def init(
    output: Annotated[Path, typer.Option(help="Where to write; must not exist yet.")] = CONFIG,
    instance: Annotated[str | None, typer.Option(help="Name of this gateway.")] = None,
    broker: Annotated[
        str | None, typer.Option(help="MQTT broker: HOST or HOST:PORT (8883 and TLS).")
    ] = None,
    username: Annotated[
        str | None, typer.Option(help="Login at the broker; empty for none.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Topic with {org}, {site} and {device}, a level each.")
    ] = None,
    sinks: Annotated[
        str | None, typer.Option(help="Where readings go: lake, influxdb, kafka, with commas.")
    ] = None,
    tls: Annotated[
        bool | None, typer.Option("--tls/--plain", help="Default: TLS unless the port is 1883.")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(help="CA of the broker (PEM).")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the broker password.")
    ] = None,
    influxdb_url: Annotated[str | None, typer.Option(help="With the sink influxdb.")] = None,
    influxdb_org: Annotated[str | None, typer.Option(help="With the sink influxdb.")] = None,
    influxdb_token_file: Annotated[
        Path | None, typer.Option(help="File with the InfluxDB token.")
    ] = None,
    kafka: Annotated[str | None, typer.Option(help="Bootstrap servers, HOST:PORT,…")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: flags and defaults.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a settings file: asks five questions, or takes the answers from flags.

    Example: greenlang-iot config init --broker mqtt.example:8883 --username gateway --sinks lake --yes

    Exit codes: 0 written, 2 an answer is wrong or the file exists (nothing is written then).
    """
    from greenlang_iot.settings.load import load
    from greenlang_iot.settings.starter import Answers, starter

    if output.exists():
        raise InputError(f"{output} exists already, and is left as it is; choose another --output.")
    ask = not (yes or as_json) and sys.stdin.isatty()
    standard = Answers()
    host, port = _address(_answer(ask, broker, "MQTT broker (host:port)", "127.0.0.1:8883"))
    answers = Answers(
        broker=host,
        port=port,
        tls=port != 1883 if tls is None else tls,
        ca_file=ca_file,
        username=_answer(ask, username, "Login at the broker (empty: none)", "") or None,
        password_file=password_file,
        topic=_answer(ask, topic, "Topic of the readings", standard.topic),
        sinks=_sinks(_answer(ask, sinks, "Sinks (lake, influxdb, kafka)", "lake")),
        instance=_answer(ask, instance, "Name of this gateway", standard.instance),
        influxdb_url=influxdb_url or standard.influxdb_url,
        influxdb_org=influxdb_org or standard.influxdb_org,
        influxdb_token_file=influxdb_token_file,
        kafka_servers=kafka or standard.kafka_servers,
    )
    text = starter(answers)
    write_new(output, text.encode())
    try:
        warnings = load(output, _with_placeholders(answers, os.environ)).warnings
    except InputError as error:
        output.unlink()
        raise InputError("the answers do not make settings that work", error.problems) from error
    steps = _next_steps(answers, output)
    if as_json:
        print_json({"written": str(output), "warnings": warnings, "next": steps})
        return
    for warning in warnings:
        say(f"warning: {warning}")
    say(f"wrote {output}")
    for number, step in enumerate(steps, 1):
        say(
            f"  {number}. "
            + (step if len(step) < 75 else step.replace(" --out", " \\\n     --out"))
        )


def _answer(ask: bool, given: str | None, question: str, standard: str) -> str:
    if given is not None:
        return given.strip()
    if not ask:
        return standard
    return str(typer.prompt(question, default=standard, err=True)).strip()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, 8883
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise InputError(f"the broker {text!r} must be HOST or HOST:PORT.")
    return host, int(port)


def _sinks(text: str) -> tuple[str, ...]:
    from greenlang_iot.settings.starter import SINKS

    chosen = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = sorted(set(chosen) - set(SINKS))
    if unknown or not chosen:
        raise InputError(
            f"sinks are some of {', '.join(SINKS)}; not {', '.join(unknown) or 'none'}."
        )
    return chosen


def _with_placeholders(answers: "Answers", environ: "os._Environ[str]") -> dict[str, str]:
    """The environment, and a token where one is still to be set: the rest of the file is checked."""
    token = "GREENLANG_IOT__SINKS__INFLUXDB__TOKEN"  # noqa: S105 (the variable's name)
    if answers.influxdb_token_file is None and "influxdb" in answers.sinks:
        return {token: "to-be-set", **environ}
    return dict(environ)


def _next_steps(answers: "Answers", output: Path) -> list[str]:
    config = "" if output == CONFIG else f" --config {output}"
    steps = []
    if answers.username and answers.password_file is None:
        steps.append("export GREENLANG_IOT__MQTT__BROKERS__0__PASSWORD=…")
    if "influxdb" in answers.sinks and answers.influxdb_token_file is None:
        steps.append("export GREENLANG_IOT__SINKS__INFLUXDB__TOKEN=…")
    steps.append(f"greenlang-iot doctor{config}")
    if set(answers.sinks) - {"lake"}:
        steps.append(f"greenlang-iot setup{config}")
    if not REGISTRY.exists():
        steps.append(f"greenlang-iot devices discover{config} --output {REGISTRY}")
    steps.append(f"greenlang-iot run{config}")
    return steps
