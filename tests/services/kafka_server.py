"""A real Kafka broker for tests: KRaft, broker and controller in one process, loopback only.

Its jars come from `tests/services/kafka/fetch.sh` (Maven) into `.services/kafka/<release>`. The first
start writes a class-data archive beside them, so that later ones take about two seconds.
"""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.ports import free_port

REPOSITORY = Path(__file__).resolve().parents[2]
RELEASE = os.environ.get("KAFKA_RELEASE", "4.3")
_CLUSTER_ID = "bG9vcGJhY2stb25seS10MQ"
_START_TIMEOUT = 120.0
_formatted: dict[str, bytes] = {}
"""Files of a formatted folder, by name."""


def missing() -> str | None:
    """Why no broker can be started here, or None."""
    if shutil.which("java") is None:
        return "Kafka needs Java 17: no java command found"
    if not (_jars() / ".complete").exists():
        return f"Kafka's jars are missing: run tests/services/kafka/fetch.sh {RELEASE}"
    return None


def start_kafka(folder: Path, *, proxy_port: int = 0, **config: str) -> "KafkaServer":
    """Format storage under `folder` and start a broker on free ports; returns when it answers.

    proxy_port: clients of a second listener (`behind_proxy`) are told that the broker is there.
    config: broker settings with dots written as underscores, e.g. message_max_bytes="2000".
    """
    port, controller, second = free_port(), free_port(), free_port()
    settings = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(folder / "data"),
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # a topic that nobody made must be missing, as on a well-kept cluster
        "auto.create.topics.enable": "false",
        # small, so that a broker with a few topics fits beside the tests
        "log.cleaner.dedupe.buffer.size": "2097152",
        "num.network.threads": "2",
        "num.io.threads": "4",
    }
    if proxy_port:
        settings["listeners"] += f",PROXIED://127.0.0.1:{second}"
        settings["advertised.listeners"] += f",PROXIED://127.0.0.1:{proxy_port}"
        settings["listener.security.protocol.map"] += ",PROXIED:PLAINTEXT"
    settings |= {name.replace("_", "."): value for name, value in config.items()}
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    properties.write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
    _format(folder / "data", properties)
    server = KafkaServer(folder, port, second)
    server.start()
    return server


def _format(data: Path, properties: Path) -> None:
    """By Kafka's tool once in a process, which takes a JVM two seconds; what it wrote is the same for every server."""
    if not _formatted:
        tool = ["kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(properties)]
        subprocess.run(
            [*_java(), *tool], check=True, stdout=subprocess.DEVNULL, timeout=_START_TIMEOUT
        )
        _formatted.update({path.name: path.read_bytes() for path in data.iterdir()})
        return
    data.mkdir()
    for name, content in _formatted.items():
        (data / name).write_bytes(content)


@dataclass
class KafkaServer:
    """One broker process; `bootstrap` is host:port."""

    folder: Path
    port: int
    behind_proxy: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start on the same port and data; returns when the broker says that it has started."""
        log = self.folder / "server.log"
        with log.open("ab") as output:
            begin = output.tell()
            self._process = subprocess.Popen(
                [*_java(archive=True), "kafka.Kafka", str(self.folder / "server.properties")],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while b"Kafka Server started" not in log.read_bytes()[begin:]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Kafka did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop in order (SIGTERM), at most 20 s; idempotent."""
        self._end(signal.SIGTERM, 20.0)

    def kill(self) -> None:
        """SIGKILL, as a crash does it."""
        self._end(signal.SIGKILL, 20.0)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, number: signal.Signals, timeout: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _jars() -> Path:
    return REPOSITORY / ".services" / "kafka" / RELEASE


def _java(archive: bool = False) -> list[str]:
    command = [
        "java",
        "-Xms256m",
        "-Xmx512m",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Xshare:auto",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    ]
    if archive:
        # written when the JVM ends in order, read when it is there
        path = _jars() / "broker.jsa"
        option = "SharedArchiveFile" if path.exists() else "ArchiveClassesAtExit"
        command += [f"-XX:{option}={path}", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]
    # named one by one and sorted: a class-data archive belongs to one exact class path
    return [*command, "-cp", ":".join(str(jar) for jar in sorted(_jars().glob("*.jar")))]
