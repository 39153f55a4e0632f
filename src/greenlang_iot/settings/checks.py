"""Checks between settings: what each field's own bounds cannot say. No file is read, only looked for."""

import ipaddress
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from greenlang_iot.formats.catalog import PLAIN
from greenlang_iot.formats.topics import TopicTemplate, template_problem
from greenlang_iot.settings.expect import Place, show
from greenlang_iot.settings.formats import entry_problem
from greenlang_iot.settings.model import (
    AdminSettings,
    BrokerSettings,
    InfluxSettings,
    KafkaSettings,
    NotifierSettings,
    RunnerSettings,
    Settings,
    TlsSettings,
)
from greenlang_iot.settings.template import body_problem

ASSUMED_ACK_LATENCY = 0.5
"""Seconds from a message's arrival to its PUBACK with healthy sinks, assumed by `config check`."""

_KAFKA_TOPIC = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


class Finding(NamedTuple):
    """places: the settings concerned, the first is the one to change."""

    places: tuple[Place, ...]
    message: str
    is_warning: bool = False


def check(settings: Settings) -> list[Finding]:
    """Every contradiction in settings that are valid field by field, and what deserves a warning."""
    findings: list[Finding] = []
    findings += _mqtt(settings)
    findings += _sinks(settings)
    if settings.sinks.influxdb.enabled:
        findings += _influxdb(settings.sinks.influxdb, settings.limits.max_age)
    if settings.sinks.kafka.enabled:
        findings += _kafka(settings.sinks.kafka)
    findings += _bounds(settings)
    findings += _notifiers(settings)
    findings += _admin(settings.admin)
    return findings


def _notifiers(settings: Settings) -> Iterator[Finding]:
    names: set[str] = set()
    for i, notifier in enumerate(settings.alerts.notifiers):
        place: Place = ("alerts", "notifiers", i)
        if notifier.name in names:
            yield Finding(((*place, "name"),), f"{notifier.name!r} names another one already")
        names.add(notifier.name)
        if notifier.kind != "log":
            yield from _notified(notifier, place)
        if notifier.template is not None and (problem := body_problem(notifier.template)):
            yield Finding(((*place, "template"),), problem)


def _notified(notifier: NotifierSettings, place: Place) -> Iterator[Finding]:
    url = _url(notifier.url)
    if url is None or url.hostname is None:
        yield Finding(((*place, "url"),), f"a {notifier.kind} needs a url: http(s)://host/…")
    elif url.scheme == "http" and not _is_loopback(url.hostname):
        message = "plain HTTP: alerts cross the network unprotected"
        yield Finding(((*place, "url"),), message, True)
    if notifier.tls is not None:
        yield from _tls(notifier.tls, (*place, "tls"))
        if url is not None and url.scheme == "http":
            places = ((*place, "url"), (*place, "tls"))
            yield Finding(places, "a tls section is set, and the URL is not https", True)


def _mqtt(settings: Settings) -> Iterator[Finding]:
    mqtt = settings.mqtt
    if (problem := template_problem(mqtt.topic, ("org", "site", "device"))) is not None:
        yield Finding((("mqtt", "topic"),), problem)
    else:
        yield from _formats(settings)
    names = [b.name for b in mqtt.brokers]
    for i, broker in enumerate(mqtt.brokers):
        place: Place = ("mqtt", "brokers", i)
        if broker.name in names[:i]:
            yield Finding(((*place, "name"),), f"{broker.name!r} names another broker already")
        yield from _broker(broker, place)
        if broker.maximum_packet_size > settings.batch.max_bytes:
            places: tuple[Place, ...] = ((*place, "maximum_packet_size"), ("batch", "max_bytes"))
            message = f"a packet must fit into batch.max_bytes ({settings.batch.max_bytes})"
            yield Finding(places, message)
        if settings.limits.max_payload_bytes > broker.maximum_packet_size:
            yield Finding(
                (("limits", "max_payload_bytes"), (*place, "maximum_packet_size")),
                f"{broker.name} sends no packet over maximum_packet_size "
                f"({broker.maximum_packet_size}): the broker drops what is larger",
                True,
            )


def _formats(settings: Settings) -> Iterator[Finding]:
    mqtt = settings.mqtt
    known: list[tuple[Place, TopicTemplate]] = [(("mqtt", "topic"), TopicTemplate(mqtt.topic))]
    for i, entry in enumerate(mqtt.formats):
        place: Place = ("mqtt", "formats", i)
        if (found := entry_problem(entry)) is not None:
            yield Finding(((*place, found[0]),), found[1])
            continue
        template = TopicTemplate(entry.topic, entry.device_id)
        for other, earlier in known:
            takes_its_place = other == ("mqtt", "topic") and entry.topic == mqtt.topic
            if template.overlaps(earlier) and not takes_its_place:
                message = f"a topic may follow this and {show(other)}: a message has one format"
                yield Finding(((*place, "topic"), other), message)
        known.append(((*place, "topic"), template))
        missing = entry.missing_ts or settings.limits.missing_ts
        if entry.format == PLAIN and missing == "reject":
            message = "a plain number has no time stamp: set receive_time, or every one is rejected"
            yield Finding(((*place, "missing_ts"), ("limits", "missing_ts")), message)
        if template.sparkplug and mqtt.layout == "shared":
            message = "a share splits an edge node's messages over shards: Sparkplug needs sites"
            yield Finding((("mqtt", "layout"), (*place, "format")), message)


def _broker(broker: BrokerSettings, place: Place) -> Iterator[Finding]:
    if not is_host(broker.host):
        yield Finding(((*place, "host"),), f"{broker.host!r} is no host name or address")
    tls = broker.tls
    if tls is not None:
        yield from _tls(tls, (*place, "tls"))
    here: tuple[Place, ...] = ((*place, "port"), (*place, "tls"))
    if tls is None and broker.port == 8883:
        yield Finding(here, "8883 is the port of MQTT over TLS, and no tls section is set", True)
    elif tls is not None and broker.port == 1883:
        yield Finding(here, "1883 is the port of MQTT without TLS, and a tls section is set", True)
    if tls is None and not _is_loopback(broker.host):
        message = "plain TCP: readings and the password cross the network unprotected"
        yield Finding(((*place, "tls"), (*place, "host")), message, True)
    if broker.username is None and broker.password is not None and broker.protocol == "3.1.1":
        yield Finding(((*place, "username"),), "MQTT 3.1.1 allows no password without a username")


def _tls(tls: TlsSettings, place: Place) -> Iterator[Finding]:
    if not tls.verify:
        message = "any certificate is accepted: whoever can redirect the traffic can read it"
        yield Finding(((*place, "verify"),), message, True)
    elif not tls.check_hostname:
        message = "a certificate for any other host of this CA is accepted"
        yield Finding(((*place, "check_hostname"),), message, True)
    if tls.crl_file is not None and not tls.verify:
        yield Finding(
            ((*place, "crl_file"), (*place, "verify")), "nothing is looked up without verify"
        )
    if tls.key_file is not None and tls.cert_file is None:
        yield Finding(((*place, "key_file"),), "is set without cert_file")
    for name in ("ca_file", "crl_file", "cert_file", "key_file"):
        file = getattr(tls, name)
        if file is not None and not file.is_file():
            yield Finding(((*place, name),), f"there is no file {file} (yet)", True)
    yield from _private(tls.key_file, (*place, "key_file"))


def _private(key_file: Path | None, place: Place) -> Iterator[Finding]:
    try:
        mode = 0 if key_file is None else key_file.stat().st_mode
    except OSError:  # it is said elsewhere
        return
    if mode & 0o007:
        message = f"{key_file} may be read by every user of this machine: chmod o-rwx"
        yield Finding((place,), message, True)


def _sinks(settings: Settings) -> Iterator[Finding]:
    sinks = settings.sinks
    enabled = {
        name: sink
        for name in ("influxdb", "kafka", "lake")
        if (sink := getattr(sinks, name)).enabled
    }
    if not any(sink.policy == "required" for sink in enabled.values()):
        places: tuple[Place, ...] = tuple(
            ("sinks", name, key)
            for name in ("influxdb", "kafka", "lake")
            for key in ("enabled", "policy")
        )
        state = "none is required" if enabled else "none is enabled"
        message = f"of the sinks influxdb, kafka and lake {state}: messages would be acknowledged and lost"
        yield Finding((("sinks",), *places), message)
    for name, sink in enabled.items():
        yield from _runner(sink, ("sinks", name))
    queues = sum(sink.queue_bytes for sink in enabled.values())
    if queues > settings.runtime.memory_bound:
        place: Place = ("runtime", "memory_bound")
        message = f"is below the sinks' queue_bytes together ({queues}): the queues never fill"
        yield Finding((place, *(("sinks", n, "queue_bytes") for n in enabled)), message, True)
    if sinks.dead_letter.target == "kafka" and not sinks.kafka.enabled:
        places = (("sinks", "dead_letter", "target"), ("sinks", "kafka", "enabled"))
        yield Finding(places, "kafka needs sinks.kafka.enabled: true")


def _runner(sink: RunnerSettings, place: Place) -> Iterator[Finding]:
    for small, large in (("chunk_bytes", "queue_bytes"), ("backoff_initial", "backoff_max")):
        if getattr(sink, small) > getattr(sink, large):
            message = f"must not be above {large} ({getattr(sink, large):.12g})"
            yield Finding(((*place, small), (*place, large)), message)


def _influxdb(influx: InfluxSettings, max_age: float) -> Iterator[Finding]:
    place: Place = ("sinks", "influxdb")
    if influx.version == "2" and influx.token is None:
        message = (
            "InfluxDB 2 needs a token: set GREENLANG_IOT__SINKS__INFLUXDB__TOKEN or token_file"
        )
        yield Finding(((*place, "token"), (*place, "token_file"), (*place, "version")), message)
    if influx.version == "1" and (influx.username is None) != (influx.password is None):
        places: tuple[Place, ...] = ((*place, "username"), (*place, "password"))
        yield Finding(places, "InfluxDB 1 takes username and password together, or neither")
    url = _url(influx.url)
    host = url.hostname if url is not None else None
    if url is None or host is None:
        yield Finding(((*place, "url"),), "must look like http://host:8086 or https://host:8086")
    elif url.username is not None or url.password is not None:
        yield Finding(
            ((*place, "url"),), "must not hold a login; use token, or username and password"
        )
    elif url.scheme == "http" and not _is_loopback(host):
        message = "plain HTTP: readings and the token cross the network unprotected"
        yield Finding(((*place, "url"),), message, True)
    if influx.tls is not None:
        yield from _tls(influx.tls, (*place, "tls"))
        if url is not None and url.scheme == "http":
            places = ((*place, "url"), (*place, "tls"))
            yield Finding(places, "a tls section is set, and the URL is not https", True)
    if influx.retention and (max_age == 0 or max_age > influx.retention):
        message = "is shorter than limits.max_age: InfluxDB will refuse the oldest readings"
        yield Finding(((*place, "retention"), ("limits", "max_age")), message, True)


def _kafka(kafka: KafkaSettings) -> Iterator[Finding]:
    place: Place = ("sinks", "kafka")
    for server in kafka.bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        right = port.isdecimal() and 1 <= int(port) <= 65535
        if not right or not is_host(host):
            message = f"{server.strip()!r} must be host:port (several with commas between them)"
            yield Finding(((*place, "bootstrap_servers"),), message)
    topics = ("readings_topic", "alerts_topic", "alerts_state_topic", "deadletter_topic")
    for name in topics:
        if not _KAFKA_TOPIC.fullmatch(getattr(kafka, name)):
            yield Finding(((*place, name),), "a topic is 1 to 249 letters, digits and . _ -")
    for one, two in combinations(topics, 2):
        if getattr(kafka, one) == getattr(kafka, two):
            yield Finding(((*place, two), (*place, one)), f"is the same topic as {one}")
    if kafka.min_insync_replicas > kafka.replication_factor:
        places: tuple[Place, ...] = (
            (*place, "min_insync_replicas"),
            (*place, "replication_factor"),
        )
        message = f"must not be above replication_factor ({kafka.replication_factor}): no write would succeed"
        yield Finding(places, message)
    if kafka.max_batch_bytes > kafka.chunk_bytes:
        places = ((*place, "max_batch_bytes"), (*place, "chunk_bytes"))
        yield Finding(places, f"must not be above chunk_bytes ({kafka.chunk_bytes})")
    security: Place = (*place, "security_protocol")
    if kafka.security_protocol.startswith("SASL"):
        for name in ("sasl_mechanism", "username", "password"):
            if getattr(kafka, name) is None:
                yield Finding(((*place, name), security), f"{kafka.security_protocol} needs it")
    elif kafka.sasl_mechanism is not None or kafka.password is not None:
        message = f"{kafka.security_protocol} uses no login; choose SASL_SSL to use it"
        yield Finding((security, (*place, "sasl_mechanism"), (*place, "password")), message, True)
    if kafka.tls is not None:
        yield from _tls(kafka.tls, (*place, "tls"))
        if not kafka.security_protocol.endswith("SSL"):
            message = f"a tls section is set, and {kafka.security_protocol} does not use TLS"
            yield Finding((security, (*place, "tls")), message)
    elif kafka.security_protocol == "SASL_PLAINTEXT":
        yield Finding((security,), "the login crosses the network without TLS", True)


def _admin(admin: AdminSettings) -> Iterator[Finding]:
    if admin.tls is not None:
        for name in ("cert_file", "key_file"):
            if not (file := getattr(admin.tls, name)).is_file():
                yield Finding((("admin", "tls", name),), f"there is no file {file} (yet)", True)
        yield from _private(admin.tls.key_file, ("admin", "tls", "key_file"))
    elif not _is_loopback(admin.host):
        message = (
            f"{admin.host} is open to the network; without admin.tls other machines are answered "
            "only /healthz and /readyz"
        )
        yield Finding((("admin", "host"), ("admin", "tls")), message, True)


def _bounds(settings: Settings) -> Iterator[Finding]:
    for place, part in ((("sinks", "lake"), settings.sinks.lake), (("spool",), settings.spool)):
        if part.segment_bytes > part.max_bytes:
            places: tuple[Place, ...] = ((*place, "segment_bytes"), (*place, "max_bytes"))
            yield Finding(places, f"must not be above max_bytes ({part.max_bytes})")


def _url(text: str) -> SplitResult | None:
    """None where it is no URL of HTTP, or nothing can be asked at it."""
    try:
        url = urlsplit(text)
        right = url.port != 0  # ValueError where it is no port
    except ValueError:
        return None
    right = right and url.scheme in ("http", "https") and is_host(url.hostname or "")
    return url if right else None


def is_host(host: str) -> bool:
    """Whether it can be looked up at all: what cannot is no broker that is away."""
    try:
        return bool(host.encode("idna")) and host.isprintable() and " " not in host
    except UnicodeError:  # an empty label, or one that is too long
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
