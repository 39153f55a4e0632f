"""The Alertmanager notifier against Debian's prometheus-alertmanager."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.alerts import change
from tests.fakes.ports import free_port

from greenlang_iot.alerts.book import Book
from greenlang_iot.settings.model import AlertSettings, NotifierSettings
from greenlang_iot.sinks.notifiers import AlertmanagerNotifier, Told

pytestmark = pytest.mark.services
PROGRAM = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    if PROGRAM is None:
        pytest.skip("prometheus-alertmanager is not installed")
    port, config = free_port(), tmp_path / "config.yml"
    config.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    command = [PROGRAM, f"--config.file={config}", f"--storage.path={tmp_path / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    base = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(f"{base}/-/ready"):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)  # polling another process: there is nothing to wait on
        yield base
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def alerts(url: str) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=10) as answer:
        found: list[dict[str, Any]] = json.load(answer)
        return found


async def test_alertmanager_shows_what_is_open(url: str) -> None:
    book = Book(AlertSettings())
    given = NotifierSettings(name="n", kind="alertmanager", url=url, console_url="http://gw:8090")
    notifier = AlertmanagerNotifier(Told(given, book, "gw-1"))
    now = time.time()
    opened = [change("a"), change("b", device="d2")]
    for item in opened:
        item |= {"opened": int((now - 60) * 1e9), "at": int((now - 60) * 1e9)}
    opened[0] |= {"labels": {"team": "grid"}, "runbook": "https://wiki.example.com/a"}
    await notifier.deliver([e["t"] for e in book.take(opened, time.time_ns())])

    found = {a["labels"]["device"]: a for a in alerts(url)}
    assert set(found) == {"d1", "d2"}
    assert found["d1"]["labels"]["alertname"] == "spike"
    assert found["d1"]["labels"]["team"] == "grid"
    assert found["d1"]["annotations"]["runbook_url"] == "https://wiki.example.com/a"
    assert found["d1"]["generatorURL"] == "http://gw:8090/#/alerts/a"
    assert found["d1"]["status"]["state"] == "active"

    resolved = opened[0] | {"number": 2, "state": "resolved", "at": int((now - 1) * 1e9)}
    await notifier.deliver([e["t"] for e in book.take([resolved], time.time_ns())])
    assert [a["labels"]["device"] for a in alerts(url)] == ["d2"]
    await notifier.close()
