"""The command line: `greenlang-iot COMMAND`. Thin: parse, call, print.

Exit codes: 0 done, 1 failed, 2 wrong input. Commands import what they need when they run, so that
`--help` answers at once and the fork server starts before anything else.
"""

import inspect
import logging
import platform
import sys
from typing import Annotated

import typer

from greenlang_iot import __version__
from greenlang_iot.cli import alerts, bench, config, dead_letter, detect, devices, quality, spool
from greenlang_iot.cli.demo import demo
from greenlang_iot.cli.doctor import doctor
from greenlang_iot.cli.options import AsJson
from greenlang_iot.cli.query import query
from greenlang_iot.cli.reload import reload
from greenlang_iot.cli.run import run
from greenlang_iot.cli.setup import setup
from greenlang_iot.cli.simulate import simulate
from greenlang_iot.cli.terminal import print_json, say
from greenlang_iot.model.errors import GatewayError, InputError

app = typer.Typer(
    name="greenlang-iot",
    help="IoT ingestion gateway: MQTT over TLS in, scored readings in InfluxDB and Kafka.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"greenlang-iot {__version__} (Python {platform.python_version()})")
        raise typer.Exit


app.command()(run)
app.command()(reload)
app.command()(demo)
app.command()(simulate)
app.add_typer(alerts.app, name="alerts")
app.add_typer(config.app, name="config")
app.add_typer(bench.app, name="bench")
app.add_typer(devices.app, name="devices")
app.add_typer(dead_letter.app, name="dead-letter")
app.add_typer(detect.app, name="detect")
app.add_typer(spool.app, name="spool")
app.add_typer(quality.app, name="quality")
app.command()(doctor)
app.command()(setup)
app.command()(query)


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """IoT ingestion gateway: MQTT over TLS in, scored readings in InfluxDB and Kafka."""


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version: of the gateway, of its settings file, of Python.

    Example: greenlang-iot version --json

    Exit codes: 0.
    """
    if as_json:
        from greenlang_iot.settings.model import CONFIG_VERSION

        document = {"version": __version__, "config_version": CONFIG_VERSION}
        print_json(document | {"python": platform.python_version()})
    else:
        typer.echo(f"greenlang-iot {__version__} (Python {platform.python_version()})")


def _flow(group: typer.Typer) -> None:
    """Help without the line breaks of the source: the terminal makes its own."""
    for command in group.registered_commands:
        told = inspect.getdoc(command.callback) or ""
        command.help = "\n\n".join(text.replace("\n", " ") for text in told.split("\n\n"))
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            _flow(inner.typer_instance)


_flow(app)


def _is_broken(argument: str) -> bool:
    """Python keeps bytes that are no UTF-8 as halves of surrogate pairs, which nothing else takes."""
    return any("\ud800" <= letter <= "\udfff" for letter in argument)


def main() -> None:
    """Entry point: one clear sentence for bad input (exit 2) and for a failure (exit 1)."""
    if any(map(_is_broken, sys.argv)):
        say("The command line holds bytes that are not UTF-8 text.")
        sys.exit(2)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)  # what it says is said here
    try:
        app()
    except InputError as error:
        say(str(error))
        for problem in error.problems:
            say(f"  - {problem}")
        sys.exit(2)
    except GatewayError as error:
        say(str(error))
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(0)
    except (
        OSError
    ) as error:  # what no command foresaw: a name that is too long, a disk that is full
        what = f"{error.filename}: " if error.filename is not None else ""
        say(f"{what}{error.strerror or error}")
        sys.exit(1)
