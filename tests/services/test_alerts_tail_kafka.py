"""`greenlang-iot alerts tail --kafka` against a real broker."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fakes.alerts import SPIKE
from tests.services.kafka_server import missing, start_kafka

from greenlang_iot.model.outcomes import Transition
from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks.kafka import KafkaSender
from greenlang_iot.sinks.kafka_setup import KafkaSetup

pytestmark = [
    pytest.mark.services,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


def transition(device: str, number: int) -> Transition:
    return replace(SPIKE, alert_id=f"alert-{device}", number=number, device=device)


async def test_tail_prints_what_is_published_and_filters_by_device(tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_kafka, tmp_path)
    try:
        settings = KafkaSettings(enabled=True, bootstrap_servers=server.bootstrap)
        await KafkaSetup(settings).apply()
        command = ["-m", "greenlang_iot", "alerts", "tail", "--kafka", server.bootstrap]
        tail = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            *["--json", "--count", "1", "--device", "d2"],
            stdout=asyncio.subprocess.PIPE,
        )
        assert tail.stdout is not None
        line = asyncio.ensure_future(tail.stdout.readline())
        sender = KafkaSender(settings, settings.alerts_topic)
        async with asyncio.timeout(60):
            number = 0
            while not line.done():  # it shows what comes after it has started
                number += 1
                for device in ("d1", "d2"):
                    body = json.dumps(transition(device, number).as_dict()).encode()
                    await sender.publish(settings.alerts_topic, device.encode(), body, 1)
                await asyncio.wait({line}, timeout=0.1)  # the cores are for the one that starts
            assert await tail.wait() == 0
        await sender.close()
        shown = json.loads(line.result())
        assert (shown["device"], shown["state"], shown["value"]) == ("d2", "open", 41.5)
    finally:
        await asyncio.to_thread(server.stop)


async def test_tail_begins_with_the_alerts_that_are_not_resolved(tmp_path: Path) -> None:
    server = await asyncio.to_thread(start_kafka, tmp_path)
    try:
        settings = KafkaSettings(enabled=True, bootstrap_servers=server.bootstrap)
        await KafkaSetup(settings).apply()
        topic = settings.alerts_state_topic
        sender = KafkaSender(settings, topic)
        for device, number in (("d1", 0), ("d2", 0), ("d2", 1)):
            body = json.dumps(transition(device, number).as_dict()).encode()
            await sender.publish(topic, f"alert-{device}".encode(), body, 1)
        await sender.publish(topic, b"alert-d1", None, 1)  # resolved
        await sender.close()
        tail = await asyncio.create_subprocess_exec(
            sys.executable,
            *["-m", "greenlang_iot", "alerts", "tail", "--kafka", server.bootstrap],
            *["--json", "--count", "1"],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            shown, said = await tail.communicate()
        assert json.loads(shown)["transition_id"] == "alert-d2-1"
        assert said.decode() == f"following iot.alerts at {server.bootstrap}; Ctrl-C ends it\n"
    finally:
        await asyncio.to_thread(server.stop)
