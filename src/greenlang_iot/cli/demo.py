"""`greenlang-iot demo`: the main job on the embedded default, with proof at the end.

Processes: the embedded broker, the simulated fleet (`greenlang-iot simulate`), the gateway with its shards.
What was published comes from the fleet's manifest, what arrived is read back from the lake and the dead
letters; the gateway's counters only feed the screen.
"""

import asyncio
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from greenlang_iot.cli.first_start import tell_first_start
from greenlang_iot.cli.options import JsonSummary

if TYPE_CHECKING:
    from greenlang_iot.cli.demo_screen import Screen
    from greenlang_iot.model.directory import Directory
    from greenlang_iot.runtime.gateway import Gateway
    from greenlang_iot.runtime.summary import Summary
    from greenlang_iot.settings.model import Settings
    from greenlang_iot.simulate.fleet import FleetOptions
    from greenlang_iot.simulate.reconcile import Reconciliation

SEED = 1
CATCH_UP = 15.0
"""Seconds that the gateway may need after the last message was published."""


def demo(
    seconds: Annotated[
        float,
        typer.Option(
            envvar="DEMO_SECONDS",
            min=5,
            max=900,
            help="How long devices publish: the proof at the end is held in memory.",
        ),
    ] = 120.0,
    devices: Annotated[int, typer.Option(min=10, max=100_000, help="Size of the fleet.")] = 1_000,
    shards: Annotated[int, typer.Option(min=1, max=16, help="Processes of the gateway.")] = 2,
    folder: Annotated[
        Path, typer.Option(help="CA, settings, data and manifest of the demo.")
    ] = Path(".demo"),
    port: Annotated[int, typer.Option(help="Admin endpoint (0: any free port).")] = 8090,
    kafka: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="A Kafka that gets readings and alerts, too; topics are made."
        ),
    ] = "",
    summary: Annotated[
        Literal["text", "json"], typer.Option(help="json: the last line is one JSON object.")
    ] = "text",
    as_json: JsonSummary = False,
) -> None:
    """Broker, fleet with faults, gateway and lake on this machine; ends with a reconciliation.

    Exit code 0 only if every promised reading and dead letter is found. Ctrl-C ends it early.

    Example: greenlang-iot demo --seconds 20 --summary json

    With a Kafka: greenlang-iot demo --kafka 127.0.0.1:9092

    Exit codes: 0 everything was found, 1 something is missing or failed, 2 wrong input.
    """
    import orjson

    data = folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    broker = _start(["-m", "greenlang_iot.simulate.serve", str(folder / "ca")])
    tell_first_start()
    try:
        assert broker.stdout is not None
        broker_port = int(broker.stdout.readline())
        settings = _settings(broker_port, data, folder, shards, port, kafka)
        line = _demo(settings, data, folder, seconds, devices)
    finally:
        broker.terminate()
        broker.communicate()
    if as_json or summary == "json":
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
    if not line["reconciled"]:
        raise typer.Exit(1)


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    """A Python process of ours in a session of its own, so that Ctrl-C is ours to pass on."""
    return subprocess.Popen(  # noqa: S603 (our own interpreter and modules)
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _demo(
    document: dict[str, Any], data: Path, folder: Path, seconds: float, devices: int
) -> dict[str, Any]:
    """What was published and what became of it; `reconciled` says whether that agrees."""
    import orjson
    import uvloop
    import yaml

    from greenlang_iot.cli.demo_screen import Screen
    from greenlang_iot.devices.registry import parse
    from greenlang_iot.observe.logs import configure
    from greenlang_iot.settings.load import load
    from greenlang_iot.simulate.fleet import FleetOptions
    from greenlang_iot.simulate.scenario import registry

    written = folder / "settings.yaml"  # for commands that ask the gateway meanwhile
    written.write_text(yaml.safe_dump(document))
    settings = load([written], {}).settings
    configure(settings.log)
    if settings.sinks.kafka.enabled:
        from greenlang_iot.sinks.kafka_setup import KafkaSetup

        asyncio.run(KafkaSetup(settings.sinks.kafka).apply())
    options = FleetOptions(devices=devices, seed=SEED, seconds=seconds)
    directory = parse(orjson.dumps(registry(options, waterflow=True)))
    screen = Screen(settings, written, directory, seconds)
    published, done, stopped_ns = uvloop.run(
        _run(settings, directory, options, data / "manifest.jsonl", screen)
    )
    result = _reconcile(settings, data / "manifest.jsonl", stopped_ns)
    screen.finish(published, done, result)
    return {"published": published, **done.as_dict(), "reconciled": result.ok}


def _settings(
    broker_port: int, data: Path, folder: Path, shards: int, port: int, kafka: str
) -> dict[str, Any]:
    sinks = {"kafka": {"enabled": True, "bootstrap_servers": kafka}} if kafka else {}
    tls = {"ca_file": str((folder / "ca" / "ca.pem").absolute())}
    return {
        "instance": "demo",
        "data_dir": str(data.absolute()),
        "mqtt": {"brokers": [{"host": "127.0.0.1", "port": broker_port, "tls": tls}]},
        "runtime": {"shards": shards},
        "sinks": sinks,
        "admin": {"port": port},
        "log": {"level": "warning"},
    }


async def _run(
    settings: "Settings",
    directory: "Directory",
    options: "FleetOptions",
    manifest: Path,
    screen: "Screen",
) -> tuple[int, "Summary", int]:
    """Gateway until the fleet has published and everything arrived, or Ctrl-C."""
    from greenlang_iot.runtime.gateway import Gateway
    from greenlang_iot.runtime.supervisor import install_signals

    fleet = _start_fleet(settings, options, manifest)  # waits for its cue
    gateway = Gateway(settings, directory, on_transition=screen.transition)
    running = asyncio.ensure_future(gateway.run(signals=False))
    interrupted = asyncio.Event()
    install_signals(asyncio.get_running_loop(), interrupted.set)
    ready = asyncio.ensure_future(gateway.ready.wait())
    await asyncio.wait([running, ready], return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        ready.cancel()
        fleet.kill()
        running.result()  # raises why it did not start
    screen.begin(gateway)
    assert fleet.stdin is not None
    fleet.stdin.close()
    drawing = asyncio.ensure_future(screen.run(gateway))
    try:
        published = await _until_published(fleet, interrupted, running)
        stopped_ns = time.time_ns()
        await _until_arrived(gateway, published, running)
    finally:
        drawing.cancel()
        await asyncio.gather(drawing, return_exceptions=True)
        if fleet.poll() is None:
            fleet.kill()
        gateway.stop()
        done = await running
    return published, done, stopped_ns


def _start_fleet(
    settings: "Settings", options: "FleetOptions", manifest: Path
) -> subprocess.Popen[str]:
    broker = settings.mqtt.brokers[0]
    assert broker.tls is not None
    options_given = {
        "--host": broker.host,
        "--port": broker.port,
        "--tls-ca": broker.tls.ca_file,
        "--devices": options.devices,
        "--seed": options.seed,
        "--seconds": options.seconds,
        "--replay": "waterflow",
        "--manifest": manifest,
        "--summary": "json",
    }
    given = [str(part) for pair in options_given.items() for part in pair]
    return _start(["-m", "greenlang_iot", "simulate", "--on-cue", *given])


async def _until_published(
    fleet: subprocess.Popen[str], interrupted: asyncio.Event, running: "asyncio.Future[Summary]"
) -> int:
    """Messages that the broker acknowledged; after Ctrl-C the fleet stops early."""
    import orjson

    from greenlang_iot.model.errors import GatewayError

    told = False
    while fleet.poll() is None and not running.done():
        if interrupted.is_set() and not told:
            told = True
            fleet.send_signal(signal.SIGINT)
        await asyncio.sleep(0.05)
    if running.done():
        running.result()
    assert fleet.stdout is not None
    output = fleet.stdout.read().strip().splitlines()
    if fleet.returncode != 0 or not output:
        raise GatewayError(f"The simulated fleet failed (exit code {fleet.returncode}).")
    counts: dict[str, Any] = orjson.loads(output[-1])
    return int(counts["published"])


async def _until_arrived(
    gateway: "Gateway", published: int, running: "asyncio.Future[Summary]"
) -> None:
    deadline = time.monotonic() + CATCH_UP
    while time.monotonic() < deadline and not running.done():
        if sum(c.total("acks_sent") for c in gateway.shards.values()) >= published:
            return
        await asyncio.sleep(0.02)


def _reconcile(settings: "Settings", manifest_path: Path, stopped_ns: int) -> "Reconciliation":
    """The manifest against what an independent reader finds in lake and dead letters."""
    from greenlang_iot.runtime.folders import dead_letter_folder, lake_folder
    from greenlang_iot.simulate.lake_reader import read_alerts, read_readings
    from greenlang_iot.simulate.manifest import read
    from greenlang_iot.simulate.reconcile import reconcile
    from greenlang_iot.sinks.deadletter import read_dead_letters

    manifest = read(manifest_path)
    # Ctrl-C: what was to go wrong later never happened.
    manifest.expected = [e for e in manifest.expected if e.to_ns <= stopped_ns]
    manifest.header.end_ns = min(manifest.header.end_ns, stopped_ns)
    lake = lake_folder(settings)
    return reconcile(
        manifest,
        read_readings(lake),
        read_dead_letters(dead_letter_folder(settings)),
        read_alerts(lake),
        one_value=True,
    )
