"""Does what a page says, in a folder and a network of its own: `python -m tests.docs.run docs/tutorial.md`.

The network is a new namespace in which only loopback exists, so the ports of the page are free, whatever runs
on this machine. The page finds what it says that its reader has: a clone in `greenlang-iot/` (with the
environment that `make setup` makes) and the servers that are asked for. Three commands are stood in for:
`kafka-console-consumer.sh` (Kafka's own comes with its archive, not with its jars) reads with confluent-kafka,
`mosquitto` run by root is told to stay root, because it could not read the page's files otherwise, and `sleep`
counts only the time in which the machine did not stand still.
"""

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.docs.blocks import blocks
from tests.docs.shell import Mistake, Shell

from greenlang_iot.model.kernel_cache import CACHE_FOLDER

ROOT = Path(__file__).resolve().parents[2]
_IN_NAMESPACE = "GREENLANG_IOT_DOCS_NETWORK"

CONSUMER = """#!{python}
import argparse, confluent_kafka
parser = argparse.ArgumentParser()
parser.add_argument("--bootstrap-server"); parser.add_argument("--topic")
parser.add_argument("--from-beginning", action="store_true"); parser.add_argument("--max-messages", type=int)
said = parser.parse_args()
consumer = confluent_kafka.Consumer({{"bootstrap.servers": said.bootstrap_server, "group.id": "page",
    "auto.offset.reset": "earliest" if said.from_beginning else "latest"}})
consumer.subscribe([said.topic])
for _ in range(said.max_messages):
    record = consumer.poll(30)
    assert record is not None and record.error() is None, record
    print(record.value().decode())
consumer.close()
"""
MOSQUITTO = """#!/bin/sh
cp "$2" "$2.root" && echo "user root" >> "$2.root" && exec {mosquitto} -c "$2.root"
"""
SLEEP = """#!/bin/bash
exec {never}<> <(:)
for ((left = $(printf %.0f "$1e2"); left > 0; left--)); do read -r -t 0.01 -u $never; done
exit 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page")
    parser.add_argument("--server", action="append", default=[], choices=sorted(SERVERS))
    arguments = parser.parse_args()
    if os.environ.get(_IN_NAMESPACE) is None:
        command = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--map-root-user"])]
        command += [sys.executable, "-m", "tests.docs.run", *sys.argv[1:]]
        os.execvpe("unshare", command, os.environ | {_IN_NAMESPACE: "own"})
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sys.exit(run_page(arguments.page, arguments.server))


def run_page(page: str, servers: list[str]) -> int:
    """0 where every block does what the page says."""
    with tempfile.TemporaryDirectory(prefix="page-") as name, ExitStack() as stack:
        folder = Path(name)
        for server in servers:
            stack.enter_context(SERVERS[server](folder / ".servers" / server))
        shell = Shell(_clone(folder), _environment(folder))
        stack.callback(shell.close)
        for block in blocks(page, (ROOT / page).read_text(encoding="utf-8")):
            try:
                shell.run(block)
            except Mistake as mistake:
                print(f"{block}\n{block.text}\n{mistake}\n{shell.terminals()}")
                return 1
    return 0


def _clone(folder: Path) -> Path:
    """The reader's folder: a clone in it, as git would make it of what lies here, and its environment."""
    home = folder / "home"
    clone = home / "greenlang-iot"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for file in filter(None, listed.stdout.split("\0")):
        if (ROOT / file).is_file():
            (clone / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, clone / file)
    (clone / ".venv").symlink_to(ROOT / ".venv")
    return home


def _environment(folder: Path) -> dict[str, str]:
    programs = folder / "bin"
    programs.mkdir()
    tools = {"kafka-console-consumer.sh": CONSUMER.format(python=sys.executable), "sleep": SLEEP}
    mosquitto = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    if os.geteuid() == 0:
        tools["mosquitto"] = MOSQUITTO.format(mosquitto=mosquitto)
    for name, text in tools.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(folder / "home"),
        "LANG": "C.UTF-8",
        "TERM": "xterm",
        "NO_COLOR": "1",
        # compiled once for all pages: the first start of a machine is not what a page is about
        "GREENLANG_IOT_KERNEL_CACHE": str(CACHE_FOLDER.parent),
    }


# ---- what a page says that its reader has --------------------------------------------------------------


@contextmanager
def _kafka(folder: Path) -> Iterator[None]:
    from tests.services.kafka_server import start_kafka

    server = start_kafka(
        folder,
        listeners="PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093",
        advertised_listeners="PLAINTEXT://127.0.0.1:9092",
        controller_quorum_voters="1@127.0.0.1:9093",
    )
    try:
        yield
    finally:
        server.stop()


@contextmanager
def _influxdb1(folder: Path) -> Iterator[None]:
    from tests.services.influxdb1 import start_influxdb1

    server = start_influxdb1(folder, port=8086)
    try:
        yield
    finally:
        server.stop()


@contextmanager
def _influxdb2(folder: Path) -> Iterator[None]:
    """The stand-in for InfluxDB 2: its write and set-up API, on the usual port."""
    from tests.fakes.influxdb2 import InfluxDB2

    loop = asyncio.new_event_loop()
    server = InfluxDB2(buckets=())
    server._port = 8086
    server.token = "my-token"
    loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


SERVERS: dict[str, Callable[[Path], object]] = {
    "kafka": _kafka,
    "influxdb1": _influxdb1,
    "influxdb2": _influxdb2,
}

if __name__ == "__main__":
    main()
