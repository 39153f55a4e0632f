"""`greenlang-iot alerts`: alerts as they happen, and what is done about them."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenlang_iot.cli import alerts_manage, alerts_try
from greenlang_iot.cli.options import CONFIG, CONFIG_FILES, AsJsonLines
from greenlang_iot.cli.terminal import console, say
from greenlang_iot.model.severity import Severity

if TYPE_CHECKING:
    from greenlang_iot.cli.alert_lines import Wanted
    from greenlang_iot.settings.model import BrokerSettings, KafkaSettings, Settings

app = typer.Typer(help="Follow, acknowledge and silence alerts.", no_args_is_help=True)
alerts_manage.add_commands(app)
alerts_try.add_commands(app)


@app.callback()
def group() -> None:
    """Follow, acknowledge and silence alerts."""


@app.command()
def tail(
    config: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="<path>",
            help=f"Settings with broker and Kafka; the later wins. [default: {CONFIG}]",
        ),
    ] = None,
    broker: Annotated[
        str | None, typer.Option(help="Host of the broker, instead of the settings' first one.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="With --broker. [default: 8883]")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="With --broker: TLS, trusting this CA (PEM).")
    ] = None,
    username: Annotated[
        str | None, typer.Option(help="Login that may read alerts; default: the settings'.")
    ] = None,
    password_file: Annotated[Path | None, typer.Option(help="With --username.")] = None,
    kafka: Annotated[
        str | None, typer.Option(help="Read Kafka at these bootstrap servers, not MQTT.")
    ] = None,
    site: Annotated[str | None, typer.Option(help="Only this site.")] = None,
    device: Annotated[str | None, typer.Option(help="Only this device.")] = None,
    severity: Annotated[
        Severity | None,
        typer.Option(help="At least this severity."),
    ] = None,
    as_json: AsJsonLines = False,
    count: Annotated[int | None, typer.Option(min=1, help="End after this many alerts.")] = None,
) -> None:
    """Print every transition of every alert until Ctrl-C; alerts that are open now come first.

    Over MQTT the login must be allowed to read alerts; a broker that hides them says nothing.

    Example: greenlang-iot alerts tail --site north --severity warning

    Example: greenlang-iot alerts tail --username operator --password-file operator.pw

    Exit codes: 0 ended by Ctrl-C or --count, 1 broker or Kafka cannot be reached, 2 wrong input.
    """
    import asyncio

    from greenlang_iot.cli.alert_lines import Wanted

    settings = _settings(config, broker, port, tls_ca, kafka, username, password_file)
    if kafka is None:
        source = from_mqtt(settings.mqtt.brokers[0], site, device)
    else:
        source = from_kafka(settings.sinks.kafka)
    try:
        asyncio.run(_print(source, Wanted(site, device, severity), as_json, count))
    except KeyboardInterrupt:
        return  # the way to end it


def _settings(
    config: list[Path] | None,
    broker: str | None,
    port: int | None,
    tls_ca: Path | None,
    kafka: str | None,
    username: str | None,
    password_file: Path | None,
) -> "Settings":
    """The settings file, or with --broker or --kafka and no --config the defaults alone."""
    from greenlang_iot.model.errors import InputError
    from greenlang_iot.settings.load import load

    if broker is None and (port is not None or tls_ca is not None):
        raise InputError("--port and --tls-ca go with --broker.")
    if broker is not None and (config or kafka is not None):
        raise InputError("--broker goes without --config and without --kafka.")
    overrides: dict[str, object] = {}
    if broker is not None:
        overrides["mqtt.brokers[0].host"] = broker
        overrides["mqtt.brokers[0].port"] = port if port is not None else 8883
        if tls_ca is not None:
            overrides["mqtt.brokers[0].tls.ca_file"] = str(tls_ca)
    if (username is None) != (password_file is None):
        raise InputError("--username and --password-file go together.")
    if kafka is not None:
        overrides["sinks.kafka.enabled"] = True  # so that it is checked
        overrides["sinks.kafka.bootstrap_servers"] = kafka
    if not config and not overrides:
        config = CONFIG_FILES
    if username is not None:
        overrides["mqtt.brokers[0].username"] = username
        overrides["mqtt.brokers[0].password_file"] = str(password_file)
    return load(config or None, os.environ, overrides).settings


async def _print(
    source: AsyncIterator[bytes], wanted: "Wanted", as_json: bool, count: int | None
) -> None:
    from greenlang_iot.cli.alert_lines import json_line, line, parse

    out = console(wrap=True)
    shown = 0
    async for body in source:
        alert = parse(body)
        if alert is None:
            say(f"a message of {len(body)} bytes is no alert; left out")
        elif alert in wanted:
            if as_json:
                sys.stdout.write(json_line(alert) + "\n")
            else:
                # a terminal breaks it between words; elsewhere an alert is one line
                out.print(line(alert), soft_wrap=not out.is_terminal)
            sys.stdout.flush()
            shown += 1
            if shown == count:
                return


async def from_mqtt(
    broker: "BrokerSettings", site: str | None, device: str | None
) -> AsyncIterator[bytes]:
    """Alert messages of `broker`; connects again when the connection is lost.

    Raises GatewayError if the first attempt fails.
    """
    import asyncio
    import random

    import aiomqtt

    from greenlang_iot.model.errors import GatewayError
    from greenlang_iot.mqtt.client import Client, client_options, client_words

    topic = f"greenlang/+/{_level(site)}/{_level(device)}/alert/+"
    options = client_options(broker)
    where = f"{broker.host}:{broker.port}"
    wait = 0.1
    connected = False
    while True:
        try:
            async with Client(**options) as client:
                for code in await client.subscribe(topic, qos=1):
                    if getattr(code, "is_failure", code == 128):
                        raise GatewayError(
                            f"the broker at {where} does not let {broker.username or 'us'} "
                            f"subscribe to {topic}: {code}; see --username."
                        )
                if not connected:
                    who = f" as {broker.username}" if broker.username else ""
                    say(f"following {topic} at {where}{who}; Ctrl-C ends it")
                connected, wait = True, 0.1
                async for message in client.messages:
                    if isinstance(message.payload, bytes) and message.payload:
                        yield message.payload  # an empty one only clears a resolved alert
        except aiomqtt.MqttError as error:
            why = client_words(error, broker.host)
            if not connected:
                raise GatewayError(f"No alerts from the broker at {where}: {why}.") from error
            wait = min(4.0, random.uniform(0.1, 3 * wait))
            say(f"connection to {where} lost ({why}); connecting again")
            await asyncio.sleep(wait)


def _level(name: str | None) -> str:
    """A topic level of the subscription: the name, or any."""
    from greenlang_iot.model.errors import InputError

    if name is None:
        return "+"
    if not name or set(name) & set("+#/\0"):
        raise InputError("a site or device holds none of + # / and is not empty.")
    return name


async def from_kafka(settings: "KafkaSettings") -> AsyncIterator[bytes]:
    """The alerts that are not resolved, then every transition from now on.

    Raises GatewayError where Kafka cannot be reached. What changes meanwhile may come twice.
    """
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import KafkaError

    from greenlang_iot.model.errors import GatewayError
    from greenlang_iot.sinks.kafka_client import client_options, sink_error, why_unreachable
    from greenlang_iot.sinks.replay import records

    consumer = AIOKafkaConsumer(
        settings.alerts_topic, auto_offset_reset="latest", **client_options(settings)
    )
    try:
        await consumer.start()
        await consumer.seek_to_end()
        say(f"following {settings.alerts_topic} at {settings.bootstrap_servers}; Ctrl-C ends it")
        states = records(settings, settings.alerts_state_topic)
        unresolved = {key: value async for key, value in states}
        for value in filter(None, unresolved.values()):
            yield value
        async for record in consumer:
            if record.value:
                yield record.value
    except KafkaError as error:
        where = f"no alerts from Kafka at {settings.bootstrap_servers}"
        cause = await why_unreachable(settings) or error
        raise GatewayError(str(sink_error(cause, where))) from error
    finally:
        await consumer.stop()
