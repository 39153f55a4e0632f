"""The tutorial and the how-to pages that need servers, done as they say, in a network of their own."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.services import influxdb1, kafka_server, mosquitto_server

pytestmark = pytest.mark.services
ROOT = Path(__file__).resolve().parents[2]


def lacking(*servers: str) -> str | None:
    """Why the page cannot be tried here, or None."""
    modules = {"mosquitto": mosquitto_server, "kafka": kafka_server, "influxdb1": influxdb1}
    reasons = (modules[server].missing() for server in servers if server in modules)
    return next(filter(None, reasons), None)


@pytest.mark.parametrize(
    ("page", "servers"),
    [
        ("docs/tutorial.md", ("kafka", "influxdb2")),
        ("docs/how-to/influxdb.md", ("influxdb1",)),
        ("docs/how-to/kafka.md", ("kafka",)),
    ],
)
def test_the_page_does_what_it_says(page: str, servers: tuple[str, ...]) -> None:
    needed = (*servers, "mosquitto") if page == "docs/tutorial.md" else servers
    if (why := lacking(*needed)) is not None:
        pytest.skip(why)
    command = [sys.executable, "-m", "tests.docs.run", page]
    for server in servers:
        command += ["--server", server]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
