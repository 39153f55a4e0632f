"""An MQTT broker: reachable, TLS, login, limits, rights by a probe."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import aiomqtt
from aiomqtt.exceptions import MqttConnectError

from greenlang_iot.model.errors import InputError
from greenlang_iot.mqtt.client import Client, client_options, client_words
from greenlang_iot.mqtt.tls import handshake_words, ssl_context
from greenlang_iot.mqtt.words import system_words
from greenlang_iot.runtime.doctor.finding import Finding
from greenlang_iot.settings.model import BrokerSettings, Settings, TlsSettings

FILTERS_TRIED: Final = 50
EXPIRES_SOON: Final = 14 * 86_400.0
DROPPED: Final = "$SYS/broker/publish/messages/dropped"
DROPPED_WAIT: Final = 1.0
_BAD_LOGIN = {4, 134}  # 3.1.1 and 5: Bad user name or password
_NOT_AUTHORISED = {5, 135}


async def broker(
    settings: Settings, broker: BrokerSettings, filters: Sequence[str]
) -> AsyncIterator[Finding]:
    """Each check only where the one before it let us through. `filters`: what will be subscribed."""
    name = f"broker {broker.name}"
    reached = await _reach(broker, name)
    yield reached
    if reached.state == "failed":
        return
    if broker.tls is not None:
        handshake = await _tls(broker, f"{name}: TLS")
        yield handshake
        if handshake.state == "failed":
            return
    client = _client(settings, broker)
    try:
        async with client:
            who = f"as {broker.username}" if broker.username else "without a login"
            yield Finding(f"{name}: login", "ok", who)
            for finding in _limits(settings, client.limits, f"{name}: limits"):
                yield finding
            yield await _read_rights(client, filters, f"{name}: subscribe")
            async for finding in _dropped(client, f"{name}: dropped"):
                yield finding
    except aiomqtt.MqttCodeError as error:
        yield await _refused(broker, error, f"{name}: login")
        return
    except aiomqtt.MqttError as error:
        yield await _lost(broker, error, f"{name}: login")
        return
    async for finding in _write_rights(settings, broker, name):
        yield finding


async def _reach(broker: BrokerSettings, subject: str) -> Finding:
    where = f"{broker.host}:{broker.port}"
    try:
        async with asyncio.timeout(broker.connect_timeout):
            _, writer = await asyncio.open_connection(broker.host, broker.port)
    except TimeoutError:
        return Finding(
            subject,
            "failed",
            f"{where} does not answer within {broker.connect_timeout:g} s",
            "a firewall may drop the packets; check host, port and the network between",
        )
    except socket.gaierror as error:
        return Finding(
            subject,
            "failed",
            f"the name {broker.host} is not known ({error.strerror})",
            "correct mqtt.brokers[].host, or the DNS of this machine",
        )
    except OSError as error:
        return Finding(
            subject,
            "failed",
            f"{where} cannot be reached: {_words(error)}",
            "start the broker, or correct mqtt.brokers[].host and port",
        )
    writer.transport.abort()
    return Finding(subject, "ok", f"{where} answers")


async def _tls(broker: BrokerSettings, subject: str) -> Finding:
    assert broker.tls is not None
    try:
        context = ssl_context(broker.tls)
    except InputError as error:
        return Finding(subject, "failed", str(error), "correct the file, or the tls section")
    try:
        async with asyncio.timeout(broker.connect_timeout):
            _, writer = await asyncio.open_connection(
                broker.host, broker.port, ssl=context, server_hostname=broker.host
            )
    except ssl.SSLCertVerificationError as error:
        return _bad_certificate(error, subject)
    except (ssl.SSLError, ConnectionError, TimeoutError) as error:
        return Finding(
            subject,
            "failed",
            f"no TLS at {broker.host}:{broker.port}: {_words(error)}",
            "the port may speak plain MQTT (leave the tls section out), want a client certificate "
            "(cert_file, key_file), or an older TLS than minimum_version",
        )
    certificate: dict[str, Any] = writer.get_extra_info("peercert") or {}
    version = writer.get_extra_info("ssl_object").version()
    writer.transport.abort()
    if not certificate:
        return Finding(
            subject, "warning", f"{version}, any certificate is accepted", "set tls.verify: true"
        )
    left = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
    said = f"{version}, chain and host name hold, {left / 86_400:.0f} days left"
    if left < EXPIRES_SOON:
        return Finding(subject, "warning", said, "renew the broker's certificate")
    return Finding(subject, "ok", said)


def _bad_certificate(error: ssl.SSLCertVerificationError, subject: str) -> Finding:
    words, _, advice = handshake_words(error)[1].partition("; ")
    return Finding(subject, "failed", f"the certificate is refused: {words}", advice)


def _client(settings: Settings, broker: BrokerSettings) -> Client:
    return Client(identifier=f"{settings.instance}-doctor", **client_options(broker))


async def _refused(broker: BrokerSettings, error: aiomqtt.MqttCodeError, subject: str) -> Finding:
    """A number that is no reason code is a failure on this side, whatever its value."""
    code: Any = error.rc
    refusal = isinstance(error, MqttConnectError) or hasattr(code, "value")
    if not refusal or getattr(code, "value", code) not in _BAD_LOGIN | _NOT_AUTHORISED:
        return await _lost(broker, error, subject)
    who = f"user {broker.username!r}" if broker.username else "a client without a login"
    return Finding(
        subject,
        "failed",
        f"the broker does not let {who} in: {error}",
        "correct username and password (password_file), or give this login to the broker",
    )


async def _lost(broker: BrokerSettings, error: aiomqtt.MqttError, subject: str) -> Finding:
    if broker.tls is None and await _speaks_tls(broker):
        return Finding(
            subject,
            "failed",
            f"port {broker.port} speaks TLS, and the settings have no tls section for this broker",
            "add mqtt.brokers[].tls with the ca_file that signed its certificate",
        )
    said = f"the connection is refused or lost: {client_words(error, broker.host)}"
    return Finding(subject, "failed", said, "look into the broker's log")


async def _speaks_tls(broker: BrokerSettings) -> bool:
    """Whether a handshake comes to its end, or the other side ends it by an alert (it wants our certificate)."""
    context = ssl_context(TlsSettings(verify=False))
    try:
        async with asyncio.timeout(broker.connect_timeout):
            _, writer = await asyncio.open_connection(broker.host, broker.port, ssl=context)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True


def _limits(settings: Settings, properties: Any, subject: str) -> list[Finding]:
    """What CONNACK says that the gateway cannot live with (MQTT 5; absent means no limit)."""
    found = []

    def limit(name: str, standard: int) -> int:
        return int(getattr(properties, name, standard))

    if limit("MaximumQoS", 2) < settings.mqtt.qos:
        found.append(("failed", "it grants QoS 0 only", "allow QoS 1 there, or set mqtt.qos: 0"))
    if not limit("WildcardSubscriptionAvailable", 1):
        found.append(("failed", "it has no wildcard subscriptions", "the gateway needs them"))
    if settings.mqtt.layout == "shared" and not limit("SharedSubscriptionAvailable", 1):
        found.append(("failed", "it has no shared subscriptions", "set mqtt.layout: sites"))
    if settings.alerts.mqtt and not limit("RetainAvailable", 1):
        found.append(("failed", "it has no retained messages", "set alerts.mqtt: false"))
    if (size := limit("MaximumPacketSize", 1 << 28)) < 16_384:
        found.append(
            ("warning", f"it takes packets of {size:,} bytes at most", "alerts may be larger")
        )
    if not found:
        return [Finding(subject, "ok", "QoS, wildcards and retained messages as needed")]
    return [Finding(subject, state, said, advice) for state, said, advice in found]  # type: ignore[arg-type]


async def _read_rights(client: Client, filters: Sequence[str], subject: str) -> Finding:
    tried = list(filters[:FILTERS_TRIED])
    refused = []
    for item in tried:
        codes = await client.subscribe(item, qos=1)
        code: Any = codes[0]  # a number (3.1.1) or a reason code
        if getattr(code, "is_failure", code == 128):
            refused.append(f"{item} ({code})")
        else:
            await client.unsubscribe(item)
    if refused:
        return Finding(
            subject,
            "failed",
            f"refused: {', '.join(refused[:3])}" + (" …" if len(refused) > 3 else ""),
            "give this login the right to read these topics (config/mosquitto/acl shows how)",
        )
    return Finding(subject, "ok", f"{len(tried)} of {len(filters)} filters tried, all granted")


async def _write_rights(
    settings: Settings, broker: BrokerSettings, name: str
) -> AsyncIterator[Finding]:
    """Publishes an empty, unretained message where the gateway will publish."""
    instance = settings.instance
    probes = [("status", f"greenlang/_gateway/{instance}/status", "greenlang/_gateway/+/status")]
    if settings.alerts.mqtt:
        topic = f"greenlang/_/_/_/alert/{instance}-doctor"
        probes.append(("alerts", topic, "greenlang/+/+/+/alert/+"))
    for what, topic, needed in probes:
        subject = f"{name}: publish {what}"
        if broker.protocol != "5":
            yield Finding(subject, "skipped", "MQTT 3.1.1 brokers do not say when they refuse")
            continue
        try:
            refusal = await _probe(settings, broker, topic)
        except aiomqtt.MqttError as error:
            yield await _lost(broker, error, subject)
            continue
        if refusal is None:
            yield Finding(subject, "ok", f"granted on {topic}")
        else:
            yield Finding(
                subject,
                "failed",
                f"refused on {topic}: {refusal}",
                f"give this login the right to write {needed}",
            )


async def _probe(settings: Settings, broker: BrokerSettings, topic: str) -> str | None:
    """Why the broker refuses a message to `topic`, or None. A connection of its own, because some
    brokers end it after a refusal."""
    client = _client(settings, broker)
    async with client:
        await client.publish(topic, b"", qos=1)
    return client.refusal


async def _dropped(client: Client, subject: str) -> AsyncIterator[Finding]:
    """Mosquitto counts what its queues dropped; other brokers say nothing here."""
    await client.subscribe(DROPPED, qos=0)
    try:
        async with asyncio.timeout(DROPPED_WAIT):
            message = await anext(aiter(client.messages))
    except TimeoutError:
        return
    text = bytes(message.payload) if isinstance(message.payload, bytes) else b""
    if text.strip() in (b"", b"0"):
        yield Finding(subject, "ok", "the broker dropped no message since its start")
        return
    yield Finding(
        subject,
        "warning",
        f"the broker dropped {text.decode(errors='replace')} messages since its start",
        "lift its queues: max_queued_messages 0 and max_inflight_messages 0, as in "
        "config/mosquitto/mosquitto.conf",
    )


def _words(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, OSError) and error.errno:
        return system_words(error)
    return str(error) or type(error).__name__
