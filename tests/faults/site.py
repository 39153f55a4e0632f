"""The servers of the matrix, once for all rows, and one gateway with its proxy and load per row."""

import contextlib
import json
import math
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mqtt5
import yaml
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
)
from tests.fakes.ports import free_port
from tests.faults.alerts import (
    ALARMS,
    Arrived,
    OutboxWatch,
    influx_steps,
    judge_alerts,
    lake_steps,
    refused_in,
)
from tests.faults.check import FLOOD, Verdict, judge
from tests.faults.kafka_proxy import KafkaProxy
from tests.faults.load import Load
from tests.faults.network import FAR, Network, lossy_network
from tests.faults.proxy import Key, Proxy
from tests.faults.readers import (
    Identity,
    KafkaReader,
    influx1_identities,
    lake_identities,
    read_all,
    reading_of,
    readings_of_body,
    spooled,
)
from tests.faults.seeded import environment
from tests.faults.stand_in import StandIn
from tests.services.gateway_process import GatewayProcess
from tests.services.influxdb1 import start_influxdb1
from tests.services.kafka_server import start_kafka
from tests.services.mosquitto_server import Mosquitto

from greenlang_iot.encode.deadletter import decode
from greenlang_iot.model.kernel_cache import CACHE_FOLDER
from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.settings.model import TlsSettings
from greenlang_iot.simulate.ca import Authority, loopback
from greenlang_iot.simulate.fleet import FleetOptions, fleet_registry
from greenlang_iot.simulate.manifest import Message, Reading

KAFKA_TIMEOUT = 5.0
TOPICS = {
    "readings_topic": "iot.readings",
    "alerts_topic": "iot.alerts",
    "alerts_state_topic": "iot.alerts.state",
    "deadletter_topic": "iot.deadletter",
}

FLOODER = "flooder"
"""A device that the fleet does not have and the registry has, of the first one's type and place."""
TOPIC_SETTINGS = {"max_message_bytes": 1_048_588, "min_insync_replicas": 1}


class Site:
    """Mosquitto, Kafka, InfluxDB 1.x and the stand-in for 2.x, in folders below `folder`.

    devices, rate (messages a second), history (readings that each device has at the start): of the load.
    """

    def __init__(
        self, folder: Path, devices: int = 100, rate: float = 200.0, history: int = 20
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.options = FleetOptions(
            devices=devices, seed=7, interval=devices / rate, history=history
        )
        self.mosquitto = Mosquitto(_made(folder / "mosquitto"))
        self.ca_file, self.identity = loopback(folder / "mosquitto" / "tls")
        self.influx = start_influxdb1(_made(folder / "influxdb"))
        self.kafka_proxy = KafkaProxy()
        self.kafka = start_kafka(folder / "kafka", proxy_port=self.kafka_proxy.port)
        self.kafka_proxy.broker_port = self.kafka.behind_proxy
        self.stand_in = StandIn()
        self._topic_settings = dict(TOPIC_SETTINGS)
        self.registry = folder / "fleet.json"
        registry = fleet_registry(self.options)
        registry["devices"].append(registry["devices"][0] | {"id": FLOODER})
        self.registry.write_text(json.dumps(registry))
        self._setup()

    def _setup(self) -> None:
        """Topics, by the gateway's own command."""
        config = self.folder / "setup.yaml"
        settings = {
            "data_dir": str(self.folder / "setup"),
            "sinks": {
                "kafka": {"enabled": True, "bootstrap_servers": self.kafka.bootstrap},
                "lake": {"enabled": False},
            },
        }
        config.write_text(yaml.safe_dump(settings))
        command = [sys.executable, "-m", "greenlang_iot", "setup", "--config", str(config)]
        subprocess.run(command, check=True, capture_output=True)

    def make_topic(self, name: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        for done in admin.create_topics([NewTopic(name, 12, 1)]).values():
            done.result(20)

    def configure_topic(self, **settings: int) -> None:
        """Settings of the readings topic, dots as underscores; `mend` takes them back."""
        self._topic_settings |= settings
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap})
        entries = [
            ConfigEntry(
                name.replace("_", "."), str(value), incremental_operation=AlterConfigOpType.SET
            )
            for name, value in settings.items()
        ]
        where = ConfigResource(
            ConfigResource.Type.TOPIC, TOPICS["readings_topic"], incremental_configs=entries
        )
        for done in admin.incremental_alter_configs([where]).values():
            done.result(20)

    def mend(self) -> None:
        """Whatever a row did: everything runs again."""
        for server in (self.mosquitto, self.influx, self.kafka):
            process = server._process
            if process is None or process.poll() is not None:
                server.start()
            else:
                process.send_signal(signal.SIGCONT)
        self.kafka_proxy.refuse(0, 0)
        self.kafka_proxy.away = self.kafka_proxy.hold = False
        self.kafka_proxy.delay = 0.0
        if self._topic_settings != TOPIC_SETTINGS:
            self.configure_topic(**TOPIC_SETTINGS)

    def close(self) -> None:
        self.stand_in.close()
        self.kafka_proxy.close()
        self.kafka.stop()
        self.influx.stop()
        self.mosquitto.stop()


class Field:
    """One row's gateway behind its proxy, under load. What a row does to it are its methods.

    influx: "1" for the real server, "2" for the stand-in. topic: for the readings, if it is not to be
    the common one. disk: size of a file system of its own for data_dir. own_ca: the gateway trusts a
    CA file of its own, which the row may replace. proxied: Kafka is reached by way of the proxy.
    network: between gateway and proxy there are packets that can be dropped ("whole"), or delayed and
    lost at random ("lossy"); "": there are none. switched: `switch` works. own_kernels: a kernel cache of its own, which the row may damage.
    alerts: they are followed from outboxes to targets. connections: of the load. receive_maximum: of each of the gateway's connections. bug: the seeded one.
    """

    def __init__(
        self,
        site: Site,
        name: str,
        *,
        influx: str = "1",
        topic: str = TOPICS["readings_topic"],
        disk: str = "",
        own_ca: bool = False,
        proxied: bool = False,
        switched: bool = False,
        own_kernels: bool = False,
        network: str = "",
        alerts: bool = False,
        connections: int = 2,
        receive_maximum: int = 65_535,
        settings: dict[str, Any] | None = None,
        bug: str = "",
    ) -> None:
        self.site = site
        self.name = name
        self.folder = _made(site.folder / "rows" / name)
        self.data_dir = self.folder / "data"
        networks: dict[str, Callable[[], Network]] = {"whole": Network, "lossy": lossy_network}
        self.network = networks[network]() if network else None
        identity = site.identity
        if self.network is not None:
            identity = Authority(site.ca_file.parent).server((FAR,), "far")
        self.proxy = Proxy(site.mosquitto.port, site.ca_file, identity, self.network)
        self.load: Load | None = None
        self.said: Counter[str] = Counter()
        """Reasons that /readyz gave while something was wrong."""
        self.metrics: dict[str, float] = {}
        self.own_ca = site.ca_file
        if own_ca:
            self.own_ca = self.folder / "ca.crt"
            shutil.copy(site.ca_file, self.own_ca)
        self._disk = disk
        if disk:
            self.data_dir.mkdir()
            _run("mount", "-t", "tmpfs", "-o", f"size={disk}", "tmpfs", str(self.data_dir))
        self._proxied = proxied
        self._connections = connections
        self._receive_maximum = receive_maximum
        self._topic = topic
        self._influx = influx
        self._database = f"row_{name.replace('-', '_')}"
        self._kafka = KafkaReader(site.kafka.bootstrap, topic)
        self._letters = KafkaReader(site.kafka.bootstrap, TOPICS["deadletter_topic"])
        self._alerts = KafkaReader(site.kafka.bootstrap, TOPICS["alerts_topic"])
        self._alert_states = KafkaReader(site.kafka.bootstrap, TOPICS["alerts_state_topic"])
        self._cuts: list[tuple[float, float]] = []
        self._sent_again: set[Reading] = set()
        self.clock_wrong: list[tuple[float, float]] = []
        """From when until when; good messages of then may be dead letters."""
        self.down = False
        """Somebody ended the gateway and will start it again."""
        self._empty = False
        if influx == "1":
            site.influx.query(f"CREATE DATABASE {self._database}")
        else:
            site.stand_in.reset()
        self.settings = self._settings(settings or {})
        self.switches = _made(self.folder / "switches")
        self._environment = environment(bug, self.switches if switched else None)
        self._kernels = self.folder / "kernels"
        if own_kernels:
            shutil.copytree(CACHE_FOLDER, self._kernels / CACHE_FOLDER.name)
            self._environment["GREENLANG_IOT_KERNEL_CACHE"] = str(self._kernels)
        self.registry = self.folder / "fleet.json"
        shutil.copy(site.registry, self.registry)
        if alerts:
            document = json.loads(self.registry.read_text())
            first = document["devices"][0]
            document["devices"] += [first | {"id": name} for name in ALARMS]
            self.registry.write_text(json.dumps(document))
        self.gateway = self._start()
        self.outboxes = OutboxWatch(self.data_dir) if alerts else None
        self._watching = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _settings(self, changes: dict[str, Any]) -> dict[str, Any]:
        site = self.site
        if self._influx == "1":
            influx = {"version": "1", "url": site.influx.url, "bucket": self._database}
        else:
            token = self.folder / "token"
            token.write_text(site.stand_in.token)
            token.chmod(0o600)
            influx = {"version": "2", "url": site.stand_in.url, "token_file": str(token)}
        kafka_port = site.kafka_proxy.port if self._proxied else site.kafka.port
        base: dict[str, Any] = {
            "instance": f"row-{self.name}"[:32],
            "data_dir": str(self.data_dir),
            "mqtt": {
                "brokers": [
                    {
                        "host": self.proxy.host,
                        "port": self.proxy.port,
                        "keep_alive": 6,
                        "receive_maximum": self._receive_maximum,
                        "tls": {"ca_file": str(self.own_ca)},
                        "username": "gateway",
                        "password_file": str(site.mosquitto.password_file("gateway")),
                    }
                ]
            },
            "sinks": {
                "influxdb": {"enabled": True, "timeout": 3.0, **influx},
                "kafka": {
                    "enabled": True,
                    "timeout": KAFKA_TIMEOUT,
                    "bootstrap_servers": f"127.0.0.1:{kafka_port}",
                    **TOPICS,
                    "readings_topic": self._topic,
                },
                "lake": {"enabled": False},
            },
            # the second stage has no part in the promise, and loading it takes seconds
            "detect": {"checkpoint_every": 2.0, "second_stage": {"enabled": False}},
            "alerts": {"mqtt": False},
            "runtime": {"shards": 2},
            "admin": {"port": free_port()},
            "log": {"format": "json"},
        }
        return _merged(base, changes)

    def _start(self) -> GatewayProcess:
        with _environment(self._environment):
            return GatewayProcess(self.folder, self.settings, self.registry)

    def restart(self, changes: dict[str, Any] | None = None) -> None:
        """Start a gateway on the same data_dir, the last one having ended."""
        self.settings = _merged(self.settings, changes or {})
        self.gateway = self._start()

    def revive(self) -> str:
        """As a service manager does: start it again where it ended by itself; its last words then."""
        process = self.gateway._process
        if self.down or process.poll() is None:
            return ""
        words = self.gateway.log.read_text()[-1_000:]
        self.restart()
        return f"exit {process.returncode}: {words}"

    # ---- load -------------------------------------------------------------------------------------

    def publish(self, extra: Iterable[Message] = (), seconds: float = 120.0) -> Load:
        """Begin the load; it ends when it is stopped, at the latest after `seconds`."""
        site = self.site
        options = FleetOptions(
            devices=site.options.devices,
            seed=site.options.seed,
            seconds=seconds,
            interval=site.options.interval,
            history=site.options.history,
        )
        self.load = Load(
            site.mosquitto.port,
            site.ca_file,
            site.mosquitto.password_file("simulator"),
            options,
            extra,
            self._connections,
        )
        return self.load

    def switch(self, name: str, content: str = "") -> None:
        """Turn a switch of tests.faults.seeded on, or with no content off."""
        path = self.switches / name
        if content:
            path.with_suffix(".new").write_text(content)
            path.with_suffix(".new").rename(path)
        else:
            path.unlink(missing_ok=True)

    def errors(self) -> list[str]:
        """What the gateway logged as errors, each sentence once."""
        found: dict[str, None] = {}
        for line in self.gateway.log.read_text(errors="replace").splitlines():
            if '"level":"error"' in line:
                item = json.loads(line)
                why = item.get("reason") or item.get("why") or item.get("exception") or ""
                found[f"{item['event']}: {str(why)[-300:]}"] = None
        return list(found)

    def logged(self, words: str) -> bool:
        """Whether the gateway's log holds these words."""
        return words in self.gateway.log.read_text()

    def run_for(self, seconds: float) -> None:
        time.sleep(seconds)  # the load runs meanwhile

    @contextmanager
    def kafka_cut(self) -> Iterator[None]:
        """While this lasts requests to Kafka may be cut unanswered."""
        begun = time.monotonic()
        self.may_be_sent_again()
        try:
            yield
        finally:
            self._cuts.append((begun, time.monotonic()))

    def may_be_sent_again(self) -> None:
        """What waits in Kafka's spools may be delivered once more, for its delivery may stay unsaid."""
        for body in spooled(self.data_dir / "spool", "kafka"):
            self._sent_again.update(readings_of_body(body))

    def subscribed(self) -> None:
        """Until the broker keeps messages for the gateway, whatever its sinks say."""

        def all_up() -> bool:
            shards = self.gateway.get("/status")[1].get("shards", [])
            return bool(shards) and all(
                (s["connections_wanted"] or 99) == s["connections_up"] for s in shards
            )

        self.gateway.wait(all_up, 60, "subscribed")

    # ---- looking on -------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._watching.wait(0.05):  # a shard that was killed is back within 0.2 s
            status, body = self.gateway.get("/readyz")
            if status == 503:
                for reason in body.get("reasons", []):
                    self.said[reason] += 1

    def wait(self, condition: Callable[[], bool], timeout: float, what: str) -> float:
        """Seconds until it was so."""
        begun = time.monotonic()
        self.gateway.wait(condition, timeout, what)
        return time.monotonic() - begun

    def recovered(self, since: float = 0.0, timeout: float = 120.0) -> float:
        """Seconds since `since` (0: this call) until the gateway is ready and acknowledges again."""
        begun = time.monotonic()

        def good() -> bool:
            ready = self.gateway.get("/readyz")[0] == 200
            return ready and self.proxy.record.last_ack > begun

        self.wait(good, timeout, "recovered")
        return time.monotonic() - (since or begun)

    def settled(self, timeout: float = 60.0, *, forgotten: bool = False) -> None:
        """Until nothing is unacknowledged, queued or spooled, for half a second.

        forgotten: the broker may have lost messages that it had confirmed, and none is waited for.
        """
        calm_since = 0.0
        assert self.load is not None
        owed = set() if forgotten else set(self.load.confirmed)

        def calm() -> bool:
            nonlocal calm_since
            status, body = self.gateway.get("/status")
            sinks = body.get("sinks", {}).values()
            busy = sum(
                (s.get("spool_records") or 0) + (s.get("queue_readings") or 0) for s in sinks
            )
            busy += sum(s["messages_unacked"] or 0 for s in body.get("shards", []))
            recent = time.monotonic() - self.proxy.record.last_ack < 1.0
            acked = self.proxy.record.acked
            # a broker that stands still sends nothing either: what it has yet to send is known
            if status != 200 or busy or recent or not all(key in acked for key in owed):
                calm_since = 0.0
                return False
            calm_since = calm_since or time.monotonic()
            return time.monotonic() - calm_since > 0.5

        try:
            self.gateway.wait(calm, timeout, "settled")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.gateway.get('/status')}") from None
        self._empty = True

    def retired(self, timeout: float = 60.0) -> None:
        """Until every client id of an earlier layout is drained: what is left are those of this one."""

        def done() -> bool:
            known = {item["client_id"] for item in json.loads(self._layout.read_text())}
            left = [n for n in known if not (self.data_dir / "run" / f"retired-{n}").exists()]
            shards = self.gateway.get("/status")[1].get("shards", [])
            return len(left) == sum(s["connections_wanted"] or 99 for s in shards)

        self.gateway.wait(done, timeout, "retired")

    @property
    def _layout(self) -> Path:
        return self.data_dir / "layout.json"

    def count(self, metric: str) -> float:
        """Sum of a metric over its labels."""
        total = 0.0
        for line in self.gateway.metrics().splitlines():
            name = line.partition("{")[0].partition(" ")[0].removesuffix("_total")
            if name == f"greenlang_iot_{metric}":
                total += float(line.rsplit(" ", 1)[1])
        return total

    def latency(self, share: float = 0.99) -> float:
        """Seconds within which that share of the messages was acknowledged; floods left out."""
        assert self.load is not None
        sent = self.load.sent
        waited = sorted(
            seconds
            for key, seconds in list(self.proxy.record.waited.items())
            if key in sent and sent[key].kind != FLOOD
        )
        return waited[int(share * (len(waited) - 1))]

    def spool_records(self) -> float:
        """Records in all spools that are not delivered."""
        sinks = self.gateway.get("/status")[1].get("sinks", {}).values()
        return sum(s.get("spool_records") or 0 for s in sinks)

    # ---- faults ---------------------------------------------------------------------------------

    def kill_shard(self) -> int:
        pid = self.gateway.shard_pids()[0]
        os.kill(pid, signal.SIGKILL)
        return pid

    def replaced(self, pid: int, timeout: float) -> None:
        """Until the shard of that process has another one."""

        def done() -> bool:
            pids = self.gateway.shard_pids()
            return pid not in pids and len(pids) == self.settings["runtime"]["shards"]

        self.gateway.wait(done, timeout, "the shard replaced")

    def stop_early(self) -> None:
        """SIGTERM to a gateway that may not be ready yet: it must end in order, or by the signal
        itself where it had not begun."""
        process = self.gateway._process
        process.terminate()
        process.wait(40)
        log = self.gateway.log.read_text()
        assert process.returncode in (0, -signal.SIGTERM), (
            f"exit {process.returncode}: {log[-3000:]}"
        )
        assert "did not drain" not in log, log[-3000:]

    def kill_all(self) -> None:
        """SIGKILL of the supervisor: its shards must die with it."""
        pids = self.gateway.shard_pids()
        self.gateway.kill_all()
        deadline = time.monotonic() + 5
        while any(_runs(pid) for pid in pids):
            assert time.monotonic() < deadline, "shards outlived their supervisor"
            time.sleep(0.02)

    def kill_shards(self) -> None:
        """SIGKILL of every shard, and new ones in their place."""
        for pid in self.gateway.shard_pids():
            os.kill(pid, signal.SIGKILL)
            self.replaced(pid, 40)

    def take_over(self) -> None:
        """Connect to the broker with a client id of a shard's (discovery has none of its own)."""
        instance = self.settings["instance"]
        name = min(n for n in self.proxy.record.client_ids if n.startswith(f"{instance}-"))
        password = self.site.mosquitto.password_file("gateway").read_bytes()
        context = ssl_context(TlsSettings(ca_file=self.site.ca_file))
        packet = mqtt5.ConnectPacket(
            name, username="gateway", password=password, session_expiry_interval=600
        )
        with (
            socket.create_connection(("127.0.0.1", self.site.mosquitto.port)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            connection.sendall(packet.write())
            connection.recv(1)
            time.sleep(0.5)  # the session is the other's for that long

    def renew_certificates(self) -> None:
        """Another CA, and the proxy with a certificate of it."""
        ca_file, identity = loopback(_made(self.folder / "renewed"))
        self.proxy.reload(identity)
        self.own_ca.write_bytes(ca_file.read_bytes())

    def expired_certificate(self) -> None:
        """The proxy shows a certificate that has expired, of the CA that is trusted."""
        authority = Authority(self.site.ca_file.parent)
        self.proxy.reload(authority.server(name="expired", expired=True))

    def good_certificate(self) -> None:
        self.proxy.reload(self.site.identity)

    def halve_files(self) -> None:
        """The gateway's registry (its own copy) and settings are cut in half."""
        for path in self._operator_files:
            path.with_suffix(".whole").write_bytes(path.read_bytes())
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def mend_files(self) -> None:
        for path in self._operator_files:
            path.write_bytes(path.with_suffix(".whole").read_bytes())

    @property
    def _operator_files(self) -> tuple[Path, Path]:
        return self.registry, self.folder / "gateway.yaml"

    def reload(self) -> None:
        """SIGHUP."""
        self.gateway._process.send_signal(signal.SIGHUP)

    def refused_start(self) -> None:
        """A start must end at once, with exit code 2 and without a stack trace."""
        command = [sys.executable, "-m", "greenlang_iot", "run"]
        command += ["--config", str(self.folder / "gateway.yaml")]
        command += ["--devices-file", str(self.registry)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 2, ended.stderr
        assert "Traceback" not in ended.stderr, ended.stderr

    def halve_kernels(self) -> None:
        """Every compiled kernel is cut in half."""
        for path in self._kernels.rglob("*.nb?"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    def starve_shard(self) -> int:
        """A shard can have no more memory than it has, and a leak takes what of that is free; its pid.

        Not by RLIMIT_AS: malloc has address space reserved for each thread, and uses that then.
        """
        pid = self.gateway.shard_pids()[0]
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmData:"))
        size = int(kilobytes) * 1024
        resource.prlimit(pid, resource.RLIMIT_DATA, (size, resource.RLIM_INFINITY))
        self.switch("memory", str(pid))
        return pid

    @contextmanager
    def no_descriptors(self) -> Iterator[None]:
        """No process of the gateway can open another file or socket."""
        before = {}
        for pid in [*self.gateway.shard_pids(), self.gateway._process.pid]:
            used = max(int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir())
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            before[pid] = limits
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 1, limits[1]))
        try:
            yield
        finally:
            for pid, limits in before.items():
                if _runs(pid):
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

    def fill_disk(self, leave: int) -> None:
        """A file takes all but `leave` bytes of the disk."""
        assert self._disk
        status = os.statvfs(self.data_dir)
        free = status.f_bavail * status.f_frsize
        with (
            contextlib.suppress(OSError),  # the gateway writes, too: full is full
            (self.data_dir / "filler").open("wb", buffering=0) as filler,
        ):
            for _ in range(max(0, free - leave) // 4_096 + 1):
                filler.write(bytes(4_096))

    def free_disk(self) -> None:
        (self.data_dir / "filler").unlink()

    def damage(self, *patterns: str) -> None:
        """Cut the files in half, and break what is left; there is one at least for each pattern."""
        for pattern in patterns:
            paths = list(self.data_dir.glob(pattern))
            assert paths, f"there is no {pattern}"
            for path in paths:
                content = path.read_bytes()
                path.write_bytes(b"\xff" + content[1 : len(content) // 2])

    def tear(self, pattern: str) -> None:
        """A write that was not finished at the end of the files."""
        for path in self.data_dir.glob(pattern):
            with path.open("ab") as file:
                file.write(os.urandom(100))

    # ---- the end ----------------------------------------------------------------------------------

    def verdict(self) -> Verdict:
        """Read everything; the gateway has ended."""
        assert self.load is not None
        kafka = Counter(reading_of(value) for value in self._kafka.values())
        letters = [decode(value) for value in self._letters.values()]
        found = read_all(self.data_dir, kafka, set(self._influx_identities()), letters)
        if self._empty:  # its spools were: what was read of them is in the sinks
            found = found._replace(spooled_kafka=set(), spooled_influx=set())
        sinks = self.settings["sinks"]
        if sinks["lake"]["enabled"]:
            found = found._replace(lake=lake_identities(self.data_dir / "lake"))
        record = self.proxy.record
        required = [
            name
            for name in ("kafka", "influxdb", "lake")
            if sinks[name]["enabled"] and sinks[name].get("policy") != "best_effort"
        ]
        verdict = judge(
            self.load.sent,
            record.forwarded,
            record.acked,
            found,
            self._cut_keys(),
            required,
            {key for begun, ended in self.clock_wrong for key in self._open_in(begun, ended)},
        )
        verdict.stray_acks = record.stray_acks
        unacked = self.load.confirmed - record.acked.keys()
        verdict.unacked = len(unacked)
        for key in sorted(unacked)[:3]:
            times = record.forwarded[key]
            verdict.examples.append(f"never acked, forwarded {times} times: {key}")
        return verdict

    def alerts_settled(self, timeout: float) -> None:
        """Until every target has every alert."""
        if self.outboxes is not None:
            self.gateway.wait(self.outboxes.delivered, timeout, "alerts delivered")

    def alert_problems(self) -> list[str]:
        """What is wrong with the alerts, one sentence each; the gateway has ended."""
        if self.outboxes is None or self.load is None:
            return []
        self.outboxes.stop()
        states = {(key or b"").decode(): value for key, value in self._alert_states.records()}
        arrived = Arrived([json.loads(value) for value in self._alerts.values()], states)
        if self._influx == "2":
            arrived.influx = influx_steps(self.site.stand_in.points())
        if self.settings["sinks"]["lake"]["enabled"]:
            arrived.lake = lake_steps(self.data_dir / "lake")
        arrived.refused = refused_in(self.gateway.log.read_text())
        doubtful = {key for begun, ended in self.clock_wrong for key in self._open_in(begun, ended)}
        acked = self.proxy.record.acked.keys() - doubtful
        record = self.proxy.record
        forwarded = {  # what came more than once may have been taken any time until its acknowledgement
            key: at + (record.waited.get(key, 0.0) if record.forwarded[key] > 1 else 0.0)
            for key, at in record.first_forwarded.items()
        }
        problems = judge_alerts(self.outboxes.durable, self.load.sent, acked, arrived, forwarded)
        if problems:
            kept = {"outboxes": self.outboxes.durable, "kafka": arrived.kafka}
            (self.folder / "alerts.json").write_text(json.dumps(kept))
        return problems

    def _influx_identities(self) -> Iterator[Identity]:
        if self._influx == "2":
            yield from self.site.stand_in.identities()
        else:
            rows = self.site.influx.query("SELECT * FROM telemetry", self._database)
            yield from influx1_identities(rows)

    def _cut_keys(self) -> set[Key]:
        """What may have been in a request that Kafka left unanswered: not acknowledged before the cut, or
        waiting in the spool then, and forwarded until a request's time-out after it (a broker that has just
        started still drops requests)."""
        keys = {
            k for begun, ended in self._cuts for k in self._open_in(begun, ended + KAFKA_TIMEOUT)
        }
        assert self.load is not None
        for key, message in self.load.sent.items():
            if not self._sent_again.isdisjoint(message.readings):
                keys.add(key)
        return keys

    def _open_in(self, begun: float, ended: float) -> Iterator[Key]:
        """Messages that were forwarded before `ended` and not acknowledged before `begun`."""
        record = self.proxy.record
        for key, at in record.first_forwarded.items():
            if at <= ended and at + record.waited.get(key, math.inf) >= begun:
                yield key

    def close(self) -> None:
        """Raises what went wrong with the load, after everything is cleared away."""
        self._watching.set()
        try:
            if self.load is not None:
                self.load.stop()
        finally:
            self.gateway.end()
            self.proxy.close()
            if self.network is not None:
                self.network.close()
            self._kafka.close()
            self._letters.close()
            self._alerts.close()
            self._alert_states.close()
            if self.outboxes is not None:
                self.outboxes.stop()
            if self._disk:
                _run("umount", "-l", str(self.data_dir))
            if self._influx == "1":
                self.site.influx.query(f"DROP DATABASE {self._database}")
            shutil.rmtree(self.data_dir, ignore_errors=True)


def slack() -> float:
    """How many times longer things may take: what wants to run here, per core; at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
