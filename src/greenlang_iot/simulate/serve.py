"""`python -m greenlang_iot.simulate.serve FOLDER [PORT]`: the embedded broker with TLS as a process.

Prints its port as the first line, and as the last (at SIGTERM) its counters as JSON. CA and certificate
are kept in FOLDER.
"""

import asyncio
import dataclasses
import json
import signal
import sys
from pathlib import Path

import uvloop

from greenlang_iot.simulate.broker import Broker
from greenlang_iot.simulate.ca import loopback, server_context


async def serve(folder: Path, port: int) -> None:
    """Until SIGTERM or SIGINT."""
    _, identity = loopback(folder)
    broker = Broker("127.0.0.1", port, tls=server_context(identity))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the demo, which then ends us
    sys.stdout.write(f"{await broker.start()}\n")
    sys.stdout.flush()
    await stop.wait()
    await broker.stop()
    sys.stdout.write(json.dumps(dataclasses.asdict(broker.counters)) + "\n")


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
