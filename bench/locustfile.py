"""A fleet of MQTT clients with a web page: one connection per device, storms and misbehaviour.

    greenlang-iot simulate --seconds 0 --registry-out fleet.json      # and start a gateway with it
    FLEET=fleet.json FLEET_CA=config/tls/ca.crt \
      locust -f bench/locustfile.py --host mqtts://127.0.0.1:8883     # then http://127.0.0.1:8089

Four kinds of devices, each with its weight (`--class-picker` chooses on the page): one that publishes at
QoS 1, one at QoS 0, one that connects anew for every message, one that sends what must end in the dead
letter. A connect storm: many users at a high spawn rate. What locust measures is the broker's answer;
whether readings arrive is the gateway's `/metrics` to say. Python clients take some 1,000 messages a second
a core: for throughput there is `greenlang-iot bench`.

Environment: FLEET, a registry file (required); FLEET_CA, FLEET_USERNAME, FLEET_PASSWORD; FLEET_PACE, seconds
between the messages of a device (1).
"""

import itertools
import json
import os
import random
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gevent
from locust import constant_pacing, events, task
from locust.contrib.mqtt import MqttClient, MqttUser

PACE = float(os.environ.get("FLEET_PACE", "1"))
CONNECT_WITHIN = 10.0
BAD = (
    b"",
    b"{",
    b"\xff\xfe",
    b'{"ts":1,"metric":"none","value":1}',
    b"[" * 200,
    b'{"ts":"now","value":"NaN"}',
)


class Client(MqttClient):
    """Statistics by kind of event and QoS, not by topic: a fleet has a topic for each device."""

    def _generate_event_name(self, event_type: str, qos: int, topic: str) -> str:
        return f"{event_type} QoS {qos}"


class Fleet:
    """The devices of a registry, one after the other, for ever."""

    def __init__(self, path: str) -> None:
        registry = json.loads(Path(path).read_text())
        self._devices = itertools.cycle(registry["devices"])
        self._types = registry.get("types", {})

    def next(self) -> tuple[str, list[str]]:
        """Topic and metrics of the next device."""
        device: dict[str, Any] = next(self._devices)
        metrics = [
            *self._types.get(device["type"], {}).get("metrics", {}),
            *device.get("metrics", {}),
        ]
        return f"greenlang/{device['org']}/{device['site']}/{device['id']}/telemetry", metrics


FLEET: Fleet | None = None


@events.init.add_listener
def read_fleet(environment: Any, **_: object) -> None:
    global FLEET
    if "FLEET" not in os.environ:
        raise SystemExit("FLEET is not set: the registry file of the devices to play")
    FLEET = Fleet(os.environ["FLEET"])


class Device(MqttUser):
    """One device on a connection of its own."""

    abstract = True
    wait_time = constant_pacing(PACE)
    client_cls = Client
    use_loop_selectors = True  # select() ends at 1,024 descriptors
    username = os.environ.get("FLEET_USERNAME")
    password = os.environ.get("FLEET_PASSWORD")
    qos = 1

    def __init__(self, environment: Any) -> None:
        url = urlsplit(environment.host or "mqtt://127.0.0.1")
        self.host, secure = url.hostname, url.scheme == "mqtts"
        self.port = url.port or (8883 if secure else 1883)
        if secure:
            self.tls_context = ssl.create_default_context(cafile=os.environ.get("FLEET_CA"))
        super().__init__(environment)
        assert FLEET is not None
        self.topic, self.metrics = FLEET.next()
        self.seq = 0

    def connected(self) -> bool:
        """Wait until the broker has accepted the connection."""
        deadline = time.monotonic() + CONNECT_WITHIN
        while not self.client.is_connected() and time.monotonic() < deadline:
            gevent.sleep(0.01)
        return self.client.is_connected()

    def reading(self) -> bytes:
        self.seq += 1
        values = {metric: round(random.gauss(20.0, 0.5), 3) for metric in self.metrics}
        return json.dumps(
            {"ts": time.time_ns() // 1_000_000, "values": values, "seq": self.seq}
        ).encode()

    def publish(self, payload: bytes) -> None:
        if self.connected():
            self.client.publish(self.topic, payload, qos=self.qos)

    def on_stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Steady(Device):
    """Publishes at QoS 1."""

    weight = 12

    @task
    def measure(self) -> None:
        self.publish(self.reading())


class Careless(Steady):
    """Publishes at QoS 0."""

    weight = 5
    qos = 0


class Flapping(Device):
    """Has a radio that comes and goes: connects, publishes once, goes."""

    weight = 2
    gone = False

    @task
    def appear(self) -> None:
        if self.gone:
            self.client.reconnect()
            self.client.loop_start()
        if self.connected():
            self.client.publish(self.topic, self.reading(), qos=1).wait_for_publish(CONNECT_WITHIN)
        self.client.disconnect()
        self.client.loop_stop()  # returns when the socket is closed
        self.gone = True


class Misbehaving(Device):
    """Sends what no gateway can use."""

    weight = 1

    @task
    def annoy(self) -> None:
        self.publish(random.choice(BAD))
