"""Pools of threads that have all of them from the start, so that a process never grows by one later."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor


def started(count: int, name: str) -> ThreadPoolExecutor:
    """A pool whose `count` threads run already; they are called name_0, name_1 …"""
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    everybody = threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(everybody.wait)  # none is idle meanwhile, so each one starts another
    everybody.wait()
    return pool


def use_workers(count: int) -> None:
    """What the running loop does in threads (`asyncio.to_thread`) is done by `count` of them."""
    asyncio.get_running_loop().set_default_executor(started(count, "worker"))
