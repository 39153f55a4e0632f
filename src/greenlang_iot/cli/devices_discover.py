"""`greenlang-iot devices discover`: a registry proposed from what devices send."""

import asyncio
import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from greenlang_iot.cli.options import CONFIG_FILES, AsJson, ConfigFiles
from greenlang_iot.cli.registry_file import read_document, write_document
from greenlang_iot.cli.terminal import counted, live, print_json, say
from greenlang_iot.model.errors import GatewayError, InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from greenlang_iot.devices.propose import Heard
    from greenlang_iot.formats.base import Reading
    from greenlang_iot.formats.catalog import Route
    from greenlang_iot.settings.model import Settings

_NOTES_SHOWN = 20


def discover(
    output: Annotated[Path, typer.Option(help="Registry to write; must not exist yet.")],
    config: ConfigFiles = CONFIG_FILES,
    seconds: Annotated[
        float, typer.Option("--for", min=0.1, help="How long to listen, in seconds.")
    ] = 60.0,
    broker: Annotated[
        str | None, typer.Option(help="Name of one of the settings' brokers; default: the first.")
    ] = None,
    known: Annotated[
        Path | None, typer.Option(help="Registry to which new devices are added, in the output.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Listen to the broker for a while and propose a registry: devices, metrics, units, intervals.

    It hears `mqtt.topic` and all of `mqtt.formats`. Listens beside the gateway, at QoS 0, and takes nothing away from it. Ctrl-C ends it early. What it
    writes is a proposal: units that no payload named are guesses, and ranges are yours to add.

    Example: greenlang-iot devices discover --for 120 --output devices/proposed.json

    Exit codes: 0 written, 1 nothing was heard or the broker cannot be reached, 2 wrong input.
    """
    from greenlang_iot.devices.propose import Heard
    from greenlang_iot.settings.formats import templates
    from greenlang_iot.settings.load import load

    if output.exists():
        raise InputError(f"{output} exists already, and is left as it is; choose another --output.")
    settings = load(config, os.environ).settings
    base = read_document(known) if known is not None else None
    heard = Heard()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_listen(settings, broker, seconds, heard))
    if not heard.devices:
        topics = ", ".join(template.template for template in templates(settings.mqtt))
        raise GatewayError(
            f"no readings were heard under {topics} ({heard.messages} messages): do "
            "devices publish, does the topic template fit, and may this login read them?"
        )
    document, notes = heard.proposal(base)
    write_document(output, document)
    if as_json:
        print_json(
            {
                "messages": heard.messages,
                "strange": heard.strange,
                "devices": len(document["devices"]),
                "types": len(document["types"]),
                "notes": notes,
            }
        )
        return
    for note in notes[:_NOTES_SHOWN]:
        say(f"look at {note}")
    if len(notes) > _NOTES_SHOWN:
        say(f"… and {len(notes) - _NOTES_SHOWN:,} more notes")
    if heard.strange:
        say(f"{heard.strange:,} of {heard.messages:,} messages held no usable reading")
    made, types = len(document["devices"]), len(document["types"])
    say(f"wrote {counted(made, 'device')} of {counted(types, 'type')} to {output}")


async def _listen(settings: "Settings", name: str | None, seconds: float, heard: "Heard") -> None:
    from greenlang_iot.decode.routes import Routes
    from greenlang_iot.formats.topics import TopicTemplate
    from greenlang_iot.mqtt.listen import listen
    from greenlang_iot.settings.formats import routes, templates

    brokers = {b.name: b for b in settings.mqtt.brokers}
    if name is not None and name not in brokers:
        raise InputError(f"the settings have no broker {name!r}; they have {', '.join(brokers)}.")
    known = Routes(TopicTemplate(settings.mqtt.topic), routes(settings.mqtt))
    most = settings.limits.max_payload_bytes

    def received(topic: str, payload: bytes) -> None:
        found = known.find(topic.encode())
        if found is None or len(payload) > most:
            return
        route, place = found
        readings = _readings(route, payload, topic, place.metric, most)
        heard.message(place.org, place.site, place.device, readings, time.time())

    filters = [template.filter() for template in templates(settings.mqtt)]
    chosen = brokers[name] if name is not None else settings.mqtt.brokers[0]
    ticker = asyncio.ensure_future(_tell(heard, seconds))
    try:
        await listen(chosen, filters, seconds, received)
    finally:
        ticker.cancel()


def _readings(
    route: "Route | None", data: bytes, topic: str, metric: str, most: int
) -> "Sequence[Reading]":
    """A payload's readings under the registry's names; none where it cannot be read."""
    import orjson

    from greenlang_iot.formats.base import Payload
    from greenlang_iot.formats.inflate import inflate
    from greenlang_iot.formats.shape import shaped

    try:
        data = inflate(data, most)
        if route is None:
            return shaped(orjson.loads(data))
        return route.named(route.format.read(Payload(data, topic, metric)))
    except Exception:  # of a format that is not ours, too, as in the gateway
        return ()


async def _tell(heard: "Heard", seconds: float) -> None:
    """What was heard so far, every second: on a terminal in place, elsewhere once at the start."""
    say(f"listening for {seconds:g} s; Ctrl-C ends it early")
    began = time.monotonic()
    while sys.stderr.isatty():
        await asyncio.sleep(1)
        left = max(0.0, seconds - (time.monotonic() - began))
        of = f"{counted(heard.messages, 'message')} of {counted(len(heard.devices), 'device')}"
        text = f"{of}, {left:.0f} s left"
        live(text)
        if left <= 0:
            return
