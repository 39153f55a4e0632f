"""aiomqtt as the gateway uses it beside the data plane: options from the settings, and what it drops."""

import re
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.mqtt.words import network_words
from greenlang_iot.settings.model import BrokerSettings

_PROTOCOLS = {"5": aiomqtt.ProtocolVersion.V5, "3.1.1": aiomqtt.ProtocolVersion.V311}


def client_options(broker: BrokerSettings) -> dict[str, Any]:
    """Keyword arguments of `Client` for a clean session at `broker`.

    Raises InputError where a certificate cannot be read.
    """
    tls = ssl_context(broker.tls) if broker.tls is not None else None
    return {
        "hostname": broker.host,
        "port": broker.port,
        "username": broker.username,
        "password": broker.password.get_secret_value() if broker.password else None,
        "protocol": _PROTOCOLS[broker.protocol],
        # MQTT 5 clients say "clean start" by default, and paho refuses this argument for them
        "clean_session": None if broker.protocol == "5" else True,
        "maximum_packet_size": broker.maximum_packet_size,
        "timeout": broker.connect_timeout,
        "keepalive": broker.keep_alive,
        "tls_context": tls,
        # paho would check the host name by itself, with a function that Python 3.12 removed
        "tls_insecure": True if tls is not None and not tls.check_hostname else None,
    }


def client_words(error: Exception, host: str) -> str:
    """Why there is no connection to `host`, or not any more; aiomqtt's own text begins with a number."""
    if not isinstance(error, aiomqtt.MqttError):
        return str(error)
    cause = error.__cause__ or error.__context__
    if isinstance(cause, OSError):
        return network_words(cause, host)[1]
    return re.sub(r"^\[code:\w+\] ", "", str(error))


class Client(aiomqtt.Client):
    """Keeps what aiomqtt drops: the reasons of PUBACK and DISCONNECT, the properties of CONNACK.

    maximum_packet_size: bytes of the largest packet that is taken. In MQTT 5 the broker is told, and drops
    what is larger; from one that sends it nevertheless not a byte more is read, and the connection ends.
    """

    refusal: str | None = None
    """Why a message was refused, the last one that was."""
    unheard: bool = False
    """The last message was taken, and nobody subscribes to its topic (brokers may say so)."""
    goodbye: int = 0
    limits: Any = None
    """CONNACK properties: `ReceiveMaximum`, `MaximumPacketSize` … where the broker sent them."""

    def __init__(
        self, hostname: str, *, maximum_packet_size: int = 262_144, **options: Any
    ) -> None:
        if options.get("protocol") == aiomqtt.ProtocolVersion.V5:
            told = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            told.MaximumPacketSize = maximum_packet_size
            options["properties"] = told
        super().__init__(hostname, **options)
        receive = self._client._sock_recv

        def bounded(size: int) -> bytes:
            if size > maximum_packet_size:  # all that is left of a packet is asked for at once
                error = OSError(
                    f"it sent a packet of more than {maximum_packet_size} bytes (maximum_packet_size)"
                )
                if self._connected.done() and not self._disconnected.done():
                    self._disconnected.set_exception(error)  # what ended it, for `client_words`
                raise error
            return receive(size)

        self._client._sock_recv = bounded  # type: ignore[assignment, method-assign]

    def forget_refusal(self) -> None:
        """`refusal` is then of what is published from now on."""
        self.refusal = None

    def _on_connect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        self.limits = properties
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_publish(
        self, client: Any, userdata: Any, mid: int, reason_code: Any, properties: Any
    ) -> None:
        if getattr(reason_code, "is_failure", False):
            self.refusal = str(reason_code)
        self.unheard = getattr(reason_code, "value", 0) == 16  # No matching subscribers
        super()._on_publish(client, userdata, mid, reason_code, properties)

    def _on_disconnect(
        self, client: Any, userdata: Any, flags: Any, reason_code: Any, properties: Any = None
    ) -> None:
        self.goodbye = getattr(reason_code, "value", 0)
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        if self._disconnected.done():
            # Looked at: asyncio prints what nobody was waiting for when the connection ended.
            self._disconnected.exception()
