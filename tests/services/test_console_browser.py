"""The console in a real browser, on a gateway as its users run it: one operator's round, step by step.

The tests share one gateway and one browser, and are in the order of the round.
"""

import asyncio
import json
import shutil
import signal
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    Page,
    Request,
    Route,
    async_playwright,
    expect,
)
from tests.fakes.mqtt_client import RawClient
from tests.fakes.ports import free_port
from tests.services.gateway_process import GatewayProcess

from greenlang_iot.simulate.broker import Broker

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).resolve().parents[2] / ".services" / "axe.js"
WAIT = 60_000
"""Milliseconds; a page that is well needs a fraction of it."""
PICTURE = WAIT + 60_000
"""Where the lake did not answer in time, which loads its library first, the page asks again after a minute."""
MARKUP = "<img src=x onerror=document.title='owned'>"

pytestmark = [
    pytest.mark.services,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (make services)"),
]
expect.set_options(timeout=WAIT)

REGISTRY = {
    "version": 1,
    "types": {
        "pump": {
            "metrics": {
                "flow": {"unit": "m3/h", "range": [0, 1000], "warn": [None, 90], "interval": 60}
            }
        },
        "probe": {"metrics": {"constructor": {"unit": "1"}, "level": {"unit": "1"}}},
    },
    "devices": [
        {
            "id": f"pump-{i:03d}",
            "org": "acme",
            "site": f"site-{i % 2}",
            "type": "probe" if i == 119 else "pump",
        }
        for i in range(120)
    ],
}


class Stage:
    """Broker, gateway, one device that publishes, browser."""

    def __init__(self, folder: Path, broker: Broker, browser: Browser) -> None:
        self.folder = folder
        self.broker = broker
        self.browser = browser
        registry = folder / "registry.json"
        registry.write_bytes(orjson.dumps(REGISTRY))
        self.port = free_port()
        settings: dict[str, Any] = {
            "instance": "stage",
            "data_dir": str(folder / "data"),
            "mqtt": {"brokers": [{"host": "127.0.0.1", "port": broker.port}], "discovery": False},
            "admin": {"port": self.port},
            "runtime": {"shards": 2},
            "detect": {"warmup": 5},
        }
        self.gateway = GatewayProcess(folder, settings, registry)
        self.url = f"http://127.0.0.1:{self.port}/"
        self.said: list[str] = []  # what pages wrote into the browser's console

    async def publish(self, device: str, body: bytes | dict[str, Any]) -> None:
        site = f"site-{int(device.removeprefix('pump-')) % 2}"
        payload = body if isinstance(body, bytes) else orjson.dumps(body)
        await self.client.publish(f"greenlang/acme/{site}/{device}/telemetry", payload)

    async def flow(self, device: str, value: float) -> None:
        await self.publish(device, {"ts": time.time_ns(), "values": {"flow": value}})

    async def alert(self, device: str) -> None:
        """One opens for a device that was not heard before."""
        for value in (50.0, 51.0, 50.0, 51.0, 50.0, 51.0, 96.0):  # the first five are the warm-up
            await self.flow(device, value)

    async def context(self, **options: Any) -> BrowserContext:
        given = {"viewport": {"width": 1280, "height": 860}} | options
        made = await self.browser.new_context(**given)
        made.set_default_timeout(WAIT)
        return made

    async def page(self, context: BrowserContext, path: str = "") -> Page:
        page = await context.new_page()
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        await page.goto(self.url + path)
        return page

    def seen(self, device: str) -> list[float]:
        """Values that the gateway would show of it now."""
        path = f"api/v1/devices/{device}/series?metric=flow&minutes=15"
        with urllib.request.urlopen(self.url + path) as answer:
            return [point[1] for point in json.load(answer)["points"]]

    def token(self) -> str:
        return (self.folder / "data" / "admin-token").read_text().strip()

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "data" / "audit.jsonl").open()]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("console")
    broker = Broker()
    await broker.start()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=3 * WAIT
        )
        stage = Stage(folder, broker, browser)
        try:
            await asyncio.to_thread(stage.gateway.wait_ready)
            stage.client = await RawClient.connected(broker.port, "device")
            yield stage
        finally:
            await asyncio.to_thread(stage.gateway.end)
            await browser.close()
            await broker.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def page(stage: Stage) -> AsyncIterator[Page]:
    context = await stage.context(color_scheme="light")
    page = await stage.page(context)
    yield page
    await context.close()


async def give_token(page: Page, token: str) -> None:
    dialog = page.get_by_role("dialog", name="Token")
    await dialog.get_by_label("Token").fill(token)
    await dialog.get_by_role("button", name="Use it").click()


async def test_it_loads_and_lives(stage: Stage, page: Page) -> None:
    await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    await expect(page.locator(".tools .state")).to_have_text("ready")
    await expect(page.locator(".brand span")).to_have_text("stage")
    messages = page.locator(".figure", has=page.get_by_text("Messages", exact=True))
    for i in range(12):
        await stage.flow("pump-001", 50.0 + i % 3)
    await expect(messages.locator(".note")).to_have_text("12 in all")
    await stage.flow("pump-001", 50.0)
    await expect(messages.locator(".note")).to_have_text("13 in all")


async def test_what_came_is_text_and_never_markup(stage: Stage, page: Page) -> None:
    await stage.publish("pump-002", MARKUP.encode())
    await page.get_by_role("button", name="malformed").click()
    await expect(page.locator(".letter pre")).to_have_text(MARKUP)
    await stage.publish("pump-002", {"ts": time.time_ns(), "values": {MARKUP: 1}})
    await page.get_by_role("button", name="unknown metric").click()
    await expect(page.locator(".letter code").first).to_contain_text(MARKUP)
    assert await page.locator("main img").count() == 0
    assert await page.title() == "Overview · greenlang-iot"


async def test_devices_are_found_and_paged(stage: Stage, page: Page) -> None:
    await page.keyboard.press("g")
    await page.keyboard.press("d")
    await expect(page.get_by_role("heading", name="Devices")).to_be_focused()
    await expect(page.get_by_text("1 – 50 of 120")).to_be_visible()
    await page.get_by_role("button", name="Next").click()
    await expect(page.get_by_text("51 – 100 of 120")).to_be_visible()
    await expect(page.get_by_role("link", name="pump-050")).to_be_visible()
    await page.locator("h1").click()
    await page.keyboard.press("/")
    await page.keyboard.type("PUMP-01")
    await expect(page.get_by_text("1 – 10 of 10")).to_be_visible()
    await page.get_by_label("Site").select_option("acme/site-1")
    await expect(page.get_by_text("1 – 5 of 5")).to_be_visible()
    await page.get_by_label("State").select_option("ok")
    await expect(page.get_by_text("No device matches")).to_be_visible()
    await page.get_by_role("searchbox").fill("")
    await expect(page.get_by_text("1 – 1 of 1")).to_be_visible()
    await page.locator("h1").click()
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="pump-001")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="pump-001")).to_be_visible()


async def test_a_device_shows_each_reading_as_it_comes(stage: Stage, page: Page) -> None:
    await page.goto(stage.url + "#/devices/pump-001")
    card = page.locator(".card", has=page.get_by_role("heading", name="flow"))
    await expect(card.locator(".figure-value")).to_have_text("50")
    await expect(card).to_contain_text("expected 5")
    await expect(card.locator("canvas")).to_be_visible(timeout=PICTURE)
    await stage.flow("pump-001", 51.25)
    await expect(card.locator(".figure-value")).to_have_text("51.25")
    await expect(card.locator(".readout b").first).to_have_text("51.25")


async def test_an_alert_appears_and_is_narrowed(stage: Stage, page: Page) -> None:
    await page.goto(stage.url + "#/alerts")
    await expect(page.get_by_text("Nothing to look after")).to_be_visible()
    await stage.flow("pump-001", 95.0)
    rows = page.locator("table.alerts tbody tr")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("pump-001")
    await expect(page.locator(".nav .count")).to_have_text("1")
    await stage.alert("pump-004")
    await expect(rows).to_have_count(2)
    await page.get_by_role("searchbox").fill("pump-004")
    await expect(rows).to_have_count(1)
    await expect(rows).to_contain_text("pump-004")
    await page.get_by_role("searchbox").fill("no such thing")
    await expect(page.get_by_text("No alert matches")).to_be_visible()
    await page.get_by_role("searchbox").fill("")
    await expect(rows).to_have_count(2)


async def test_an_alert_is_acknowledged_with_the_token(stage: Stage, page: Page) -> None:
    row = page.locator("table.alerts tbody tr", has_text="pump-001")
    await row.get_by_role("button", name="Acknowledge").click()
    dialog = page.get_by_role("dialog", name="Acknowledge")
    await dialog.get_by_label("Your name").fill("Ada")
    await dialog.get_by_label("Comment").fill(MARKUP)
    await stage.alert("pump-008")  # the page goes on behind the dialog
    await expect(page.locator(".nav .count")).to_have_text("3")
    await expect(dialog.get_by_label("Your name")).to_have_value("Ada")
    await dialog.get_by_role("button", name="Acknowledge").click()
    await give_token(page, "wrong")
    await expect(page.get_by_text("did not accept that token")).to_be_visible()
    await give_token(page, stage.token())
    await expect(row.locator(".state.info")).to_have_text("acknowledged")
    line = next(item for item in stage.audit() if item["action"] == "acknowledge")
    assert (line["by"], line["outcome"]) == ("Ada", "done")
    await row.get_by_role("link", name="pump-001").click()
    await expect(page.locator(".timeline")).to_contain_text(MARKUP)
    await expect(page.locator(".timeline li")).not_to_have_count(0)
    await expect(page.locator("canvas")).to_be_visible(timeout=PICTURE)
    assert await page.locator("main img").count() == 0


async def test_an_alert_is_silenced_without_asking_again(stage: Stage, page: Page) -> None:
    await page.goto(stage.url + "#/alerts")
    row = page.locator("table.alerts tbody tr", has_text="pump-004")
    await row.get_by_role("button", name="Silence").click()
    dialog = page.get_by_role("dialog", name="Silence")
    await expect(dialog.get_by_label("Your name")).to_have_value("Ada")
    await dialog.get_by_label("Reason").fill("seal is being replaced")
    await dialog.get_by_role("button", name="Silence").click()
    await expect(row.get_by_text("silenced")).to_be_visible()
    silences = page.get_by_role("region", name="Silences")
    await expect(silences).to_contain_text("seal is being replaced")
    await expect(silences).to_contain_text("device pump-004")
    await silences.get_by_role("button", name="End").click()
    await page.get_by_role("dialog").get_by_role("button", name="End it").click()
    await expect(silences).to_contain_text("Nothing is silenced")
    assert {"silence", "unsilence"} <= {item["action"] for item in stage.audit()}


async def test_works_are_planned(stage: Stage, page: Page) -> None:
    silences = page.get_by_role("region", name="Silences")
    await silences.get_by_role("button", name="Plan a silence").click()
    dialog = page.get_by_role("dialog", name="Plan a silence")
    await dialog.get_by_label("Reason").fill("planned works")
    await dialog.get_by_role("button", name="Silence").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("match names at least one of")
    await dialog.get_by_label("Device").fill("pump-1*")
    await dialog.get_by_label("From").fill("2035-05-01T08:00")
    await dialog.get_by_role("button", name="Silence").click()
    await expect(silences).to_contain_text("device pump-1*")
    await expect(silences).to_contain_text("01 May 2035, 08:00")
    planned = [item["silence"] for item in stage.audit() if item["action"] == "silence"][-1]
    assert planned["match"] == {"device": "pump-1*"}
    assert planned["until"] - planned["starts"] == 7_200 * 10**9
    assert time.gmtime(planned["starts"] // 10**9).tm_year == 2035
    await silences.get_by_role("button", name="End").click()
    await page.get_by_role("dialog").get_by_role("button", name="End it").click()
    await expect(silences).to_contain_text("Nothing is silenced")


async def test_nothing_went_wrong_on_the_way(stage: Stage) -> None:
    """No script error, and nothing that the content security policy had to stop."""
    refused = (
        "status of 401",  # the wrong token, and the browser says so
        "status of 400",  # a silence of nothing
    )
    assert [line for line in stage.said if not any(code in line for code in refused)] == []


async def test_it_comes_back_after_a_restart(stage: Stage, page: Page) -> None:
    await page.goto(stage.url + "#/devices/pump-001")
    await asyncio.to_thread(stage.gateway.stop)
    await expect(page.get_by_text("No connection to the gateway")).to_be_visible()
    await expect(page.get_by_role("heading", name="pump-001")).to_be_visible()
    await asyncio.to_thread(stage.gateway.start)
    await asyncio.to_thread(stage.gateway.wait_ready)
    await expect(page.locator(".tools .state")).to_have_text("ready")
    await stage.flow("pump-001", 47.5)
    await expect(page.locator(".figure-value")).to_have_text("47.5")
    await expect(page.locator(".notice")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_theme_follows_the_system_until_chosen(stage: Stage, scheme: str) -> None:
    context = await stage.context(color_scheme=scheme)
    page = await stage.page(context)
    theme = page.locator("html")
    await expect(theme).to_have_attribute("data-theme", scheme)
    other = {"light": "dark", "dark": "light"}[scheme]
    await page.keyboard.press("t")
    await expect(theme).to_have_attribute("data-theme", other)
    await page.reload()
    await expect(theme).to_have_attribute("data-theme", other)
    await context.close()


PAGES = ["overview", "alerts", "devices", "devices/pump-001", "fleet"]


async def test_a_phone_needs_no_sideways_scrolling(stage: Stage) -> None:
    phone = {"width": 390, "height": 844}
    context = await stage.context(viewport=phone, is_mobile=True, has_touch=True)
    page = await stage.page(context)
    for path in PAGES:
        await page.goto(f"{stage.url}#/{path}")
        await expect(page.locator("h1")).to_be_visible()
        await expect(page.locator("main .card").first).to_be_visible()
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, path
    await context.close()


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core (make services)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_barriers_are_found(stage: Stage, scheme: str) -> None:
    """axe-core, WCAG 2 A and AA, on every page."""
    context = await stage.context(color_scheme=scheme)
    page = await stage.page(context)
    await page.evaluate(AXE.read_text())
    found = {}
    for path in PAGES:
        await page.goto(f"{stage.url}#/{path}")
        await expect(page.locator("main .card").first).to_be_visible()
        result = await page.evaluate(
            "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']})"
        )
        for violation in result["violations"]:
            nodes = [node["html"][:160] for node in violation["nodes"]]
            found[path, violation["id"]] = nodes[:3]
    assert found == {}
    await context.close()


async def test_a_page_that_stood_still_misses_no_reading(stage: Stage) -> None:
    """Two seconds' events come at once then, and only the first holds the reading that is suspect."""
    context = await stage.context()
    page = await stage.page(context, "#/devices/pump-020")
    card = page.locator(".card", has=page.get_by_role("heading", name="flow"))
    for value in (50.0, 51.0, 50.0, 51.0, 50.0, 51.0, 50.0):  # the first five are the warm-up
        await stage.flow("pump-020", value)
    await expect(card).to_contain_text("expected 5")
    await expect(card.locator(".readout b").first).to_have_text("50")
    await page.evaluate(
        "setTimeout(() => { const until = Date.now() + 5000; while (Date.now() < until); })"
    )
    for value in (95.0, 51.0):
        await stage.flow("pump-020", value)
        async with asyncio.timeout(WAIT / 1000):
            while value not in await asyncio.to_thread(stage.seen, "pump-020"):
                await asyncio.sleep(0.05)
    await expect(card.locator(".readout b").first).to_have_text("51")
    await expect(card).to_contain_text("1 suspect")
    await context.close()


async def test_an_unusual_name_or_value_breaks_no_page(stage: Stage) -> None:
    context = await stage.context()
    said = len(stage.said)
    page = await stage.page(context, "#/devices/50%")
    await expect(page.get_by_text("There is no device '50%'")).to_be_visible()
    await page.goto(stage.url + "#/devices/pump-119")
    level = page.locator(".card", has=page.get_by_role("heading", name="level"))
    named = page.locator(".card", has=page.get_by_role("heading", name="constructor"))
    for value in (1e308, -1e308, 5e-324):
        values = {"level": value, "constructor": value}
        await stage.publish("pump-119", {"ts": time.time_ns(), "values": values})
    await expect(level.locator(".readout b").first).to_have_text("4.941e-324")
    await expect(named.locator(".readout b").first).to_have_text("4.941e-324")
    await stage.publish("pump-119", {"ts": time.time_ns(), "values": {"level": -1.5}})
    await expect(level.locator(".readout b").first).to_have_text("-1.5")
    await expect(named.locator(".figure-value")).to_have_text("4.941e-324")
    assert [line for line in stage.said[said:] if "status of 404" not in line] == []
    await context.close()


async def test_an_answer_that_is_cut_off_or_overtaken_is_not_shown(stage: Stage) -> None:
    context = await stage.context()
    page = await stage.page(context)
    arrived, go_on = asyncio.Event(), asyncio.Event()
    asked = 0
    overtaken: Request

    async def alerts(route: Route) -> None:
        nonlocal asked, overtaken
        asked += 1
        number = asked
        if number == 1:  # begun, and the gateway ended
            await route.fulfill(body='{"alerts": [', content_type="application/json")
            return
        if number == 2:
            overtaken = route.request
            arrived.set()
            await go_on.wait()
        # the page asks again whenever anything changes: how often, is not said
        said = "overtaken" if number == 2 else "newest"
        one = {"alert_id": "a", "summary": said, "state": "open", "rule": "range"}
        alert = {**one, "severity": "warning", "opened": time.time_ns(), "device": "d"}
        await route.fulfill(json={"alerts": [alert], "next": None, "total": 1})

    await page.route("**/api/v1/alerts?*", alerts)
    await page.goto(stage.url + "#/alerts")
    async with asyncio.timeout(WAIT / 1000):
        await arrived.wait()
    table = page.locator("table.alerts")
    await stage.alert("pump-022")  # has the page ask again
    await expect(table).to_contain_text("newest")
    async with page.expect_event("requestfinished", lambda request: request is overtaken):
        go_on.set()
    await page.evaluate("new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)))")
    await expect(table).to_contain_text("newest")
    await context.close()


async def test_a_list_is_there_although_its_first_question_was_lost(stage: Stage) -> None:
    """Sites are asked for once, while the page begins; so are the pages of a list that grew shorter."""
    context = await stage.context()
    page = await stage.page(context)
    await page.route("**/api/v1/sites", lambda route: route.abort(), times=1)
    await page.goto(stage.url + "#/devices")
    await page.get_by_label("Site").select_option("acme/site-1")
    await expect(page.get_by_text("1 – 50 of 60")).to_be_visible()
    empty = {"devices": [], "next": None, "total": 50}
    await page.route("**/api/v1/devices?*cursor=*", lambda route: route.fulfill(json=empty))
    await page.get_by_role("button", name="Next").click()
    await expect(page.get_by_text("1 – 50 of 60")).to_be_visible()
    await expect(page.get_by_role("link", name="pump-001")).to_be_visible()
    await context.close()


async def test_a_browser_of_two_years_ago_shows_everything(stage: Stage) -> None:
    context = await stage.context()
    await context.add_init_script("delete AbortSignal.any; delete AbortSignal.timeout;")
    page = await stage.page(context, "#/devices")
    await expect(page.get_by_role("link", name="pump-001")).to_be_visible()
    assert await page.evaluate("typeof AbortSignal.any") == "undefined"
    await context.close()


async def test_a_thinned_past_is_said_and_goes_on_with_each_reading(stage: Stage) -> None:
    context = await stage.context()
    page = await stage.page(context)
    begin = time.time() - 80_000
    points = [[begin + 50 * i, 42.0, 0.1, None, None, False] for i in range(1_500)]
    note = "Of each 150 s the lowest, the highest and the least usual reading."
    past = {"device": "pump-044", "metric": "flow", "points": points, "note": note, "thinned": True}
    await page.route("**/series?*", lambda route: route.fulfill(json=past))
    await page.goto(stage.url + "#/devices/pump-044")
    await page.get_by_role("button", name="24 h").click()
    card = page.locator(".card", has=page.get_by_role("heading", name="flow"))
    await expect(card).to_contain_text(
        note
    )  # the gateway was asked for the device: it keeps what comes
    await stage.flow("pump-044", 43.5)
    await expect(card.locator(".readout b").first).to_have_text("43.5")
    await context.close()


async def test_a_device_of_a_shard_that_does_not_answer_is_unknown(stage: Stage) -> None:
    context = await stage.context()
    page = await stage.page(context)
    parts = {"ok": 2, "silent": 1, "never": 0, "disabled": 0, "unknown": 57}
    sites = {"sites": [{"org": "acme", "site": "north", "devices": 60, **parts}], "types": []}
    await page.route("**/api/v1/sites", lambda route: route.fulfill(json=sites | {"answering": 1}))
    await page.goto(stage.url + "#/fleet")
    await expect(page.get_by_role("alert")).to_have_text(
        "Not every shard answers: of 57 devices nothing is known."
    )
    await expect(page.locator(".head")).to_contain_text("60 devices, 1 silent, 0 never heard")
    await context.close()


@pytest.mark.parametrize("hours", [-2, 2])
async def test_a_picture_goes_by_the_gateways_clock(stage: Stage, hours: int) -> None:
    context = await stage.context()
    ahead = f"const now = Date.now; Date.now = () => now() + {hours} * 3600000;"
    await context.add_init_script(ahead)
    page = await stage.page(context, "#/alerts")
    device = f"pump-{30 + hours:03d}"
    await stage.alert(device)
    row = page.locator("table.alerts tbody tr", has_text=device)
    async with page.expect_request(lambda request: "/series?" in request.url) as asked:
        await row.get_by_role("link").first.click()
    assert (await asked.value).url.endswith("metric=flow&minutes=15")
    assert await page.evaluate("import('/console/gateway.js').then((m) => m.now())") == (
        pytest.approx(time.time(), abs=60)
    )
    await context.close()


async def test_a_gateway_that_stands_still_is_not_shown_as_ready(stage: Stage) -> None:
    context = await stage.context()
    page = await stage.page(context)
    state = page.locator(".tools .state")
    await expect(state).to_have_text("ready")
    stage.gateway.send(signal.SIGSTOP)
    try:
        await expect(state).to_have_text("offline")
        await expect(page.get_by_text("No connection to the gateway")).to_be_visible()
    finally:
        stage.gateway.send(signal.SIGCONT)
    await expect(state).to_have_text("ready")
    await context.close()
