"""A stage: loader and counting sinks around a gateway under test, in a folder of their own."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import yaml

from greenlang_iot.bench.loader import Load, broker_at
from greenlang_iot.bench.processes import PATIENCE, Child, cores
from greenlang_iot.bench.real_servers import influxdb_values, kafka_records
from greenlang_iot.bench.workload import METRICS, registry
from greenlang_iot.model.errors import GatewayError
from greenlang_iot.simulate.ca import loopback

PARTITIONS = 12


@dataclass(slots=True, frozen=True)
class Setup:
    """What stands around a gateway.

    up: whether the sinks take connections (else their ports are shut). checked: the sinks look at every
    byte of what they get; else they only count. broker, kafka, influxdb: addresses of real servers in
    place of loader and counting sinks, "" for none; ca_file: who signed the broker's certificate.
    """

    devices: int = 10_000
    record_bytes: int = 16_384
    tls: bool = True
    qos: int = 1
    metrics: int = 1
    up: bool = True
    checked: bool = True
    broker: str = ""
    ca_file: str = ""
    kafka: str = ""
    influxdb: str = ""

    @property
    def acked_here(self) -> bool:
        """Whether the loader sees the gateway's acknowledgements."""
        return self.qos > 0 and not self.broker


class Stage:
    """Everything but the gateway."""

    def __init__(self, folder: Path, setup: Setup) -> None:
        self.folder = folder
        self.setup = setup
        self.start_ms = int(time.time() * 1000) - 600_000
        self._stack = ExitStack()
        self.gateway_core, self.other_cores = cores()

    def __enter__(self) -> Self:
        setup = self.setup
        self.folder.mkdir(parents=True)
        self.ca_file = loopback(self.folder / "tls")[0]
        load = Load(
            str(self.folder / "tls"), setup.devices, self.start_ms, setup.record_bytes,
            setup.tls, setup.qos, setup.metrics, setup.broker, setup.ca_file,
        )  # fmt: skip
        with self._undone():
            self.loader = self.child("loader", orjson.dumps(asdict(load)).decode())
            self.port = int(self.loader.line())
            told = (setup.devices, self.start_ms) if setup.checked else ()
            self.influxdb = self.child("counting_influxdb", *told)
            self.kafka = self.child("counting_kafka", PARTITIONS, *told)
            self.influxdb_port, self.kafka_port = int(self.influxdb.line()), int(self.kafka.line())
        if not setup.up:
            self.influxdb_port, self.kafka_port = free_port(), free_port()
        return self

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """What was started ends where the rest does not start."""
        try:
            yield
        except BaseException:
            self._stack.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def child(self, module: str, *arguments: object) -> Child:
        """A process of this stage, of a module of this room."""
        command = [sys.executable, "-m", f"greenlang_iot.bench.{module}", *arguments]
        return self._start(command, module, self.other_cores)

    def start_gateway(self, changes: dict[str, Any]) -> Child:
        """The real `greenlang-iot run`, with the shipped production settings and one shard."""
        self.admin_port = free_port()
        settings = merged(self._settings(), changes)
        config, devices = self.folder / "iot-config.yaml", self.folder / "devices.json"
        config.write_text(yaml.safe_dump(settings))
        devices.write_bytes(orjson.dumps(registry(self.setup.devices, self.setup.metrics)))
        if self.setup.kafka or self.setup.influxdb:
            self._set_up(settings)
        # each shard after the first one gets a core of the others
        where = set(self.gateway_core)
        where |= set(sorted(self.other_cores)[: settings["runtime"]["shards"] - 1])
        command = [
            sys.executable, "-m", "greenlang_iot", "run", "--config", config,
            "--devices-file", devices, "--summary", "none",
        ]  # fmt: skip
        return self._start(command, "greenlang_iot", where)

    def start_peer(self, command: Sequence[object]) -> Child:
        """Another gateway in its place; the environment says where everything is."""
        known = {
            "BENCH_MQTT_PORT": self.port,
            "BENCH_CA_FILE": self.ca_file,
            "BENCH_INFLUXDB_PORT": self.influxdb_port,
            "BENCH_KAFKA_PORT": self.kafka_port,
        }
        environment = {name: str(value) for name, value in known.items()}
        return self._start(command, "peer", self.gateway_core, environment, answers=False)

    def _start(
        self,
        command: Sequence[object],
        name: str,
        where: set[int],
        environment: dict[str, str] | None = None,
        *,
        answers: bool = True,
    ) -> Child:
        log = self.folder / f"{name}.log"
        child = Child(command, cores=where, log=log, environment=environment, answers=answers)
        return self._stack.enter_context(child)

    def _settings(self) -> dict[str, Any]:
        """What differs from the defaults, which are what the shipped file shows."""
        setup = self.setup
        return {
            "data_dir": str(self.folder / "var"),
            "mqtt": {
                "brokers": [self._broker()],
                "qos": setup.qos,
                "discovery": setup.acked_here,  # it listens at QoS 0 to the same topics
            },
            "sinks": {
                "influxdb": {"enabled": True, "url": setup.influxdb, "version": "1"}
                if setup.influxdb
                else {
                    "enabled": True,
                    "url": f"http://127.0.0.1:{self.influxdb_port}",
                    "token": "counting",
                },
                "kafka": {
                    "enabled": True,
                    "bootstrap_servers": setup.kafka or f"127.0.0.1:{self.kafka_port}",
                },
                "lake": {"enabled": False},
                "dead_letter": {"target": "kafka"},
            },
            "runtime": {"shards": 1},
            "admin": {"port": self.admin_port},
            "log": {"format": "json"},
        }

    def _broker(self) -> dict[str, Any]:
        if not self.setup.broker:
            tls = {"ca_file": str(self.ca_file)} if self.setup.tls else None
            return {"port": self.port, "tls": tls}
        place = broker_at(self.setup.broker)
        return {
            "host": place.host,
            "port": place.port,
            "tls": {"ca_file": self.setup.ca_file or None} if place.secure else None,
            "username": place.username,
            "password": place.password,
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

    def received(self, changes: dict[str, Any]) -> int:
        """Messages that have arrived in every sink that these settings leave on."""
        sinks = changes.get("sinks", {})
        counts: list[int] = []
        if sinks.get("influxdb", {}).get("enabled", True):
            real = self.setup.influxdb
            counts.append(self._delivered("influxdb") if real else self.influxdb.ask()["lines"])
        if sinks.get("kafka", {}).get("enabled", True):
            real = self.setup.kafka
            counts.append(self._delivered("kafka") if real else self.kafka.ask()["records"])
        return min(counts)

    def _set_up(self, settings: dict[str, Any]) -> None:
        """Topics and databases in the real servers, by the gateway's own command."""
        real = {"kafka": bool(self.setup.kafka), "influxdb": bool(self.setup.influxdb)}
        sinks: dict[str, Any] = {sink: {"enabled": is_real} for sink, is_real in real.items()}
        config = self.folder / "setup.yaml"
        config.write_text(
            yaml.safe_dump(
                merged(settings, {"sinks": sinks | {"dead_letter": {"target": "files"}}})
            )
        )
        told = [sys.executable, "-m", "greenlang_iot", "setup", "--config", str(config)]
        done = subprocess.run(told, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise GatewayError(f"the servers are not set up: {done.stderr.strip()[-500:]}")
        self._held_before = self._held()

    def arrived(self) -> dict[str, int]:
        """Readings that the real servers hold and did not hold before, by sink, asked of them."""
        return {sink: held - self._held_before[sink] for sink, held in self._held().items()}

    def _held(self) -> dict[str, int]:
        held = {}
        if self.setup.influxdb:
            held["influxdb"] = influxdb_values(
                self.setup.influxdb, "iot_data", "telemetry", METRICS[0]
            )
        if self.setup.kafka:
            held["kafka"] = kafka_records(self.setup.kafka, "iot.readings")
        return held

    def _delivered(self, sink: str) -> int:
        return int(self.metric("sink_delivered_readings_total", f'sink="{sink}"'))

    def metric(self, name: str, label: str = "") -> float:
        """Sum of a metric of the gateway over its labels, or over those with this one."""
        with urllib.request.urlopen(f"{self._admin}/metrics", timeout=5) as answer:  # noqa: S310
            rows = answer.read().decode().splitlines()
        return sum(
            float(row.split()[-1])
            for row in rows
            if name in row and label in row and not row.startswith("#")
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
