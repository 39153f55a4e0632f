"""`greenlang-iot simulate`: publish a seeded fleet to any MQTT 5 broker, and write down what it was."""

import asyncio
import secrets
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from greenlang_iot.cli.options import JsonSummary
from greenlang_iot.model.errors import GatewayError, InputError, MqttError

if TYPE_CHECKING:
    from greenlang_iot.simulate.manifest import ManifestWriter, Message
    from greenlang_iot.simulate.publisher import Progress, Target
    from greenlang_iot.simulate.scenario import Scenario


def simulate(
    host: Annotated[str, typer.Option("--host", "--broker", help="Broker to publish to.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its port.")] = 8883,
    tls: Annotated[bool, typer.Option(help="TLS, by default with the system's CAs.")] = True,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM file of the CA to trust.")] = None,
    username: Annotated[str | None, typer.Option(help="Login.")] = None,
    password_file: Annotated[Path | None, typer.Option(help="File with the password.")] = None,
    devices: Annotated[int, typer.Option(min=2, max=1_000_000, help="Size of the fleet.")] = 1_000,
    rate: Annotated[
        float,
        typer.Option(
            min=0, max=1_000_000, help="Steps a second of the whole fleet; 0: two a device."
        ),
    ] = 0.0,
    qos: Annotated[int, typer.Option(min=0, max=1, help="1: the broker confirms.")] = 1,
    seconds: Annotated[
        float,
        typer.Option(
            min=0, max=31_536_000, help="Length of the run; 0 writes the registry and ends."
        ),
    ] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed makes the same fleet.")] = 1,
    faults: Annotated[
        bool, typer.Option(help="Inject anomalies, bad payloads, duplicates.")
    ] = True,
    replay: Annotated[
        Literal["none", "waterflow"], typer.Option(help="A recorded series beside the fleet.")
    ] = "none",
    topic: Annotated[str, typer.Option(help="Topic template, for JSON.")] = (
        "greenlang/{org}/{site}/{device}/telemetry"
    ),
    payload_format: Annotated[
        Literal[
            "json",
            "json-map",
            "cbor",
            "messagepack",
            "senml-json",
            "senml-cbor",
            "sparkplug-b",
            "line-protocol",
            "plain",
        ],
        typer.Option("--format", help="Payload format, on topics of its own."),
    ] = "json",
    connections: Annotated[int, typer.Option(min=1, max=64, help="To the broker.")] = 2,
    manifest: Annotated[Path | None, typer.Option(help="Write what was published here.")] = None,
    registry_out: Annotated[
        Path | None, typer.Option(help="Write the fleet's device registry here.")
    ] = None,
    summary: Annotated[
        Literal["text", "json", "none"], typer.Option(help="What to print at the end.")
    ] = "text",
    as_json: JsonSummary = False,
    on_cue: Annotated[
        bool, typer.Option("--on-cue", hidden=True, help="Begin with a line on stdin; no progress.")
    ] = False,
) -> None:
    """Publish a seeded fleet, with faults, at its pace.

    The gateway must know the fleet: first write its registry, then start the gateway with it.

    Example: greenlang-iot simulate --seconds 0 --registry-out fleet.json

    Example: greenlang-iot simulate --tls-ca config/tls/ca.crt --username simulator
    --password-file simulator.pw --manifest manifest.jsonl

    Example: greenlang-iot simulate --no-tls --port 1883 --format sparkplug-b

    Exit codes: 0 published, 1 the broker cannot be reached, 2 wrong input.
    """
    import orjson

    from greenlang_iot.cli.terminal import say
    from greenlang_iot.formats.topics import template_problem
    from greenlang_iot.settings.checks import is_host
    from greenlang_iot.simulate.faults import FaultMix
    from greenlang_iot.simulate.fleet import FleetOptions
    from greenlang_iot.simulate.manifest import ManifestWriter
    from greenlang_iot.simulate.scenario import registry, scenario

    if (problem := template_problem(topic, ("org", "site", "device"))) is not None:
        raise InputError(f"--topic {topic!r}: {problem}")
    if not is_host(host):
        raise InputError(f"--host {host!r} is no host name or address")
    options = FleetOptions(
        devices=devices,
        seed=seed,
        seconds=seconds,
        interval=devices / rate if rate else 0.5,
        faults=None if faults else FaultMix(),
        topic=topic,
    )
    waterflow = replay == "waterflow"
    if registry_out is not None:
        fleet = registry(options, waterflow=waterflow)
        _write(registry_out, orjson.dumps(fleet, option=orjson.OPT_INDENT_2))
        if summary == "text" and not as_json:
            say(f"wrote {len(fleet['devices']):,} devices to {registry_out}")
    if seconds == 0:
        return
    if manifest is not None and payload_format == "plain":
        raise InputError("plain numbers have no time: what to expect cannot be written down")
    if seconds <= options.backlog_seconds:
        needed = f"more than {options.backlog_seconds:g} seconds at this rate"
        raise InputError(
            f"--seconds {seconds:g} is too short: uploading the backlog takes {needed}"
        )
    target = _target(host, port, tls, tls_ca, username, password_file)
    if on_cue:
        from greenlang_iot.simulate import publisher  # noqa: F401  (what takes long is done before)

        sys.stdin.readline()
    run = scenario(options, time.time_ns(), waterflow=waterflow)
    if payload_format != "json":
        _put_in_format(run, payload_format, registry(options, waterflow=waterflow))
        if payload_format == "sparkplug-b":
            connections = 1  # the messages of an edge node are numbered in one row
    try:
        keeper = (
            ManifestWriter(manifest, run.header, run.expected) if manifest else nullcontext(None)
        )
        with keeper as writer:
            done = asyncio.run(_publish(run, target, writer, qos, connections, on_cue))
    except MqttError as error:
        raise GatewayError(str(error)) from error
    except OSError as error:
        raise GatewayError(f"cannot write the manifest {manifest}: {error.strerror}") from error
    if as_json or summary == "json":
        sys.stdout.write(orjson.dumps(done).decode() + "\n")
    elif summary == "text":
        for name, value in done.items():
            sys.stdout.write(f"{name:>18}  {value}\n")


def _put_in_format(run: "Scenario", payload_format: str, document: dict[str, Any]) -> None:
    """The run's messages in another format, and what the gateway needs to read it."""
    import orjson

    from greenlang_iot.cli.terminal import say
    from greenlang_iot.simulate.formats import ENTRIES, in_format, places

    run.messages = in_format(payload_format, run.messages, places(document))
    entry = orjson.dumps(ENTRIES[payload_format].model_dump(exclude_unset=True)).decode()
    say(f"the gateway reads it with this item of mqtt.formats:\n  - {entry}")


def _target(
    host: str,
    port: int,
    tls: bool,
    tls_ca: Path | None,
    username: str | None,
    password_file: Path | None,
) -> "Target":
    from greenlang_iot.mqtt.tls import ssl_context
    from greenlang_iot.settings.model import TlsSettings
    from greenlang_iot.simulate.publisher import Target

    password = None
    if password_file is not None:
        try:
            password = password_file.read_text(encoding="utf-8").strip("\r\n")
        except OSError as error:
            raise InputError(f"cannot read {password_file}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{password_file} is not UTF-8 text") from error
    context = ssl_context(TlsSettings(ca_file=tls_ca)) if tls else None
    client_id = f"greenlang-iot-simulator-{secrets.token_hex(4)}"
    return Target(host, port, context, username, password, client_id)


async def _publish(
    run: "Scenario",
    target: "Target",
    writer: "ManifestWriter | None",
    qos: int,
    connections: int,
    quiet: bool,
) -> dict[str, float | int]:
    """Publish until the end, Ctrl-C or SIGTERM; what was published, as plain numbers.

    At QoS 1 only what the broker acknowledged (and has a subscriber for) counts as published.
    """
    from greenlang_iot.simulate.publisher import Publisher

    counts = {"readings": 0, "rejected_messages": 0, "duplicates": 0}

    def record(message: "Message", confirmed: bool) -> None:
        if confirmed or qos == 0:
            counts["duplicates" if message.kind == "duplicate" else "readings"] += len(
                message.readings
            )
            counts["rejected_messages"] += bool(message.rejects)
        if writer is not None:
            writer.add(message, confirmed)

    shown = sys.stderr.isatty() and not quiet
    publisher = Publisher(
        target,
        record,
        qos=qos,
        connections=connections,
        on_progress=_show if shown else None,
    )
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, publisher.stop)
    start = loop.time()
    progress = await publisher.run(run.messages)
    duration = loop.time() - start
    if shown:
        sys.stderr.write("\n")
    return {
        "sent": progress.sent,
        "published": progress.sent if qos == 0 else progress.acknowledged,
        "refused": progress.refused,
        "unheard": progress.unheard,
        **counts,
        "reconnects": progress.reconnects,
        "duration_s": round(duration, 3),
    }


def _show(progress: "Progress") -> None:
    """One line that is overwritten every second."""
    behind = f", {progress.lag:.1f} s behind" if progress.lag > 1 else ""
    line = f"\r{progress.sent:>10,} sent  {progress.acknowledged:>10,} acknowledged{behind}   "
    sys.stderr.write(line)
    sys.stderr.flush()


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data + b"\n")
    except OSError as error:
        raise GatewayError(f"cannot write {path}: {error.strerror}") from error
