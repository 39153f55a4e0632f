"""A real Prometheus for tests, with the shipped configuration and rules, on a free loopback port."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from tests.fakes.ports import free_port

SHIPPED = Path(__file__).resolve().parents[2] / "config" / "prometheus"


def missing() -> str | None:
    """Why no Prometheus can be started here, or None."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        return "Prometheus is missing: apt-get install prometheus"
    return None


class Prometheus:
    """Scrapes `target` (host:port) with `token` and evaluates the rules, both every second."""

    def __init__(self, folder: Path, target: str, token: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text())
        settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        (job,) = settings["scrape_configs"]
        (folder / "read-token").write_text(token)
        job["authorization"]["credentials_file"] = str(folder / "read-token")
        job["scheme"] = "http"  # on loopback
        del job["tls_config"]
        job["static_configs"] = [{"targets": [target]}]
        shutil.copy(SHIPPED / "rules.yaml", folder)
        config = folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump(settings))
        subprocess.run(["promtool", "check", "config", str(config)], check=True)
        self.port = free_port()
        self._log = folder / "prometheus.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stdout=log,
                stderr=log,
            )
        self.wait(lambda: self._ready(), 120, "ready")

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=1):
                return True
        except OSError:
            return False

    def wait(self, condition: Any, timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert self._process.poll() is None, self._log.read_text()[-2_000:]
            assert time.monotonic() < deadline, f"not {what} after {timeout} s"
            time.sleep(0.2)  # polling another process: there is nothing to wait on

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of an instant query."""
        return [
            (item["metric"], float(item["value"][1]))
            for item in self.get("query", query=expression)["result"]
        ]

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of GET /api/v1/`path`."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
