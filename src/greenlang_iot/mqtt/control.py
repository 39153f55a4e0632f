"""The control plane: the gateway's status (with a last will) and its alerts, over aiomqtt.

A connection of its own beside the data plane, at low rates: a few messages at a time, each at QoS 1.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import aiomqtt
import orjson
import structlog

from greenlang_iot.model.errors import MqttError
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.mqtt.client import Client, client_options, client_words
from greenlang_iot.settings.model import BrokerSettings

_RETRY_FIRST = 0.1
_RETRY_CAP = 4.0
"""Seconds; between them decorrelated jitter: uniform(first, 3 × the last wait)."""

_IN_FLIGHT = 10
"""Messages that wait for their PUBACKs together; aiomqtt warns of more."""
_Message = tuple[str, bytes, bool]
"""topic, payload, retained"""

_TAKEN_OVER = 142  # reason code "Session taken over"

_log = structlog.get_logger("control")


class ControlPlane:
    """`run()` keeps one connection up until `close()`; meanwhile alerts can be published."""

    def __init__(self, broker: BrokerSettings, instance: str) -> None:
        self._broker = broker
        self._instance = instance
        self._where = f"{broker.host}:{broker.port}"
        self._options = client_options(broker)
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._closing = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    @property
    def connected(self) -> bool:
        """True while messages can be published."""
        return self._client is not None

    async def wait_connected(self) -> None:
        """Return once the status has been published on a connection."""
        await self._up.wait()

    async def run(self) -> None:
        """Connect, publish the status, connect again when the connection is lost; until `close()`.

        Raises MqttError (not retryable) when another client connects with our client id.
        """
        wait = _RETRY_FIRST
        said = ""
        while not self._closing.is_set():
            try:
                await self._connection()
                return
            except aiomqtt.MqttError as error:
                if isinstance(error, _TakenOver):
                    raise MqttError(
                        f"another client connected to {self._where} as {self._client_id}: give "
                        "every gateway its own `instance`",
                        reason="session_taken_over",
                        retryable=False,
                    ) from error
                if self._up.is_set():
                    wait, said = _RETRY_FIRST, ""
                why = client_words(error, self._broker.host)
                if why != said:
                    said = why
                    _log.warning("control connection failed", broker=self._where, why=said)
            finally:
                self._client = None
                self._up.clear()
            wait = min(_RETRY_CAP, random.uniform(_RETRY_FIRST, 3 * wait))
            try:
                await asyncio.wait_for(self._closing.wait(), wait)
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Say offline, disconnect and let `run()` return; idempotent."""
        if self._client is not None and not self._closing.is_set():
            try:
                await self._publish([(self._status_topic, self._status("offline"), True)])
            except MqttError as error:
                _log.warning("offline status not published", why=str(error))
        self._closing.set()

    async def publish_alerts(self, transitions: Sequence[Transition]) -> None:
        """Publish transitions in their order; returns when the broker has them (at least once).

        Each is retained from opening to resolution, then its topic is emptied. Raises MqttError: publish
        the same transitions again, unless the error is not retryable.
        """
        messages: list[_Message] = []
        for transition in transitions:
            topic = alert_topic(transition)
            body = orjson.dumps(transition.as_dict())
            messages.append((topic, body, transition.state != "pending"))
            if transition.state == "resolved":
                messages.append((topic, b"", True))
        for first in range(0, len(messages), _IN_FLIGHT):
            await self._publish(messages[first : first + _IN_FLIGHT])

    @property
    def _client_id(self) -> str:
        return f"{self._instance}-control"

    @property
    def _status_topic(self) -> str:
        return f"greenlang/_gateway/{self._instance}/status"

    def _status(self, status: str, **more: Any) -> bytes:
        return orjson.dumps({"v": 1, "instance": self._instance, "status": status, **more})

    async def _connection(self) -> None:
        """One connection, from connect to its end; returns only when closing."""
        async with Client(
            identifier=self._client_id,
            will=aiomqtt.Will(self._status_topic, self._status("offline"), qos=1, retain=True),
            **self._options,
        ) as client:
            self._client = client
            online = self._status("online", since=time.time_ns())
            try:
                await self._publish([(self._status_topic, online, True)])
            except MqttError as error:
                raise aiomqtt.MqttError(str(error)) from error
            self._up.set()
            lost = asyncio.ensure_future(_until_lost(client))
            closing = asyncio.ensure_future(self._closing.wait())
            try:
                await asyncio.wait((lost, closing), return_when=asyncio.FIRST_COMPLETED)
            finally:
                lost.cancel()
                closing.cancel()
            if lost.done():
                if client.goodbye == _TAKEN_OVER:
                    raise _TakenOver
                lost.result()

    async def _publish(self, messages: Sequence[_Message]) -> None:
        """All at once, in this order; where one is refused, again one at a time to learn which."""
        async with self._one_at_a_time:
            client = self._client
            if client is None:
                raise MqttError(
                    f"the control connection to {self._where} is down", reason="connection_lost"
                )
            client.forget_refusal()
            answers = await asyncio.gather(
                *(
                    client.publish(topic, body, qos=1, retain=keep)
                    for topic, body, keep in messages
                ),
                return_exceptions=True,
            )
            refusal = client.refusal
        for (topic, _, _), error in zip(messages, answers, strict=True):
            if isinstance(error, aiomqtt.MqttError):
                raise MqttError(
                    f"publishing to {topic} at {self._where} failed: {error}",
                    reason="connection_lost",
                ) from error
            if error is not None:
                raise error
        if refusal is None:
            return
        if len(messages) == 1:
            raise MqttError(
                f"the broker at {self._where} refused a message to {messages[0][0]}: {refusal}",
                reason="publish_refused",
            )
        for message in messages:
            await self._publish([message])


class _TakenOver(aiomqtt.MqttError):
    """The broker ended our connection in favour of another one with our client id."""


async def _until_lost(client: aiomqtt.Client) -> None:
    """Raises aiomqtt.MqttError when the connection is lost (nothing is subscribed)."""
    async for _ in client.messages:
        pass


def alert_topic(transition: Transition) -> str:
    """`greenlang/{org}/{site}/{device}/alert/{alert_id}`; `_` stands for what does not apply."""
    place = (transition.org, transition.site, transition.device)
    return "/".join(("greenlang", *(level or "_" for level in place), "alert", transition.alert_id))
