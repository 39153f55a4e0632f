"""Reloads one after the other, without processes."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from greenlang_iot.model.errors import InputError
from greenlang_iot.observe.audit import Audit
from greenlang_iot.runtime.reloader import Reloader


async def test_a_signal_during_a_reload_is_followed_by_another_one(tmp_path: Path) -> None:
    """What was changed after the first had read the files would never be taken over."""
    held, reads = threading.Event(), 0
    begun: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> NoReturn:
        nonlocal reads
        reads += 1
        loop.call_soon_threadsafe(begun.put_nowait, reads)
        assert held.wait(30)
        raise InputError("half written")

    running: Any = SimpleNamespace()
    audit = Audit(tmp_path, 1 << 20)
    reloader = Reloader(running, running, read, audit, lambda *_: None)
    async with asyncio.timeout(30):
        reloader.soon()
        assert await begun.get() == 1
        for _ in range(3):  # however many come: one reads all of it
            reloader.soon()
        held.set()
        assert await begun.get() == 2
        await reloader.idle()
    assert reads == 2
    assert (tmp_path / "audit.jsonl").read_text().count('"refused"') == 2
