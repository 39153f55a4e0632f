"""A real InfluxDB 1.x for tests: Debian's influxd on free loopback ports, in a folder of its own."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.ports import free_port

_START_TIMEOUT = 60.0


def missing() -> str | None:
    """Why no server can be started here, or None."""
    if shutil.which("influxd") is None:
        return "InfluxDB 1.x needs the influxd command (Debian: apt-get install influxdb)"
    return None


@dataclass
class InfluxDB1:
    """A running server; `stop` keeps its data and ports, `restart` starts it again on them."""

    folder: Path
    port: int
    _rpc_port: int
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers; RuntimeError with its log where it does not."""
        log = (self.folder / "influxd.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                ["influxd", "-config", str(self.folder / "influxdb.conf")],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/ping", timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        told = (self.folder / "influxd.log").read_text(errors="replace")[-2_000:]
        self.stop()
        raise RuntimeError(f"influxd did not start: {told}")

    def stop(self) -> None:
        """End this process (SIGTERM, then SIGKILL); idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()

    def query(self, statement: str, database: str = "") -> list[dict[str, Any]]:
        """The rows of a statement of InfluxQL, as {column: value} with `name` and tags; time in ns."""
        values = {"q": statement, "epoch": "ns"} | ({"db": database} if database else {})
        data = urllib.parse.urlencode(values).encode()
        with urllib.request.urlopen(f"{self.url}/query", data=data, timeout=30) as answer:
            (result,) = json.load(answer)["results"]
        if "error" in result:
            raise RuntimeError(f"{statement}: {result['error']}")
        return [
            {"name": series["name"], **series.get("tags", {})}
            | dict(zip(series["columns"], row, strict=True))
            for series in result.get("series", [])
            for row in series["values"]
        ]


def start_influxdb1(
    folder: Path, *, max_body: int = 25_000_000, port: int | None = None
) -> InfluxDB1:
    """Start influxd with its data under `folder`; the caller stops it.

    max_body: bytes of a body that it takes before it answers 413. port: default: a free one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, rpc_port = port or free_port(), free_port()
    (folder / "influxdb.conf").write_text(f"""reporting-disabled = true
bind-address = "127.0.0.1:{rpc_port}"
[meta]
dir = "{folder / "meta"}"
[data]
dir = "{folder / "data"}"
wal-dir = "{folder / "wal"}"
query-log-enabled = false
[monitor]
store-enabled = false
[continuous_queries]
run-interval = "1s"
log-enabled = false
[http]
bind-address = "127.0.0.1:{port}"
log-enabled = false
max-body-size = {max_body}
[logging]
level = "warn"
""")
    server = InfluxDB1(folder, port, rpc_port)
    server.start()
    return server
