"""Who is told of which alert, how often, and in which words; over a local HTTP server."""

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.fakes.alerts import T0, change

from greenlang_iot.alerts.book import Book
from greenlang_iot.alerts.silences import new_silence
from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.runtime import alert_targets
from greenlang_iot.runtime import courier as courier_module
from greenlang_iot.runtime.courier import Courier
from greenlang_iot.settings.load import load
from greenlang_iot.settings.model import AlertSettings, NotifierSettings, Settings
from greenlang_iot.sinks.alert_store import AlertStore
from greenlang_iot.sinks.notifiers import (
    AlertmanagerNotifier,
    LogNotifier,
    Notifier,
    Told,
    WebhookNotifier,
    _Http,
)


class Receiver:
    """Keeps requests; answers with the next of `answers`, else 200."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Any, dict[str, str]]] = []
        self.answers: list[int] = []
        self.raw: list[bytes] = []
        self.url = ""
        self.says = "no"

    async def serve(self, request: web.Request) -> web.Response:
        status = self.answers.pop(0) if self.answers else 200
        body = await request.read()
        if status == 200:
            self.raw.append(body)
            self.got.append((request.path, json.loads(body), dict(request.headers)))
        return web.Response(status=status, text=self.says)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/{any:.*}", found.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


class Desk:
    """A book whose transitions go to one notifier."""

    def __init__(self, kind: str, url: str = "", **given: Any) -> None:
        self.book = Book(AlertSettings(group_devices=3, flap_count=2))
        settings = NotifierSettings(name="n", kind=kind, url=url, **given)  # type: ignore[arg-type]
        told = Told(settings, self.book, "gw-1")
        self.notifier: Notifier
        if kind == "webhook":
            self.notifier = WebhookNotifier(told, lambda: 1_800_000_000.5)
        elif kind == "alertmanager":
            self.notifier = AlertmanagerNotifier(told, lambda: T0)
        else:
            self.notifier = LogNotifier(told)

    async def take(self, *items: dict[str, Any]) -> None:
        entries = self.book.take(items, T0)
        await self.notifier.deliver([e["t"] for e in entries])


async def test_a_webhook_gets_the_alert_signed_and_with_its_key(receiver: Receiver) -> None:
    desk = Desk("webhook", f"{receiver.url}/hook", secret="key")
    await desk.take(change("a"))
    ((path, body, headers),) = receiver.got
    assert (path, body) == ("/hook", change("a"))
    assert headers["Idempotency-Key"] == "a-1"
    assert headers["X-Greenlang-Timestamp"] == "1800000000"
    wanted = hmac.new(b"key", b"1800000000." + receiver.raw[0], hashlib.sha256).hexdigest()
    assert headers["X-Greenlang-Signature"] == f"sha256={wanted}"
    await desk.notifier.close()


async def test_a_webhook_in_ones_own_words(receiver: Receiver) -> None:
    template = '{"text": "${severity}: ${summary} costs $$5", "n": ${number}, "l": ${labels}}'
    desk = Desk("webhook", receiver.url, template=template)
    await desk.take(change("a") | {"summary": 'a "quoted"\nline', "labels": {"t": "x"}})
    ((_, body, headers),) = receiver.got
    assert body == {"text": 'warning: a "quoted"\nline costs $5', "n": 1, "l": {"t": "x"}}
    assert "X-Greenlang-Signature" not in headers
    await desk.notifier.close()


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ('{"text": "${sumary}"}', "there is no ${sumary}"),
        ('{"text": ${summary}}', "it is not JSON"),
        ("{", "it is not JSON"),
    ],
)
def test_a_wrong_notifier_is_wrong_settings(tmp_path: Path, template: str, words: str) -> None:
    path = tmp_path / "settings.yaml"
    entry = {"name": "x", "kind": "webhook", "url": "hook", "template": template}
    path.write_text(json.dumps({"alerts": {"notifiers": [entry, entry | {"template": None}]}}))
    with pytest.raises(InputError) as raised:
        load(path, {})
    told = "\n".join(raised.value.problems)
    assert (
        f"alerts.notifiers[0].template: {'with an alert in it, ' * ('JSON' in words)}{words}"
        in told
    )
    assert "alerts.notifiers[0].url: a webhook needs a url" in told
    assert "alerts.notifiers[1].name: 'x' names another one already" in told


async def test_who_is_told_of_what(receiver: Receiver) -> None:
    desk = Desk("webhook", receiver.url, severity="warning")
    silence = new_silence({"device": "quiet"}, "works", "", T0, T0, T0 + 10**12)
    desk.book.silence(silence, T0)
    await desk.take(
        change("p", state="pending", device="p"), change("i", severity="info", device="i")
    )
    await desk.take(change("s", device="quiet"))
    await desk.take(change("s", 2, "resolved", device="quiet", at=1, opened=0))
    assert receiver.got == []
    await desk.take(change("a"), change("a", 2, "resolved", at=1, opened=0))
    await desk.take(change("f", at=2))  # the same again, at once: flapping
    assert [h["Idempotency-Key"] for _, _, h in receiver.got] == ["a-1", "a-2"]
    await desk.notifier.close()


async def test_an_incident_speaks_for_its_members(receiver: Receiver) -> None:
    desk = Desk("webhook", receiver.url)
    await desk.take(change("a1", device="d1", rule="stuck"))
    await desk.take(*[change(f"a{n}", device=f"d{n}", rule="stuck") for n in range(2, 9)])
    told = [(b["detector"], b["state"]) for _, b, _ in receiver.got]
    assert told == [("stuck", "open"), ("incident", "open")]
    over = [
        change(f"a{n}", 2, "resolved", device=f"d{n}", rule="stuck", at=9, opened=0)
        for n in range(1, 9)
    ]
    await desk.take(*over)
    # of the one that was told alone, the end is told, too
    told = [(b["detector"], b["state"], b["device"]) for _, b, _ in receiver.got[2:]]
    assert told == [("stuck", "resolved", "d1"), ("incident", "resolved", "")]
    await desk.notifier.close()


async def test_a_webhook_that_was_away_gets_each_transition_once(receiver: Receiver) -> None:
    desk = Desk("webhook", receiver.url)
    items = [e["t"] for e in desk.book.take([change("a"), change("b", device="d2")], T0)]
    receiver.answers = [200, 503]
    with pytest.raises(SinkError, match="answered 503") as raised:
        await desk.notifier.deliver(items)
    assert raised.value.retryable
    # the courier gives the same again; what was done is the receiver's to recognise by its key
    await desk.notifier.deliver(items)
    assert [h["Idempotency-Key"] for _, _, h in receiver.got] == ["a-1", "a-1", "b-1"]
    await desk.notifier.close()


async def test_a_certificate_that_is_not_there_is_a_receiver_that_is_away(tmp_path: Path) -> None:
    """It ended the gateway at its first alert."""
    for kind in ("webhook", "alertmanager"):
        desk = Desk(kind, "https://127.0.0.1:1", tls={"ca_file": tmp_path / "ca.crt"})
        with pytest.raises(SinkError, match=r"tls.ca_file .* cannot be read: No such file") as told:
            await desk.take(change("a"))
        assert told.value.down
        await desk.notifier.close()


async def test_a_receiver_that_is_away_in_the_systems_words() -> None:
    http = _Http(NotifierSettings(name="n", kind="webhook"))
    with pytest.raises(SinkError, match=r"^notifier n: 127\.0\.0\.1:1: connection refused$"):
        await http.post("http://127.0.0.1:1/services/planted", b"{}", {})
    await http.close()


async def test_a_page_that_names_the_webhook_tells_no_secret(receiver: Receiver) -> None:
    """`Cannot POST /services/…` is what many servers say: for many services the path is the password."""
    receiver.answers = [404]
    receiver.says = "Cannot POST /services/planted?key=planted"
    http = _Http(NotifierSettings(name="n", kind="webhook"))
    with pytest.raises(SinkError, match=r"answered 404: Cannot POST \*\*\*") as raised:
        await http.post(f"{receiver.url}/services/planted?key=planted", b"{}", {})
    assert "planted" not in str(raised.value)
    await http.close()


async def test_what_a_webhook_refuses_is_not_tried_again(receiver: Receiver) -> None:
    desk = Desk("webhook", receiver.url)
    receiver.answers = [422, 401]
    with pytest.raises(SinkError) as raised:
        await desk.take(change("a"))
    assert (raised.value.retryable, raised.value.down) == (False, False)
    with pytest.raises(SinkError) as raised:
        await desk.take(change("b", device="d2"))
    assert raised.value.down  # that is the receiver's, not the alert's fault
    await desk.notifier.close()


async def test_alertmanager_gets_what_its_api_asks_for(receiver: Receiver) -> None:
    desk = Desk("alertmanager", f"{receiver.url}/", resend=60, console_url="http://gw:8090/")
    item = change("a", at=-5) | {"labels": {"team": "x", "severity": "mine"}, "runbook": "http://r"}
    await desk.take(item, change("b", device="d2"))
    ((path, (first, second), _),) = receiver.got
    assert path == "/api/v2/alerts"
    assert first == {
        "labels": {
            "alertname": "spike",
            "instance": "gw-1",
            "severity": "warning",
            "org": "acme",
            "site": "north",
            "type": "sensor",
            "device": "d1",
            "metric": "temperature",
            "team": "x",
        },
        "annotations": {
            "summary": "temperature of d1 read 95 Cel",
            "alert_id": "a",
            "runbook_url": "http://r",
        },
        "startsAt": "2027-01-15T07:59:55.000Z",
        "endsAt": "2027-01-15T08:04:00.000Z",
        "generatorURL": "http://gw:8090/#/alerts/a",
    }
    assert second["labels"]["device"] == "d2"
    await desk.take(change("a", 2, "resolved", at=7, opened=-5))
    (ended,) = receiver.got[-1][1]
    assert datetime.fromisoformat(ended["endsAt"]).timestamp() == T0 / 1e9 + 7
    await desk.notifier.close()


async def test_alertmanager_gets_open_alerts_again(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk("alertmanager", receiver.url)
    await desk.take(change("a"), change("b", device="d2"))
    await desk.take(change("b", 2, "resolved", device="d2", at=1, opened=0))
    receiver.answers = [500]
    slept: list[float] = []
    resent = asyncio.Event()
    genuine = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) > 2:
            resent.set()
            await genuine(3600)

    monkeypatch.setattr("greenlang_iot.sinks.notifiers.asyncio.sleep", sleep)
    task = asyncio.ensure_future(desk.notifier.run())
    await asyncio.wait_for(resent.wait(), 30)
    task.cancel()
    assert slept[:2] == [60.0, 60.0]
    (again,) = receiver.got[-1][1]  # once: the attempt before it failed and was passed over
    assert again["annotations"]["alert_id"] == "a"
    assert len(receiver.got) == 3
    await desk.notifier.close()


async def test_the_end_is_told_after_a_restart(receiver: Receiver) -> None:
    desk = Desk("webhook", receiver.url)
    await desk.take(change("a"), change("i", device="d2", severity="info"))
    later = Desk("webhook", receiver.url)
    later.book.restore(desk.book.snapshot())
    settings = NotifierSettings(name="n", kind="webhook", url=receiver.url)
    later.notifier = WebhookNotifier(Told(settings, later.book, "gw-1"))
    await later.take(change("a", 2, "resolved", at=1, opened=0))
    await later.take(change("i", 2, "resolved", device="d2", severity="info", at=1, opened=0))
    assert [h["Idempotency-Key"] for _, _, h in receiver.got] == ["a-1", "a-2"]
    await desk.notifier.close()
    await later.notifier.close()


async def test_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk("log")
    await desk.take(change("a"))
    assert "temperature of d1 read 95 Cel" in capsys.readouterr().out
    await desk.notifier.close()


async def test_a_dead_notifier_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier_module, "POLL_EVERY", 0.001)
    monkeypatch.setattr(alert_targets, "NOTIFICATIONS", 3)
    monkeypatch.setattr(courier_module, "MAX_BEHIND", 3)
    notifier = {"name": "dead", "kind": "webhook", "url": "http://127.0.0.1:1/"}
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "alerts": {"mqtt": False, "notifiers": [notifier], "group_devices": 0},
            "sinks": {"lake": {"enabled": False}},
        }
    )
    store = AlertStore(tmp_path / "alerts", settings.alerts)
    counters = Counters.local()
    courier = Courier(settings, counters, store)
    task = asyncio.ensure_future(courier.run())
    await store.take([])
    async with asyncio.timeout(20):
        while not counters.get(cell("alerts_failed", target="webhook")):
            await store.take([change(f"a{len(store.book.alerts)}", device="d")])
            await asyncio.sleep(0)
        for _ in range(50):
            await store.take([change(f"a{len(store.book.alerts)}", device="d")])
        (target,) = courier._targets
        while target.done + len(target.waiting) < len(store.book.alerts):
            await asyncio.sleep(0)
    # but for what is on its way, however much that was, the newest alone wait
    assert len(target.waiting) - target._in_flight <= 3
    assert target.done > 0
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()
