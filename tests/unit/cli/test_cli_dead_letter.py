"""`greenlang-iot dead-letter` and `spool status`, through the public command line."""

import asyncio
import json
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mqtt5
import numpy as np
import pytest
import yaml
from tests.fakes.decode_frames import frame_batch
from tests.fakes.influxdb2 import InfluxDB2
from tests.fakes.mqtt_client import RawClient
from typer.testing import CliRunner, Result

from greenlang_iot.cli.main import app
from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.devices.registry import load
from greenlang_iot.encode.deadletter import resubmission
from greenlang_iot.model.batches import Reject
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.model.flags import CUT
from greenlang_iot.model.outcomes import DeadLetter, Refused
from greenlang_iot.observe.audit import local_user
from greenlang_iot.settings.model import DeadLetterSettings, LimitSettings
from greenlang_iot.simulate.broker import Broker
from greenlang_iot.sinks.deadletter import DeadLetterWriter
from greenlang_iot.spool.log import SegmentLog

REGISTRY = Path(__file__).resolve().parents[3] / "devices" / "devices-registry.json"
TOPIC = "greenlang/acme/plant-a/em-main-a/telemetry"
NOW = time.time_ns()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


class Place:
    """A data directory and settings that name it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "c.yaml"
        self.configure()

    def configure(self, port: int = 1, formats: Any = (), **sinks: Any) -> None:
        settings = {
            "data_dir": str(self.folder / "data"),
            "mqtt": {
                "brokers": [{"host": "127.0.0.1", "port": port}],
                "formats": list(formats),
            },
            "sinks": sinks,
        }
        self.config.write_text(yaml.safe_dump(settings))

    async def keep(self, rejects: Iterable[Reject] = (), refused: Iterable[Refused] = ()) -> None:
        writer = DeadLetterWriter(
            DeadLetterSettings(), self.folder / "data" / "dead-letter" / "shard-0"
        )
        writer.submit(list(rejects), NOW)
        writer.submit_refused("influxdb", list(refused), NOW + 1)
        await writer.close()

    async def run(self, *arguments: object) -> Result:
        return await asyncio.to_thread(
            run, "dead-letter", arguments[0], "--config", self.config, *arguments[1:]
        )

    async def listed(self, *arguments: object) -> list[dict[str, Any]]:
        result = await self.run("list", "--json", *arguments)
        assert result.exit_code == 0
        return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def reject(payload: bytes, *paths: tuple[str, str], device: str = "em-main-a") -> Reject:
    return Reject(TOPIC.encode(), payload, device, list(paths), len(paths))


async def test_list_and_show_name_what_was_wrong_where(place: Place) -> None:
    body = b'{"ts":1,"values":{"power":1e9,"voltage":230}}'
    await place.keep(
        [
            reject(body, ("values.power", "out_of_range")),
            reject(b"\x1b[2J\xff", ("", "malformed"), device=""),
        ],
        [Refused(b"telemetry v=1 1", "field type conflict", 1)],
    )
    rows = await place.listed()
    assert [(r["kind"], r["device"], r["sink"], r["reasons"]) for r in rows] == [
        ("message", "em-main-a", "", ["out_of_range"]),
        ("message", "", "", ["malformed"]),
        ("line", "", "influxdb", ["sink_refused"]),
    ]
    assert [r["id"] for r in await place.listed("--reason", "malformed")] == [rows[1]["id"]]
    assert [r["id"] for r in await place.listed("--sink", "influxdb")] == [rows[2]["id"]]
    assert await place.listed("--device", "nobody") == []
    assert len(await place.listed("--since", "1h")) == 3
    assert await place.listed("--since", "2100-01-01") == []
    shown = json.loads((await place.run("show", rows[0]["id"], "--json")).stdout)
    assert shown["paths"] == [{"path": "values.power", "reason": "out_of_range"}]
    assert shown["payload"] == body.decode()
    assert json.loads(shown["replay"]) == {"ts": 1, "values": {"power": 1e9}}
    text = (await place.run("show", rows[1]["id"])).stdout + (await place.run("list")).stdout
    assert "\x1b" not in text
    assert "  acme/plant-a/em-main-a  malformed" in text  # of no known device: what its topic says
    text = (await place.run("show", rows[0]["id"])).stdout
    assert "\n        at  values.power: out_of_range\n" in text
    with pytest.raises(InputError, match=r"no reason 'malform'; did you mean \"malformed\"\?"):
        await place.run("list", "--reason", "malform")
    with pytest.raises(InputError, match="no dead letter named"):
        await place.run("show", "ffffffffffff")


async def test_messages_are_published_again_without_what_was_accepted(place: Place) -> None:
    broker = Broker()
    await broker.start()
    place.configure(broker.port)
    mixed = b'[{"ts":1,"metric":"power","value":5},{"ts":2,"values":{"power":"x","current":3}}]'
    await place.keep(
        [
            reject(mixed, ("[1].values.power", "not_a_number")),
            reject(b'{"ts":3,"metric":"power","value":7,"seq":9}', ("", "unknown_device")),
        ],
        [Refused(b"telemetry v=1 1", "field type conflict", 1)],
    )
    try:
        gateway = await RawClient.connected(broker.port, "gateway")
        await gateway.subscribe("greenlang/#")
        said = await place.run("replay", "--all", "--sink", "", "--json")
        assert said.exit_code == 0
        assert json.loads(said.stdout) == {"replayed": 2, "refused": {}, "not_replayable": 0}
        got = [await gateway.expect(mqtt5.PublishPacket) for _ in range(2)]
        assert {p.topic for p in got} == {TOPIC}
        assert [json.loads(bytes(p.payload)) for p in got] == [
            [{"ts": 2, "values": {"power": "x"}}],
            {"ts": 3, "metric": "power", "value": 7, "seq": 9},
        ]
        told = (await place.run("replay", "--all", "--again", "--reason", "not_a_number")).stderr
        assert told.splitlines() == [
            "1 replayed, 0 refused again",
            "what the gateway still rejects is a new dead letter: greenlang-iot dead-letter list",
        ]
        again = await place.run("replay", "--all", "--sink", "", "--json")
        assert json.loads(again.stdout)["replayed"] == 0
        assert [r["replayed"] for r in await place.listed()] == [True, True, False]
    finally:
        await broker.stop()


async def test_nothing_is_remembered_as_replayed_while_the_broker_is_away(place: Place) -> None:
    await place.keep([reject(b"{}", ("", "unknown_device"))])
    with pytest.raises(GatewayError, match="publishing to the broker"):
        await place.run("replay", "--all")
    assert [r["replayed"] for r in await place.listed()] == [False]


async def test_what_a_sink_refused_goes_to_that_sink_only(place: Place) -> None:
    async with InfluxDB2() as influx:
        token = place.folder / "token"
        token.write_text(influx.token)
        token.chmod(0o600)
        place.configure(influxdb={"enabled": True, "url": influx.url, "token_file": str(token)})
        now = time.time_ns()
        await place.keep(
            refused=[
                Refused(f"telemetry,device=d1 power=1 {now}".encode(), "retention", 1),
                Refused(b"telemetry,device=d1 power=NaN 5", "unable to parse", 1),
            ]
        )
        said = await place.run("replay", "--sink", "influxdb", "--json")
        assert said.exit_code == 1
        done = json.loads(said.stdout)
        assert done["replayed"] == 1
        (why,) = done["refused"].values()
        assert "unable to parse" in why
        assert influx.values() == {("d1", "power", now): 1.0}
        assert [r["replayed"] for r in await place.listed()] == [True, False]
        (line,) = (place.folder / "data" / "audit.jsonl").read_text().splitlines()
        audited = json.loads(line)
        assert audited["action"] == "dead-letter replay"
        assert audited["actor"] == local_user()
        counts = [audited[name] for name in ("outcome", "wanted", "taken", "refused")]
        assert counts == ["partly", 2, 1, 1]


async def test_a_dry_run_sends_nothing_and_replay_asks_which(place: Place) -> None:
    await place.keep([reject(b"{}", ("", "unknown_device"))])
    plan = json.loads((await place.run("replay", "--all", "--dry-run", "--json")).stdout)
    assert [(row["to"], row["payload"]) for row in plan] == [(TOPIC, "{}")]
    with pytest.raises(InputError, match="say which"):
        await place.run("replay")
    await place.keep(refused=[Refused(b"x v=1", "no", 1)])
    with pytest.raises(InputError, match="not enabled"):
        await place.run("replay", "--sink", "influxdb")


async def test_the_beginning_of_a_message_is_not_sent_as_though_it_were_all(place: Place) -> None:
    whole, cut = b"x" * (CUT + 1), b"x" * CUT
    await place.keep([reject(payload, ("", "too_large")) for payload in (whole, cut)])
    result = await place.run("replay", "--all", "--dry-run", "--json")
    assert [len(row["payload"]) for row in json.loads(result.stdout)] == [CUT + 1]
    (name,) = [item["id"] for item in await place.listed() if item["bytes"] == CUT]
    said = await place.run("replay", name)
    assert "0 replayed, 0 refused again" in said.output
    assert "1 cannot be replayed: only a digest or the beginning was kept" in said.output


async def test_of_a_message_of_another_shape_all_is_sent(place: Place) -> None:
    """Its time stands among its values, which to our own JSON would be one more that was accepted."""
    paths = {"ts": "values.at", "values": {"power": "values.power"}}
    entry = {"topic": "mapped/{device}", "format": "json-map", "options": paths}
    place.configure(formats=[entry])
    body = b'{"values": {"at": 1772366400, "power": null, "voltage": 230}}'
    mapped = reject(body, ("values.power", "not_a_number"))
    await place.keep([mapped, replace(mapped, topic=b"mapped/em-main-a")])
    result = await place.run("replay", "--all", "--dry-run", "--json")
    assert sorted(row["payload"] for row in json.loads(result.stdout)) == [
        body.decode(),
        '{"values":{"power":null}}',
    ]


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        (b'{"at":1,"values":{"inner":{"power":null},"voltage":230}}', "values.inner.power"),
        (b'{"values":{"power":1}}', "[1].values.power"),
        (b'{"values":{"power":null},"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "values.power"),
    ],
)
def test_what_was_rejected_is_never_left_out_of_a_resubmission(payload: bytes, path: str) -> None:
    letter = DeadLetter("message", 0, payload=payload, paths=((path, "not_a_number"),))
    assert resubmission(letter) == payload


@pytest.mark.parametrize(
    "payload",
    [
        {"ts": NOW, "values": {"power": 1, "voltage": 9e9, "current": "x", "nope": 1}},
        {"ts": NOW, "metric": "power", "value": 9e9, "seq": 4},
        [
            {"ts": NOW, "metric": "power", "value": 1},
            {"ts": NOW, "values": {"power": None, "current": 2}},
            7,
            {"ts": "never", "values": {"power": 1, "current": 2}},
            {"ts": NOW, "values": [1]},
        ],
        {"ts": NOW, "seq": -1, "values": {"power": 1}},
    ],
)
def test_a_resubmission_decodes_to_the_same_rejects_and_no_reading(payload: Any) -> None:
    def decoded(body: bytes) -> Any:
        decoder = Decoder(
            load(REGISTRY), LimitSettings(), "greenlang/{org}/{site}/{device}/telemetry"
        )
        return decoder.decode(frame_batch([(TOPIC.encode(), body, False)]), NOW)

    (first,) = decoded(json.dumps(payload).encode()).rejects
    letter = DeadLetter(
        "message", 0, topic=TOPIC, payload=bytes(first.payload), paths=tuple(first.paths)
    )
    second = decoded(resubmission(letter))
    assert second.readings.n == 0
    reasons = [reason for reject in second.rejects for _, reason in reject.paths]
    assert reasons == [reason for _, reason in first.paths]
    np.testing.assert_equal(second.rejects[0].values, first.values)


async def test_of_a_whole_chunk_every_line_must_be_taken(place: Place) -> None:
    """One that could not be taken apart is one letter of many lines."""
    async with InfluxDB2() as influx:
        token = place.folder / "token"
        token.write_text(influx.token)
        token.chmod(0o600)
        place.configure(influxdb={"enabled": True, "url": influx.url, "token_file": str(token)})
        now = time.time_ns()
        good = f"telemetry,device=d1 power=1 {now}"
        chunk = f"{good}\ntelemetry,device=d1 power=NaN 5\n".encode()
        await place.keep(refused=[Refused(chunk, "unexpected EOF", 2)])
        said = await place.run("replay", "--sink", "influxdb", "--json")
        assert said.exit_code == 1
        (why,) = json.loads(said.stdout)["refused"].values()
        assert why.startswith("1 of its 2 lines: ")
        assert "unable to parse" in why
        assert influx.values() == {("d1", "power", now): 1.0}
        assert [r["replayed"] for r in await place.listed()] == [False]


async def test_spool_status(place: Place) -> None:
    empty = run("spool", "status", "--config", place.config, "--json")
    assert json.loads(empty.stdout)["spools"] == []
    told = run("spool", "status", "--config", place.config)
    assert "InfluxDB's and Kafka's, and neither is enabled" in " ".join(told.stderr.split())
    folder = place.folder / "data" / "spool" / "shard-0" / "influxdb"
    log = SegmentLog(folder, segment_bytes=65_536, max_bytes=1 << 30, fsync_every=0.0)
    assert run("spool", "status", "--config", place.config).stdout == "shard 0  influxdb  empty\n"
    for _ in range(20):
        log.append(bytes(10_000), 5)
    await log.durable(20)
    log.release(7)
    await log.close()
    (row,) = json.loads(run("spool", "status", "--config", place.config, "--json").stdout)["spools"]
    assert (row["shard"], row["sink"], row["chunks"]) == (0, "influxdb", 13)
    assert row["bytes"] >= 130_000
    assert 0 <= row["oldest_seconds"] < 60
    text = run("spool", "status", "--config", place.config).stdout
    assert "13 chunks" in text
