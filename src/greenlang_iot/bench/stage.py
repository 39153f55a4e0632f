"""A stage: loader and counting sinks around a gateway under test, in a folder of their own."""

import socket
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import yaml

from greenlang_iot.bench.processes import PATIENCE, Child, cores
from greenlang_iot.bench.workload import registry
from greenlang_iot.model.errors import GatewayError
from greenlang_iot.simulate.ca import loopback

PARTITIONS = 12


class Stage:
    """Everything but the gateway. up: whether the sinks take connections (else their ports are shut).

    checked: the sinks look at every byte of what they get; else they only count.
    """

    def __init__(
        self,
        folder: Path,
        devices: int,
        record_bytes: int,
        *,
        up: bool = True,
        checked: bool = True,
    ) -> None:
        self.folder = folder
        self.devices = devices
        self.start_ms = int(time.time() * 1000) - 60_000
        self._record_bytes = record_bytes
        self._up = up
        self._checked = checked
        self._stack = ExitStack()
        self.gateway_core, self.other_cores = cores()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        self.ca_file = loopback(self.folder / "tls")[0]
        self.loader = self.child(
            "greenlang_iot.bench.loader",
            self.folder / "tls",
            self.devices,
            self._record_bytes,
            self.start_ms,
        )
        self.port = int(self.loader.line())
        told = (self.devices, self.start_ms) if self._checked else ()
        self.influxdb = self.child("greenlang_iot.bench.counting_influxdb", *told)
        self.kafka = self.child("greenlang_iot.bench.counting_kafka", PARTITIONS, *told)
        self.influxdb_port, self.kafka_port = int(self.influxdb.line()), int(self.kafka.line())
        if not self._up:
            self.influxdb_port, self.kafka_port = free_port(), free_port()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def child(self, module: str, *arguments: object, gateway: bool = False) -> Child:
        """A process of this stage."""
        where = self.gateway_core if gateway else self.other_cores
        log = self.folder / f"{module.rpartition('.')[2]}.log"
        return self._stack.enter_context(Child(module, *arguments, cores=where, log=log))

    def start_gateway(self, changes: dict[str, Any]) -> Child:
        """The real `greenlang-iot run`, with the shipped production settings and one shard."""
        self.admin_port = free_port()
        settings = merged(self._settings(), changes)
        config, devices = self.folder / "iot-config.yaml", self.folder / "devices.json"
        config.write_text(yaml.safe_dump(settings))
        devices.write_bytes(orjson.dumps(registry(self.devices)))
        return self.child(
            "greenlang_iot", "run", "--config", config, "--devices-file", devices,
            "--summary", "none", gateway=True,
        )  # fmt: skip

    def _settings(self) -> dict[str, Any]:
        """What differs from the defaults, which are what the shipped file shows."""
        return {
            "data_dir": str(self.folder / "var"),
            "mqtt": {
                "brokers": [{"port": self.port, "tls": {"ca_file": str(self.ca_file)}}],
            },
            "sinks": {
                "influxdb": {
                    "enabled": True,
                    "url": f"http://127.0.0.1:{self.influxdb_port}",
                    "token": "counting",
                },
                "kafka": {"enabled": True, "bootstrap_servers": f"127.0.0.1:{self.kafka_port}"},
                "lake": {"enabled": False},
                "dead_letter": {"target": "kafka"},
            },
            "runtime": {"shards": 1},
            "admin": {"port": self.admin_port},
            "log": {"format": "json"},
        }

    def wait_until_ready(self, gateway: Child) -> None:
        """Until the gateway says that all its connections and sinks are up."""
        deadline = time.monotonic() + PATIENCE
        while not self._ready():
            if gateway.process.poll() is not None or time.monotonic() > deadline:
                raise GatewayError(f"the gateway is not ready: {gateway.log()}")
            time.sleep(0.1)

    def wait_for_subscribers(self, gateway: Child, count: int) -> None:
        """Until the gateway listens on so many connections."""
        deadline = time.monotonic() + PATIENCE
        while self.loader.ask()["subscribers"] < count:
            if gateway.process.poll() is not None or time.monotonic() > deadline:
                raise GatewayError(f"the gateway did not subscribe: {gateway.log()}")
            time.sleep(0.1)

    def metric(self, name: str) -> float:
        """Sum of a metric of the gateway over its labels."""
        with urllib.request.urlopen(f"{self._admin}/metrics", timeout=5) as answer:  # noqa: S310
            rows = answer.read().decode().splitlines()
        return sum(
            float(row.split()[-1]) for row in rows if name in row and not row.startswith("#")
        )

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._admin}/readyz", timeout=5):  # noqa: S310
                return True
        except OSError:  # not there yet, or 503
            return False

    @property
    def _admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, section by section."""
    result = dict(base)
    for name, value in changes.items():
        known = result.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            value = merged(known, value)
        result[name] = value
    return result


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
