"""`greenlang-iot run`: the gateway in the foreground, until Ctrl-C or SIGTERM."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from greenlang_iot.cli.first_start import tell_first_start
from greenlang_iot.cli.options import (
    CONFIG_FILES,
    NOBODY,
    REGISTRY,
    ConfigFiles,
    DevicesFile,
    JsonSummary,
)
from greenlang_iot.cli.terminal import counted, say

if TYPE_CHECKING:
    from greenlang_iot.alerts.rule_file import RuleSet
    from greenlang_iot.model.directory import Directory
    from greenlang_iot.runtime.gateway import Gateway
    from greenlang_iot.settings.model import Settings


def run(
    config: ConfigFiles = CONFIG_FILES,
    devices_file: DevicesFile = REGISTRY,
    summary: Annotated[
        Literal["text", "json", "none"], typer.Option(help="What to print at the end.")
    ] = "text",
    as_json: JsonSummary = False,
) -> None:
    """Run the gateway until Ctrl-C or SIGTERM; then drain and print what was done.

    SIGHUP, or POST /-/reload with the token in data_dir/admin-token, reads registry and settings again.

    Example: greenlang-iot run --config config/iot-config.yaml --devices-file devices/devices-registry.json

    Exit codes: 0 drained, 1 it could not go on, 2 settings or registry are wrong.
    """
    import orjson

    from greenlang_iot.devices.registry import load as load_registry
    from greenlang_iot.mqtt.tls import without_system_cas
    from greenlang_iot.observe.logs import configure

    with without_system_cas():
        from greenlang_iot.runtime.gateway import Gateway, run_gateway
    from greenlang_iot.runtime.rules import load_rules
    from greenlang_iot.runtime.service_manager import ServiceManager
    from greenlang_iot.settings.load import load as load_settings

    loaded = load_settings(config, os.environ)
    settings = loaded.settings
    configure(settings.log)
    registry = [
        load_registry(devices_file)
    ]  # until the gateway has it, which does not keep it either
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    rules = load_rules(settings.alerts)
    tell_first_start()

    def read() -> "tuple[Settings, Directory, RuleSet]":
        now = load_settings(config, os.environ).settings
        return now, load_registry(devices_file), load_rules(now.alerts)

    def make() -> Gateway:
        return Gateway(
            settings,
            registry.pop(),
            rules=rules,
            on_start=_announce,
            read=read,
            service_manager=ServiceManager(os.environ),
        )

    done = run_gateway(make)
    if as_json or summary == "json":
        sys.stdout.write(orjson.dumps(done.as_dict()).decode() + "\n")
    elif summary == "text":
        for name, value in done.as_dict().items():
            sys.stdout.write(f"{name:>18}  {value}\n")


_FILTERS_SHOWN = 4


def _announce(gateway: "Gateway") -> None:
    """Where it listens, what it subscribes to, what it does with bad data."""
    from greenlang_iot.observe.health import enabled_sinks
    from greenlang_iot.runtime.folders import dead_letter_folder

    settings, directory = gateway.settings, gateway.directory
    filters = sorted({f for shard in gateway.plans for c in shard.connections for f in c.filters})
    lines = [
        f"greenlang-iot {settings.instance}: {counted(directory.n_devices, 'device')}, "
        f"{directory.n_series:,} series, {counted(settings.runtime.shards, 'shard')}"
    ]
    for broker in settings.mqtt.brokers:
        kind = "TLS" if broker.tls else "plain TCP"
        login = f"as {broker.username}" if broker.username else "without a login"
        lines.append(
            f"  from  {broker.host}:{broker.port} ({kind}, QoS {settings.mqtt.qos}) {login}"
        )
    lines += [f"        {name}" for name in filters[:_FILTERS_SHOWN]]
    if not filters:
        lines.append(f"        nothing: {NOBODY}")
    if len(filters) > _FILTERS_SHOWN:
        lines.append(f"        and {len(filters) - _FILTERS_SHOWN:,} more topic filters")
    lines += [f"        {entry.topic} is {entry.format}" for entry in settings.mqtt.formats]
    for name, sink in enabled_sinks(settings).items():
        lines.append(f"  to    {name} ({sink.policy})")
    target = settings.sinks.dead_letter
    where = dead_letter_folder(settings) if target.target == "files" else target.target
    lines.append(f"  bad   data goes to the dead letter ({where}) with its reason")
    lines.append(f"  see   {gateway.admin_url}/ in a browser · /readyz · /status · /metrics")
    say("\n".join(lines))
