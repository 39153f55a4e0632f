from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.observe.access import Tokens
from greenlang_iot.observe.admin import AdminServer, Status
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import HEARTBEAT, Counters
from greenlang_iot.observe.health import document, not_ready
from greenlang_iot.settings.model import AdminSettings, Settings

Get = Callable[[str], Any]
SETTINGS = Settings.model_validate({"runtime": {"shards": 2, "heartbeat_timeout": 5.0}})
NOW = 100 * 10**9
TOKENS = Tokens("the-admin-token", "the-read-token")


def ready_shard() -> Counters:
    counters = Counters.local()
    counters.set(cell("shard_up"), 1)
    counters.set(HEARTBEAT, NOW - 10**9)
    counters.set(cell("connections_wanted"), 2)
    counters.set(cell("connections_up"), 2)
    counters.set(cell("sink_up", sink="lake"), 1)
    return counters


@pytest.fixture
async def states() -> dict[str, Status]:
    return {"now": Status([], {"version": "9", "shards": []})}


@pytest.fixture
async def base(states: dict[str, Status]) -> AsyncIterator[str]:
    server = AdminServer(
        AdminSettings(port=0), lambda: b"metric 1\n", lambda: states["now"], TOKENS
    )
    port = await server.start()
    yield f"http://127.0.0.1:{port}"
    await server.stop()
    await server.stop()


async def test_endpoints_when_ready(base: str) -> None:
    async with aiohttp.ClientSession(base) as session:
        async with session.get("/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert await response.read() == b"metric 1\n"
        async with session.get("/healthz") as response:
            assert response.status == 200
        async with session.get("/readyz") as response:
            assert response.status == 200
            assert await response.json() == {"ready": True, "reasons": []}
        async with session.get("/status") as response:
            assert (await response.json())["version"] == "9"
        async with session.get("/other") as response:
            assert response.status == 404


async def test_not_ready_is_503_with_the_reasons(base: str, states: dict[str, Status]) -> None:
    states["now"] = Status(["shard 0 is not running"], {"version": "9"})
    async with aiohttp.ClientSession(base) as session:
        async with session.get("/readyz") as response:
            assert response.status == 503
            assert await response.json() == {"ready": False, "reasons": ["shard 0 is not running"]}
        async with session.get("/healthz") as response:
            assert response.status == 200
        async with session.get("/status") as response:
            assert response.status == 200
            assert (await response.json())["ready"] is False


async def test_a_taken_port_is_one_sentence(base: str) -> None:
    port = int(base.rpartition(":")[2])
    server = AdminServer(AdminSettings(port=port), bytes, Status, TOKENS)
    with pytest.raises(GatewayError, match=f"127.0.0.1:{port}"):
        await server.start()


def test_ready_when_all_shards_are_well() -> None:
    assert not_ready(SETTINGS, {0: ready_shard(), 1: ready_shard()}, NOW) == []


@pytest.mark.parametrize(
    ("name", "labels", "value", "words"),
    [
        ("shard_up", {}, 0, "shard 1 is not running"),
        ("heartbeat_age_seconds", {}, NOW - 6 * 10**9, "shard 1 has not ticked for 6.0 s"),
        ("heartbeat_age_seconds", {}, float("nan"), "shard 1 has not ticked yet"),
        ("connections_up", {}, 1, "shard 1 has 1 of 2 connections subscribed"),
        ("connections_up", {}, float("nan"), "shard 1 has no of 2 connections subscribed"),
        ("connections_wanted", {}, float("nan"), "shard 1 has not subscribed yet"),
        ("sink_up", {"sink": "lake"}, 0, "shard 1: required sink lake is down"),
        ("sink_up", {"sink": "lake"}, float("nan"), "shard 1: required sink lake is not open yet"),
        ("sink_spool_full", {"sink": "lake"}, 1, "shard 1: required sink lake has a full spool"),
    ],
)
def test_one_cause_gives_one_reason(
    name: str, labels: dict[str, str], value: float, words: str
) -> None:
    shards = {0: ready_shard(), 1: ready_shard()}
    shards[1].set(cell(name, **labels), value)
    assert not_ready(SETTINGS, shards, NOW) == [words]


def test_a_missing_shard_and_a_best_effort_sink() -> None:
    settings = Settings.model_validate(
        {"runtime": {"shards": 2}, "sinks": {"lake": {"policy": "best_effort"}}}
    )
    shard = ready_shard()
    shard.set(cell("sink_up", sink="lake"), 0)
    assert not_ready(settings, {0: shard}, NOW) == ["shard 1 is not running"]


def test_the_document_sums_counters_and_takes_the_worst_sink_state() -> None:
    shards = {0: ready_shard(), 1: ready_shard()}
    shards[0].add(cell("readings_rejected", reason="out_of_range"), 2)
    shards[1].add(cell("readings_rejected", reason="ts_missing"), 3)
    shards[0].add(cell("sink_delivered_readings", sink="lake"), 10)
    shards[1].set(cell("sink_up", sink="lake"), 0)
    found = document(SETTINGS, shards, NOW)
    assert found["counts"]["readings_rejected"] == 5
    assert list(found["sinks"]) == ["lake"]
    assert found["sinks"]["lake"]["delivered_readings"] == 10
    assert found["sinks"]["lake"]["up"] == 0
    assert found["sinks"]["lake"]["queue_bytes"] is None
    assert [s["connections_up"] for s in found["shards"]] == [2, 2]
    assert found["shards"][0]["heartbeat_age_seconds"] == 1.0
