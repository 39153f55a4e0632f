"""Follows the status topics of all devices, beside the data plane, and tells the book of alerts."""

import asyncio
import random
import time
from collections.abc import Callable

import aiomqtt
import structlog

from greenlang_iot.alerts.presence import Presence
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import InputError
from greenlang_iot.mqtt.client import Client, client_options, client_words
from greenlang_iot.settings.model import BrokerSettings, Settings
from greenlang_iot.sinks.alert_store import AlertStore
from greenlang_iot.spool.log import SpoolFull

log = structlog.get_logger(__name__)
FILTER = "greenlang/+/+/+/status"
BACKOFF_MAX = 4.0
FOLLOW_EVERY = 1.0
"""Seconds after which a reloaded registry is seen."""


class PresenceWatch:
    """Runs in the parent, one connection per broker; nothing where alerts.presence is none."""

    def __init__(
        self, settings: Settings, store: AlertStore, directory: Callable[[], Directory]
    ) -> None:
        self._settings = settings
        self._store = store
        self._directory = directory
        # by device: what it said last, not told yet (org, site, payload)
        self._news: dict[str, tuple[str, str, bytes]] = {}
        self._heard = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        severity = self._settings.alerts.presence
        if severity == "none":
            await asyncio.Event().wait()
        presence = Presence(self._store.book, self._directory(), severity)
        async with asyncio.TaskGroup() as group:
            for broker in self._settings.mqtt.brokers:
                group.create_task(self._listen(broker, presence))
            group.create_task(self._tell_changes(presence))
            while True:
                await self._tell(presence.follow(self._directory(), time.time_ns()))
                await asyncio.sleep(FOLLOW_EVERY)

    async def _listen(self, broker: BrokerSettings, presence: Presence) -> None:
        wait, said = 0.1, ""
        while True:
            try:
                async with Client(**client_options(broker)) as client:
                    await client.subscribe(FILTER, qos=1)
                    wait, said = 0.1, ""
                    async for message in client.messages:
                        self._note(presence, str(message.topic), message.payload)
            except (aiomqtt.MqttError, InputError, OSError) as error:  # InputError: certificates
                why = client_words(error, broker.host)
                if why != said:
                    said = why
                    log.warning("presence is not followed", broker=broker.name, why=said)
            wait = min(BACKOFF_MAX, random.uniform(0.1, 3 * wait))
            await asyncio.sleep(wait)

    def _note(self, presence: Presence, topic: str, payload: object) -> None:
        levels = topic.split("/")
        if len(levels) != 5 or not isinstance(payload, bytes):
            return
        _, org, site, device, _ = levels
        if presence.index(org, site, device) is not None:
            self._news[device] = org, site, payload
            self._heard.set()

    async def _tell_changes(self, presence: Presence) -> None:
        """Until cancelled. Each change is synced to disk: of what a device says meanwhile the newest counts."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            while self._news:
                device = next(iter(self._news))
                org, site, payload = self._news.pop(device)
                await self._tell(presence.status(org, site, device, payload, time.time_ns()))

    async def _tell(self, transitions: list[dict[str, object]]) -> None:
        if transitions:
            try:
                await self._store.take(transitions)
            except SpoolFull as error:  # it is in the book, and written once there is room
                log.error("an alert waits for room on disk", why=str(error))
