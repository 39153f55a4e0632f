"""Every payload format through a real Mosquitto into the lake, and what is wrong into the dead letter."""

import asyncio
import gzip
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
import zstandard
from tests.fakes import payload_formats as write
from tests.fakes.payload_formats import metric, sparkplug
from tests.fakes.ports import free_port
from tests.services import mosquitto_server
from tests.services.gateway_process import GatewayProcess, finished, simulate
from tests.services.mosquitto_server import MosquittoServer

from greenlang_iot.model.outcomes import DeadLetter
from greenlang_iot.simulate.formats import ENTRIES
from greenlang_iot.simulate.lake_reader import read_readings
from greenlang_iot.simulate.manifest import read as read_manifest
from greenlang_iot.sinks.deadletter import read_dead_letters

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(
        mosquitto_server.missing() is not None, reason=str(mosquitto_server.missing())
    ),
]
FLEET: dict[str, object] = {"--devices": 20, "--seed": 7}
WITH_TIME = [name for name in ENTRIES if name != "plain"]


class Site:
    """A broker, and a gateway that reads every format at once on two shards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mosquitto = MosquittoServer(folder / "mosquitto")
        registry = folder / "fleet.json"
        assert simulate({**FLEET, "--seconds": 0, "--registry-out": registry}).wait(60) == 0
        self.settings = {
            "instance": "formats",
            "data_dir": str(folder / "data"),
            "mqtt": {
                "formats": [entry.model_dump(exclude_unset=True) for entry in ENTRIES.values()],
                "brokers": [{"host": "127.0.0.1", "port": self.mosquitto.port}],
                "discovery": False,
            },
            "sinks": {"lake": {"enabled": True}},
            "detect": {"second_stage": {"enabled": False}},
            "admin": {"port": free_port()},
            "log": {"format": "json"},
        }
        device = json.loads(registry.read_text())["devices"][3]
        self.org, self.site, self.device = device["org"], device["site"], device["id"]
        types = json.loads(registry.read_text())["types"]
        self.metric, spec = next(iter(types[device["type"]]["metrics"].items()))
        low, high = spec.get("range", (0, 100))
        self.value = round(low + (high - low) * 0.4, 2)
        self.published: dict[tuple[str, str, int, int | None], set[float]] = defaultdict(set)
        self.gateway = GatewayProcess(folder, self.settings, registry)
        self.gateway.wait_ready()

    def topic(self, name: str) -> str:
        names = {"org": self.org, "site": self.site, "device": self.device, "metric": self.metric}
        return (
            ENTRIES[name]
            .topic.format(**names, type="NDATA")
            .removesuffix(f"/{self.device}" if name == "sparkplug-b" else "//")
        )

    def values(self) -> dict[tuple[str, str, int, int | None], float]:
        rows = read_readings(self.folder / "data" / "lake")
        return {(r.device, r.metric, r.ts_ns, r.seq): r.value for r in rows}

    def mine(self) -> list[float]:
        return [
            v for (d, m, _, _), v in self.values().items() if (d, m) == (self.device, self.metric)
        ]

    def letters(self) -> list[DeadLetter]:
        return list(read_dead_letters(self.folder / "data" / "dead-letter"))

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        self.gateway.wait(condition, 60, what)

    def publish(self, *messages: tuple[str, bytes]) -> None:
        asyncio.run(self._publish(messages))

    async def _publish(self, messages: tuple[tuple[str, bytes], ...]) -> None:
        async with aiomqtt.Client("127.0.0.1", self.mosquitto.port) as client:
            for topic, payload in messages:
                await client.publish(topic, payload, qos=1)

    def command(self, *arguments: str) -> Any:
        config = str(self.folder / "gateway.yaml")
        command = [sys.executable, "-m", "greenlang_iot", *arguments, "--config", config, "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
        )
        assert done.returncode == 0, done.stderr
        if arguments[1] == "list":
            return [json.loads(line) for line in done.stdout.splitlines()]
        return json.loads(done.stdout)

    def close(self) -> None:
        self.gateway.end()
        self.mosquitto.stop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.close()


@pytest.mark.parametrize("name", WITH_TIME)
def test_the_simulated_fleet_in_every_format_is_in_the_lake_value_by_value(
    site: Site, name: str
) -> None:
    path = site.folder / f"{name}.jsonl"
    options = {"--seconds": 4, "--host": "127.0.0.1", "--port": site.mosquitto.port}
    done = finished(
        simulate(
            {**FLEET, **options, "--format": name, "--manifest": path} | {"--no-tls": "--faults"}
        ),
        60,
    )
    assert done["published"] > 0
    # Each run begins with 30 s of backlog, so runs overlap; where two begin a multiple of the fleet's
    # interval apart, to the ms, a reading without `seq` is one identity with a value from each.
    promised = set()
    for reading in (r for message in read_manifest(path).messages for r in message.readings):
        identity = (reading.device, reading.metric, reading.ts_ns, reading.seq)
        promised.add(identity)
        site.published[identity].add(reading.value)
    assert len(promised) > 300
    site.wait(lambda: promised <= site.values().keys(), f"all {name} readings there")
    found = site.values()
    assert {k: found[k] for k in promised if found[k] not in site.published[k]} == {}


def hand_made(site: Site, name: str, value: float) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    sample = [(site.metric, now_ms, value)]
    if name == "json-map":
        point = {"at": now_ms, "name": site.metric, "v": {"now": value}}
        return json.dumps({"data": {"points": [point]}}).encode()
    if name == "line-protocol":
        return f"m,host=a {site.metric}={value} {now_ms}000000".encode()
    writers = {
        "cbor": write.cbor_array,
        "messagepack": write.msgpack_array,
        "senml-json": write.senml_json,
        "senml-cbor": write.senml_cbor,
    }
    return writers[name](sample) if name in writers else repr(value).encode()


@pytest.mark.parametrize("name", [n for n in ENTRIES if n != "sparkplug-b"])
def test_payloads_made_by_hand_plain_gzip_and_zstd_and_garbage(site: Site, name: str) -> None:
    topic = site.topic(name)
    values = [site.value + i / 100 + list(ENTRIES).index(name) / 10_000 for i in range(3)]
    values = [round(value, 6) for value in values]
    packers = (bytes, gzip.compress, zstandard.compress)
    for value, pack in zip(values, packers, strict=True):
        site.publish((topic, pack(hand_made(site, name, value))))
    site.wait(lambda: set(values) <= set(site.mine()), f"{values} in the lake")
    garbage = b"\xc1\xffnot of this format: " + name.encode()
    site.publish((topic, garbage))
    site.wait(lambda: any(x.payload == garbage for x in site.letters()), "a dead letter")
    [letter] = [x for x in site.letters() if x.payload == garbage]
    assert letter.device == site.device
    assert letter.topic == topic
    reason = "not_a_number" if name == "plain" else "malformed"
    assert [r for _, r in letter.paths] == [reason]


def test_a_restart_in_the_middle_of_a_sparkplug_session(site: Site) -> None:
    """The gateway knows no alias: what came is kept, a rebirth is asked for, and all goes on."""
    birth = [metric("bdSeq", 0), metric(site.metric, site.value, alias=1, ts=now_ms())]
    base = f"spBv1.0/{site.org}/{{}}/{site.site}"
    device_birth = [metric(site.metric, site.value, alias=5, ts=now_ms())]
    site.publish(
        (base.format("NBIRTH"), sparkplug(birth[0], seq=0)),
        (base.format("DBIRTH") + f"/{site.device}", sparkplug(*device_birth, seq=1)),
    )
    site.wait(lambda: site.value in site.mine(), "the birth's value there")
    site.gateway.stop()
    site.gateway.start()
    site.gateway.wait_ready()
    first, second = round(site.value + 1.001, 3), round(site.value + 2.002, 3)

    def data(seq: int, value: float) -> tuple[str, bytes]:
        payload = sparkplug(metric(value=value, alias=5, ts=now_ms()), seq=seq)
        return base.format("DDATA") + f"/{site.device}", payload

    async def node() -> None:
        async with aiomqtt.Client("127.0.0.1", site.mosquitto.port) as client:
            await client.subscribe(base.format("NCMD"), qos=0)
            await client.publish(*data(2, first), qos=0)
            command = await anext(aiter(client.messages))
            assert isinstance(command.payload, bytes)
            assert b"Node Control/Rebirth" in command.payload
            born = sparkplug(metric("bdSeq", 0), seq=0)
            await client.publish(base.format("NBIRTH"), born, qos=0)
            again = [metric(site.metric, site.value, alias=5, ts=now_ms() - 5)]
            topic = base.format("DBIRTH") + f"/{site.device}"
            await client.publish(topic, sparkplug(*again, seq=1), qos=0)
            await client.publish(*data(2, second), qos=0)

    asyncio.run(asyncio.wait_for(node(), 60))
    site.wait(lambda: second in site.mine(), "what came after the rebirth")
    assert first not in site.mine()

    def rejected() -> list[str]:
        unknown = (("metrics[0]", "unknown_alias"),)
        return [letter.topic for letter in site.letters() if letter.paths == unknown]

    site.wait(lambda: bool(rejected()), "what came before it in the dead letters")
    assert rejected() == [data(2, first)[0]]
    metrics = site.gateway.metrics()
    assert "greenlang_iot_sparkplug_rebirth_requests_total" in metrics


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_binary_dead_letters_are_listed_shown_and_replayed(site: Site) -> None:
    topic = site.topic("cbor")
    bad = write.cbor([{"metric": site.metric, "ts": now_ms(), "value": None}])
    site.publish((topic, bad))
    site.wait(lambda: any(x.payload == bad for x in site.letters()), "a dead letter")
    listed = site.command("dead-letter", "list", "--reason", "not_a_number")
    [ident] = [
        row["id"]
        for row in listed
        if site.command("dead-letter", "show", row["id"])["paths"]
        == [{"path": "[0].value", "reason": "not_a_number"}]
    ]
    done = site.command("dead-letter", "replay", ident)
    assert (done["replayed"], done["refused"]) == (1, {})
    # it is as wrong as before, and came through the broker byte by byte
    site.wait(lambda: sum(x.payload == bad for x in site.letters()) == 2, "its second letter")
