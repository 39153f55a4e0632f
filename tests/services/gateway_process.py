"""The gateway as its users run it: `greenlang-iot run` with a settings file, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml


class GatewayProcess:
    """Starts at once; `wait_ready`, `status`, `stop` (drained, its summary)."""

    def __init__(self, folder: Path, settings: dict[str, Any], registry: Path) -> None:
        self.folder = folder
        self._config = folder / "gateway.yaml"
        self._config.write_text(yaml.safe_dump(settings))
        self._registry = registry
        self.port = int(settings["admin"]["port"])
        self.log = folder / "gateway.log"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "greenlang_iot", "run"]
        command += ["--config", str(self._config), "--devices-file", str(self._registry)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--summary", "json"], stdout=subprocess.PIPE, stderr=log, text=True
            )

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """(HTTP status, JSON body); (0, {}) while nobody listens."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.port}{path}", timeout=30
            ) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            return 0, {}

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            return answer.read().decode()

    def wait_ready(self, timeout: float = 180.0) -> None:
        self.wait(lambda: self.get("/readyz")[0] == 200, timeout, "ready")

    def wait(self, condition: Any, timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert self._process.poll() is None, (
                f"the gateway ended:\n{self.log.read_text()[-4000:]}"
            )
            assert time.monotonic() < deadline, (
                f"not {what} after {timeout} s: {self.get('/readyz')}\n{self.log.read_text()[-4000:]}"
            )
            time.sleep(0.02)  # polling another process: there is nothing to wait on

    def shard_pids(self) -> list[int]:
        """Processes named shard-N below the gateway (they are the fork server's children)."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                line = stat.read_text()
                parent = int(line.rsplit(")", 1)[1].split()[1])
                if self._is_ours(parent):
                    found.append(int(stat.parent.name))
            except (OSError, ValueError):
                continue
        return sorted(found)

    def _is_ours(self, pid: int) -> bool:
        """Is `pid` the fork server of our gateway?"""
        try:
            line = Path(f"/proc/{pid}/stat").read_text()
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return False
        grandparent = int(line.rsplit(")", 1)[1].split()[1])
        return grandparent == self._process.pid and "forkserver" in command

    def send(self, number: signal.Signals) -> None:
        """To the gateway's own process alone."""
        self._process.send_signal(number)

    def kill_all(self) -> None:
        self._process.kill()
        self._process.wait(10)

    def stop(self) -> dict[str, Any]:
        """SIGTERM, wait for the drain; the summary."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=40)
        assert self._process.returncode == 0, self.log.read_text()[-4000:]
        return json.loads(output.strip().splitlines()[-1])

    def end(self) -> None:
        """Whatever happened: nothing is left running."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)


def simulate(arguments: dict[str, object]) -> "subprocess.Popen[str]":
    """`greenlang-iot simulate` in the background; its last stdout line is JSON."""
    given = [str(part) for pair in arguments.items() for part in pair]
    return subprocess.Popen(
        [sys.executable, "-m", "greenlang_iot", "simulate", *given, "--summary", "json"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ.copy(),
    )


def finished(process: "subprocess.Popen[str]", timeout: float) -> dict[str, Any]:
    """Wait for it and parse its summary."""
    output, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0
    return json.loads(output.strip().splitlines()[-1])
