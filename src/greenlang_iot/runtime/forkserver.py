"""Starts the fork server: imports nothing heavy, so that it is the first thing a command does."""

import multiprocessing
import os
from multiprocessing import forkserver

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
"""glibc keeps the pages of chunks and requests instead of returning them to the kernel after each: Kafka
requests cost 370 ns a record with its defaults (page faults) and 66 ns so."""


def start_forkserver() -> None:
    """Begin loading kernels in the background; shards are forked from there.

    What this process and its shards write from now on is for its owner only.
    """
    os.umask(0o077)
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    multiprocessing.set_forkserver_preload(
        # The first is what a child would import as its main module.
        ["greenlang_iot.cli.main", "greenlang_iot.runtime.preload"]
    )
    forkserver.ensure_running()
