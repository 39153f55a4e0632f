"""Ctrl-C at a terminal ends what listens or publishes at once, in order, without a stack trace.

`run` and `alerts tail` are interrupted by the tutorial's test, as its page says.
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest
import yaml
from tests.docs.shell import Terminal

from greenlang_iot.simulate.broker import Broker


@pytest.fixture
def environment() -> dict[str, str]:
    return os.environ | {"NO_COLOR": "1", "TERM": "xterm"}


async def interrupted(
    command: str, until: str, folder: Path, environment: dict[str, str]
) -> tuple[int, str]:
    """(exit status, what the terminal shows) of a command that is interrupted when it says `until`."""
    program = f"{sys.executable} -m greenlang_iot"
    terminal = Terminal(f"exec {program} {command}", folder, environment)
    try:
        await asyncio.to_thread(terminal.wait_for, until)
        status = await asyncio.to_thread(terminal.interrupt)
        return status, terminal.text
    finally:
        terminal.close()


async def test_simulate(tmp_path: Path, environment: dict[str, str]) -> None:
    broker = Broker()
    await broker.start()
    command = f"simulate --no-tls --port {broker.port} --devices 10 --seconds 60"
    status, text = await interrupted(command, "acknowledged", tmp_path, environment)
    assert status == 0
    assert "published" in text  # its summary
    assert "Traceback" not in text
    await broker.stop()


async def test_discover(tmp_path: Path, environment: dict[str, str]) -> None:
    broker = Broker()
    await broker.start()
    config = tmp_path / "c.yaml"
    config.write_text(
        yaml.safe_dump({"mqtt": {"brokers": [{"host": "127.0.0.1", "port": broker.port}]}})
    )
    command = "devices discover --config c.yaml --output r.json --for 60"
    status, text = await interrupted(command, "s left", tmp_path, environment)
    assert status == 1
    assert "no readings were heard" in text
    assert "Traceback" not in text
    await broker.stop()
