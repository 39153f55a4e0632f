"""`bench ladder latency` with real servers in the place of the counting ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.services import influxdb1, kafka_server
from tests.services.influxdb1 import start_influxdb1
from tests.services.kafka_server import start_kafka

pytestmark = [
    pytest.mark.services,
    *(
        pytest.mark.skipif(bool(why), reason=str(why))
        for why in (kafka_server.missing(), influxdb1.missing())
    ),
]


def test_every_message_is_timed_and_held_by_the_real_servers(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("kafka", "influxdb")]
    for folder in folders:
        folder.mkdir()
    kafka = start_kafka(folders[0])
    influxdb = start_influxdb1(folders[1])
    try:
        results = tmp_path / "results"
        options = ("--seconds", "0.5", "--json", "--kafka", kafka.bootstrap, "--results", results)
        told = [sys.executable, "-m", "greenlang_iot", "bench", "ladder", "latency", *options]
        done = subprocess.run(
            [*told, "--influxdb", influxdb.url], capture_output=True, text=True, timeout=900
        )
    finally:
        influxdb.stop()
        kafka.stop()
    assert done.returncode == 0, done.stderr  # what was acknowledged is in both
    assert [path.name for path in results.iterdir()] == ["latency-servers.json"]
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == [
        f"{rate}, real Kafka and InfluxDB"
        for rate in (
            *(f"{n} a second" for n in ("1,000", "10,000", "50,000")),
            *(f"{n}% of capacity" for n in (10, 50, 80, 95)),
        )
    ]
    for row in rows:
        assert 0 < row["p50"] <= row["p99"] <= row["p99.9"]
        assert row["cpu_ns_per_message"] > 100
