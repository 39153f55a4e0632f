"""The console's API over real HTTP, on real detectors: two shards, of which each hears one site."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from tests.fakes.directory import directory
from tests.fakes.readings import SECOND, readings

from greenlang_iot.console.api import Console
from greenlang_iot.console.band import bands, series_of
from greenlang_iot.console.questions import Answer, Devices, Present, Question
from greenlang_iot.console.watch import MAX_DEVICES
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.encode.deadletter import encode
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import DeadLetter
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime.looks import Looks
from greenlang_iot.settings.model import DetectSettings, Settings

NAMES = ["pump-1", "pump-2", "<img src=x onerror=alert(1)>", "valve-1"]
DETECT = DetectSettings(warmup=5)


class Shard:
    """A shard's part of the console: its detector and its looks."""

    def __init__(self, registry: Directory) -> None:
        self.detector = Detector(registry, DETECT)
        self.looks = Looks(self.detector, registry, lambda: registry)
        self.answers = True

    def hear(self, series: int, values: list[float], first_s: float = 0.0) -> None:
        """Readings one second apart, the last one now."""
        now = time.time_ns()
        for i, value in enumerate(values):
            at = now - (len(values) - 1 - i) * SECOND
            batch = readings([series], [at], [value], received_ns=at)
            scores = self.detector.score(batch)
            if self.looks.watching:
                self.looks.note(batch, scores)


class FakeShards:
    def __init__(self, registry: Directory) -> None:
        self.all = [Shard(registry), Shard(registry)]

    async def look(self, question: Question) -> dict[int, Answer]:
        return {
            i: shard.looks.answer(question, time.time_ns(), time.monotonic())
            for i, shard in enumerate(self.all)
            if shard.answers
        }


class Api:
    """The console behind HTTP. `get` returns (status, JSON)."""

    def __init__(self, folder: Path) -> None:
        registry = directory(4, ("flow", "heat"), units=("m3/h", "Cel"), names=NAMES)
        self.gateway = Counters.local()
        self.counters = {0: Counters.local(), 1: Counters.local()}
        self.parent = SimpleNamespace(
            settings=Settings(data_dir=folder),
            directory=registry,
            shards=self.counters,
            reasons=[],
            uptime=7.4,
        )
        self.shards = FakeShards(registry)
        self.letters = folder / "dead-letter"
        self.console = Console(
            self.parent, self.gateway, self.shards, lake=None, letters=self.letters
        )

    async def start(self) -> None:
        app = web.Application()
        self.console.add_routes(app)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.session = aiohttp.ClientSession(f"http://127.0.0.1:{self._runner.addresses[0][1]}")

    async def stop(self) -> None:
        await self.session.close()
        await self._runner.cleanup()

    async def get(self, path: str, **query: str | int) -> tuple[int, dict[str, Any]]:
        async with self.session.get(f"/api/v1/{path}", params=query) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, await answer.json()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    api = Api(tmp_path)
    await api.start()
    yield api
    await api.stop()


def ids(document: dict[str, Any]) -> list[str]:
    return [device["id"] for device in document["devices"]]


async def test_devices_are_searched_narrowed_and_paged(api: Api) -> None:
    status, page = await api.get("devices", limit=3)
    assert (status, page["total"], ids(page)) == (200, 4, sorted(NAMES)[:3])
    assert page["next"] == sorted(NAMES)[2]
    _, rest = await api.get("devices", limit=3, cursor=page["next"])
    assert (ids(rest), rest["next"], rest["total"]) == ([sorted(NAMES)[3]], None, 4)
    assert ids((await api.get("devices", q="PUMP"))[1]) == ["pump-1", "pump-2"]
    assert ids((await api.get("devices", q="pump site-1"))[1]) == ["pump-2"]
    assert ids((await api.get("devices", site="acme/site-1"))[1]) == ["pump-2", "valve-1"]
    assert ids((await api.get("devices", site="site-1", q="v"))[1]) == ["valve-1"]
    assert ids((await api.get("devices", type="sensor", limit=1))[1]) == [sorted(NAMES)[0]]
    assert ids((await api.get("devices", type="other"))[1]) == []


async def test_a_device_says_what_came_last_and_what_was_expected(api: Api) -> None:
    heard = api.shards.all[1]
    heard.hear(2, [20.0, 20.2, 19.8, 20.1, 19.9, 20.0, 20.4])
    status, device = await api.get("devices/pump-2")
    assert status == 200
    assert (device["org"], device["site"], device["state"]) == ("acme", "site-1", "ok")
    flow, heat = device["series"]
    assert (flow["metric"], flow["value"], flow["unit"]) == ("flow", 20.4, "m3/h")
    assert flow["learning"] is False
    assert flow["expected"] == pytest.approx(20.0, abs=0.3)
    assert 0.0 <= flow["quiet"] < 5.0
    assert flow["range"] == [-50.0, 150.0]
    assert (heat["value"], heat["ts"], heat["expected"]) == (None, None, None)


async def test_the_expectation_is_the_detectors_own(api: Api) -> None:
    """What the page draws before a reading is what the kernel then judges it by."""
    shard, rng = api.shards.all[0], np.random.default_rng(3)
    for value in rng.normal(50.0, 2.0, 200).tolist():
        before = shard.detector.standing(np.array([0]), 0)
        at = int(before.last_ts[0]) + SECOND if before.seen[0] else SECOND
        scored = shard.detector.score(readings([0], [at], [value]))
        assert np.float32(before.expected[0]) == pytest.approx(scored.expected[0], nan_ok=True)
        assert np.float32(before.band[0]) == pytest.approx(scored.band[0], rel=1e-5, nan_ok=True)


async def test_who_is_silent_and_who_was_never_heard(api: Api) -> None:
    one, two = api.shards.all
    now = time.time_ns()
    one.detector.silent(now - 1000 * SECOND)  # the clocks began long ago
    two.detector.silent(now - 1000 * SECOND)
    at = now - 500 * SECOND
    one.detector.score(readings([0, 1], [at, at], [1.0, 1.0], received_ns=at))
    two.hear(2, [1.0])
    two.hear(3, [1.0])
    one.hear(4, [1.0])
    _, sites = await api.get("sites")
    by_site = {s["site"]: (s["ok"], s["silent"], s["never"]) for s in sites["sites"]}
    assert by_site == {"site-0": (1, 1, 0), "site-1": (1, 0, 1)}
    assert sites["answering"] == 2
    assert ids((await api.get("devices", state="silent"))[1]) == ["pump-1"]
    assert ids((await api.get("devices", state="never"))[1]) == ["valve-1"]
    _, device = await api.get("devices/pump-1")
    assert device["state"] == "silent"
    assert device["quiet"] == pytest.approx(500, abs=5)


async def test_a_device_that_comes_while_shards_are_asked_moves_no_other(api: Api) -> None:
    """Rows are in the order of ids: with another registry the same row is another device."""
    fleet, look = api.console._fleet, api.shards.look
    newer = directory(5, ("flow", "heat"), units=("m3/h", "Cel"), names=["a-new", *NAMES])

    async def slow(question: Question) -> dict[int, Answer]:
        answers = await look(question)
        if isinstance(question, Devices) and api.parent.directory is not newer:
            api.parent.directory = newer
            await fleet.refresh()
        return answers

    await fleet.refresh()
    before = api.parent.directory
    api.shards.look = slow  # type: ignore[method-assign]
    assert (await api.get("devices/pump-1"))[1]["id"] == "pump-1"
    api.parent.directory = before
    _, page = await api.get("devices", limit=2, q="pump")
    assert (ids(page), page["total"]) == (["pump-1", "pump-2"], 2)


async def test_a_shard_that_does_not_answer_is_left_out(api: Api) -> None:
    for shard in api.shards.all:
        shard.answers = False
    _, sites = await api.get("sites")
    assert sites["answering"] == 0
    assert sum(s["unknown"] for s in sites["sites"]) == 4
    status, device = await api.get("devices/pump-1")
    assert (status, device["series"]) == (200, [])


async def test_what_a_shard_that_is_down_has_heard_is_not_known(api: Api) -> None:
    """Its devices were "never heard", as if nothing had ever come of them."""
    one, two = api.shards.all
    one.hear(0, [1.0])
    two.hear(2, [1.0])
    two.answers = False
    _, sites = await api.get("sites")
    assert sites["answering"] == 1
    assert [(s["ok"], s["never"], s["unknown"]) for s in sites["sites"]] == [(1, 0, 1), (0, 0, 2)]
    assert (await api.get("devices/pump-2"))[1]["state"] == "unknown"
    assert ids((await api.get("devices", state="never"))[1]) == []
    assert api.console._fleet.counts()["unknown"] == 3  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "query", "status", "words"),
    [
        ("devices", {"limit": "0"}, 400, "limit: a whole number from 1 to 200"),
        ("devices", {"limit": "²"}, 400, "limit: a whole number"),
        ("devices", {"limit": "201"}, 400, "limit: a whole number"),
        ("devices", {"state": "dead"}, 400, "state: one of ok, silent, never, disabled, unknown"),
        ("devices", {"sort": "id"}, 400, "'sort' means nothing here"),
        ("devices", {"q": "x" * 257}, 400, "q: at most 256 characters"),
        ("devices", {"q": "x " * 9}, 400, "q: at most 8 words"),
        ("devices/pump-9", {}, 404, "There is no device 'pump-9'"),
        ("devices/pump-9/series", {"metric": "flow"}, 404, "There is no device 'pump-9'"),
        ("devices/pump-1/series", {}, 400, "metric: say which one"),
        ("devices/pump-1/series", {"metric": "flow", "minutes": "-1"}, 400, "minutes: a whole"),
        ("overview", {"x": "1"}, 400, "'x' means nothing here"),
        ("dead-letters", {"limit": "many"}, 400, "limit: a whole number"),
    ],
)
async def test_what_is_wrong_is_one_sentence(
    api: Api, path: str, query: dict[str, str], status: int, words: str
) -> None:
    answered, document = await api.get(path, **query)
    assert answered == status
    assert words in document["error"]


async def test_a_shard_that_has_had_no_message_says_of_none_how_old_it_is(api: Api) -> None:
    for counters in api.counters.values():
        counters.set(cell("last_message_age_seconds"), float(time.monotonic_ns()))
    api.counters[1].add(cell("messages_received"))
    _, document = await api.get("overview")
    none, one = (shard["last_message_age"] for shard in document["shards"])
    assert none is None
    assert 0 <= one < 60


async def test_the_overview_counts_per_second(api: Api) -> None:
    overview, shard = api.console._overview, api.counters[1]
    overview.sample(100.0, 1_000.0)
    shard.add(cell("messages_received"), 50)
    shard.add(cell("readings_decoded"), 200)
    shard.add(cell("readings_rejected", reason="out_of_range"), 3)
    shard.observe(cell("ack_seconds"), 0.004, 99)
    shard.observe(cell("ack_seconds"), 0.4, 1)
    shard.set(cell("sink_up", sink="lake"), 0)
    overview.sample(102.0, 1_002.0)
    _, document = await api.get("overview")
    assert document["rates"]["messages"] == 25.0
    assert document["rates"]["readings"] == 100.0
    assert document["totals"]["readings"] == 200
    assert document["history"]["time"] == [1_002]
    assert document["history"]["readings"] == [100.0]
    assert document["second"]["messages"] == 25.0
    assert 0.0025 < document["latency"]["p50"] <= 0.005
    assert document["shards"][1]["messages"] == 25.0
    assert document["shards"][0]["messages"] == 0.0
    assert document["sinks"][0]["sink"] == "lake"
    assert document["sinks"][0]["up"] is False
    assert document["dead_letters"]["reasons"] == [{"reason": "out_of_range", "count": 3}]
    assert (document["ready"], document["devices"], document["fleet"]) == (True, 4, None)


async def test_quality_is_told_with_its_targets(api: Api) -> None:
    api.gateway.set(cell("quality_ratio", figure="completeness"), 0.5)
    api.gateway.set(cell("quality_devices_below_target", figure="completeness"), 3)
    _, document = await api.get("overview")
    told = {"score": 0.5, "target": 0.95, "below": 3}
    assert document["quality"]["completeness"] == told
    assert document["quality"]["accuracy"]["score"] is None  # no window is over yet
    off = {"quality": {"enabled": False}}
    api.parent.settings = Settings.model_validate(off)
    assert (await api.get("overview"))[1]["quality"] is None


async def test_a_counter_that_began_anew_gives_no_negative_rate(api: Api) -> None:
    overview, shard = api.console._overview, api.counters[0]
    shard.add(cell("messages_received"), 500)
    overview.sample(1.0, 1.0)
    shard.set(cell("messages_received"), 30)
    overview.sample(2.0, 2.0)
    assert (await api.get("overview"))[1]["rates"]["messages"] == 30.0


async def test_a_head_opens_no_stream(api: Api) -> None:
    async with api.session.head("/api/v1/events") as answer:
        assert answer.status == 405


async def test_readings_of_a_watched_device_come_as_events(api: Api) -> None:
    shard = api.shards.all[0]
    shard.hear(0, [5.0] * 8)
    running = asyncio.ensure_future(api.console.run())
    async with api.session.get("/api/v1/events", params={"device": "pump-1"}) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        seen: list[list[Any]] = []
        async with asyncio.timeout(20):
            async for name, document in events(stream):
                if name == "overview":
                    assert document["instance"] == "gateway"
                elif not shard.looks.watching:
                    continue
                elif not seen:
                    shard.hear(0, [5.5])
                    seen = [[0.0]]
                elif points := document["points"].get("flow"):
                    seen = points
                    break
        assert [point[1] for point in seen] == [5.5]
        assert seen[0][3] == pytest.approx(5.0)  # what was expected of it
        _, series = await api.get("devices/pump-1/series", metric="flow", minutes=1)
        assert [point[1] for point in series["points"]] == [5.5]
        assert "no lake" in series["note"]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        async with asyncio.timeout(20):
            async for _ in stream.content:  # the stream ends with the gateway
                pass


@pytest.mark.parametrize("path", ["devices/pump-1", "devices/pump-1/series?metric=flow&minutes=1"])
async def test_a_reading_that_comes_right_after_the_first_look_is_in_the_picture(
    api: Api, path: str
) -> None:
    """The shards keep a device's readings before the page has its answer, not from the next second on."""
    shard = api.shards.all[0]
    shard.hear(0, [5.0] * 8)
    async with api.session.get(f"/api/v1/{path}") as answer:
        assert answer.status == 200
    shard.hear(0, [5.5])
    running = asyncio.ensure_future(api.console.run())
    async with api.session.get("/api/v1/events", params={"device": "pump-1"}) as stream:
        async with asyncio.timeout(20):
            async for name, document in events(stream):
                if name == "device":
                    points = document["points"]
                    break
    assert [point[1] for point in points["flow"]] == [5.5]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_list_of_devices_takes_no_reading_from_a_picture(api: Api) -> None:
    """Every page asks how devices stand; what came of them goes to the picture alone."""
    api.shards.all[0].hear(0, [5.0] * 8)
    await api.get("devices/pump-1")
    api.shards.all[0].hear(0, [5.5])
    await api.get("devices")
    await api.console._watch.poll()
    _, series = await api.get("devices/pump-1/series", metric="flow", minutes=1)
    assert [point[1] for point in series["points"]] == [5.5]


async def test_a_shard_that_answers_late_has_its_readings_in_the_picture(api: Api) -> None:
    api.shards.all[0].hear(0, [5.0] * 8)
    await api.get("devices/pump-1")
    api.shards.all[0].hear(0, [5.5])
    asked = Devices(((0, "pump-1"),), watch=True)
    late = (await api.shards.look(asked))[0]
    api.console.late(late)
    api.console.late(Present(b"", b""))
    _, series = await api.get("devices/pump-1/series", metric="flow", minutes=1)
    assert [point[1] for point in series["points"]] == [5.5]


async def test_a_device_that_made_room_for_others_comes_back_with_every_reading(api: Api) -> None:
    """The stream of a page counts points: those of a newer memory come after those of an older one."""
    watch, one = api.console._watch, (0, "pump-1")
    await watch.look(one)
    api.shards.all[0].hear(0, [5.0] * 8)
    await watch.poll()
    number, _ = watch.since("pump-1", 0)
    for i in range(MAX_DEVICES):
        await watch.look((1000 + i, f"other-{i}"))
    await watch.look(one)
    api.shards.all[0].hear(0, [5.5])
    await watch.poll()
    _, document = watch.since("pump-1", number)
    assert [point[1] for point in document["points"]["flow"]] == [5.5]


async def test_the_first_page_that_is_opened_says_at_once_who_is_silent(api: Api) -> None:
    """Not a dash until the next look at the fleet, seconds later."""
    api.shards.all[0].hear(0, [5.0] * 8)
    async with api.session.get("/api/v1/events") as stream, asyncio.timeout(20):
        _, document = await anext(events(stream))
    assert document["fleet"] == {"ok": 1, "silent": 0, "never": 3, "disabled": 0, "unknown": 0}


async def events(stream: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    name = ""
    async for line in stream.content:
        if line.startswith(b"event: "):
            name = line[7:].strip().decode()
        elif line.startswith(b"data: "):
            yield name, json.loads(line[6:])


def write_letters(folder: Path, letters: list[DeadLetter]) -> None:
    shard = folder / "shard-0"
    shard.mkdir(parents=True)
    lines = b"".join(encode(letter) + b"\n" for letter in letters)
    (shard / "dead-letters-000000000001.jsonl").write_bytes(lines + b'{"v": 1, "torn')


async def test_dead_letters_are_shown_newest_first_with_what_came(api: Api) -> None:
    def letter(i: int, reason: str, device: str, payload: bytes) -> DeadLetter:
        paths = (("value", reason),)
        return DeadLetter("message", i * SECOND, device, "a/b", payload, paths, 1)

    write_letters(
        api.letters,
        [
            letter(1, "out_of_range", "pump-1", b'{"value": 1e9}'),
            letter(2, "unknown_metric", "pump-2", b"\xff\xfe"),
            letter(3, "out_of_range", "pump-2", b"<script>alert(1)</script>" + b"x" * 3000),
        ],
    )
    _, document = await api.get("dead-letters")
    first, second, third = document["letters"]
    assert [first["time"], second["time"], third["time"]] == [3, 2, 1]
    assert first["payload"].startswith("<script>alert(1)</script>x")
    assert (len(first["payload"]), first["bytes"], first["cut"]) == (2000, 3025, True)
    assert (second["encoding"], second["payload"]) == ("base64", "//4=")
    _, some = await api.get("dead-letters", reason="out_of_range", limit=1)
    assert [item["device"] for item in some["letters"]] == ["pump-2"]
    _, of_device = await api.get("dead-letters", device="pump-1")
    assert [item["payload"] for item in of_device["letters"]] == ['{"value": 1e9}']


async def test_a_text_that_is_cut_within_a_letter_stays_a_text(api: Api) -> None:
    payload = ("x" + "°" * 1500).encode()
    cut = DeadLetter("message", 1, "pump-1", "a/b", payload, (("", "malformed"),), 1)
    torn = DeadLetter("message", 2, "pump-1", "a/b", b"x\xc2", (("", "malformed"),), 1)
    write_letters(api.letters, [cut, torn])
    _, document = await api.get("dead-letters")
    shown = [(item["encoding"], item["payload"]) for item in document["letters"]]
    assert shown == [("base64", "eMI="), ("text", "x" + "°" * 999)]


async def test_pages_are_served_under_a_strict_policy(api: Api) -> None:
    async with api.session.get("/") as page:
        assert page.status == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert page.headers["X-Frame-Options"] == "DENY"
        tag = page.headers["ETag"]
    async with api.session.get("/", headers={"If-None-Match": tag}) as again:
        assert again.status == 304
    for path in ("/console/app.js", "/console/style.css", "/console/vendor/uplot.js"):
        async with api.session.get(path) as file:
            assert file.status == 200, path
    for path in ("/console/../api.py", "/console/vendor/LICENSE-htm", "/console/nothing.js"):
        async with api.session.get(path) as file:
            assert file.status == 404, path


def test_a_detector_that_is_shown_stored_readings_expects_the_same() -> None:
    registry = directory(3, ("flow", "heat"), units=("m3/h", "Cel"))
    series = series_of(registry, 1, "heat")
    assert series == 3
    assert series_of(registry, 1, "no such metric") is None
    assert series_of(registry, -1, "heat") is None
    rng = np.random.default_rng(5)
    ts = [i * SECOND for i in range(1, 301)]
    values = (40.0 + rng.normal(0.0, 1.0, 300)).tolist()
    own = Detector(registry, DETECT).score(readings([3] * 300, ts, values))
    expected, band = bands(registry, series, DETECT, ts, values)
    np.testing.assert_array_equal(expected, own.expected)
    np.testing.assert_array_equal(band, own.band)
    later, _ = bands(registry, series, DETECT, ts[150:], values[150:])  # it began only here
    assert np.abs(later[60:] - own.expected[210:]).max() < 0.2
