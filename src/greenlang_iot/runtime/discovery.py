"""Looks for sites nobody registered, and for what the broker says it dropped.

MQTT has no "everything but": so for WATCH seconds every EVERY seconds the parent opens the wildcard at
QoS 0 on a connection of its own and only reports. Ingesting such a site needs it in the registry.
"""

import asyncio
import contextlib
import logging
import time

import aiomqtt
import numpy as np
import structlog

from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import InputError
from greenlang_iot.mqtt.client import Client, client_options, client_words
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.settings.formats import templates
from greenlang_iot.settings.model import BrokerSettings, MqttSettings

log = structlog.get_logger(__name__)
_SILENT = logging.getLogger("greenlang_iot.discovery.client")
_SILENT.setLevel(logging.CRITICAL)
WATCH = 10.0
EVERY = 600.0
DROPPED = "$SYS/broker/publish/messages/dropped"
MAX_MESSAGES = 20_000
"""A look ends after so many messages: at a high rate that is a sample of every site."""
MAX_SITES = 1_000
"""Unregistered sites remembered; beyond it they are only said to be many."""


class Discovery:
    """Runs in the parent, one connection per look and broker."""

    def __init__(
        self,
        settings: MqttSettings,
        directory: Directory,
        counters: Counters,
        watch: float = WATCH,
    ) -> None:
        self._watch = watch
        self._settings = settings
        # Of topics that do not name org and site nobody can say which site is missing.
        self._templates = [t for t in templates(settings) if {"org", "site"} <= {*t.fields}]
        self._counters = counters
        width = len(directory.site)
        places = np.unique(directory.org_of.astype(np.int64) * width + directory.site_of)
        self._registered = {
            (directory.org[org], directory.site[site])
            for org, site in (divmod(place, width) for place in places.tolist())
        }
        self.unregistered: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        self._counters.set(cell("unregistered_sites"), 0)
        while self._settings.discovery:
            for broker in self._settings.brokers:
                await self._look(broker)
            self._counters.set(cell("unregistered_sites"), len(self.unregistered))
            await asyncio.sleep(EVERY)
        await asyncio.Event().wait()

    async def _look(self, broker: BrokerSettings) -> None:
        wildcards = [(template.filter(), 0) for template in self._templates]
        end = time.monotonic() + self._watch
        try:
            async with (
                asyncio.timeout(self._watch + broker.connect_timeout),
                Client(
                    **client_options(broker),
                    max_queued_incoming_messages=1_000,  # more is dropped: this is a sample
                    logger=_SILENT,
                ) as client,
            ):
                await client.subscribe([*wildcards, (DROPPED, 0)])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(end - time.monotonic()):
                        seen = 0
                        async for message in client.messages:
                            self._note(str(message.topic), message.payload)
                            seen += 1
                            if seen == MAX_MESSAGES:
                                break
        except (aiomqtt.MqttError, InputError, OSError) as error:  # InputError: certificates
            why = client_words(error, broker.host)
            log.info("no look for unregistered sites", broker=broker.name, why=why)

    def _note(self, topic: str, payload: object) -> None:
        if topic == DROPPED:
            if isinstance(payload, bytes) and payload.isdigit():
                self._counters.set(cell("broker_dropped_messages"), int(payload))
            return
        found = (template.parse(topic.encode()) for template in self._templates)
        place = next((place for place in found if place is not None), None)
        if place is None:
            return
        site = (place.org, place.site)
        if site in self._registered or site in self.unregistered:
            return
        if len(self.unregistered) < MAX_SITES:
            self.unregistered.add(site)
            log.warning(
                "messages of a site that the registry does not know: they are not ingested",
                org=place.org,
                site=place.site,
            )
