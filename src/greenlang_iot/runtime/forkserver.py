"""The fork server, and what a process forked from it runs. Imports nothing heavy, so that a command can start it first."""

import contextlib
import multiprocessing
import os
import signal
import sys
from importlib.machinery import ModuleSpec
from multiprocessing import forkserver
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from greenlang_iot.runtime.reload import Control
    from greenlang_iot.runtime.spec import ShardSpec

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
}
"""glibc keeps the pages of chunks and requests instead of returning them to the kernel after each: Kafka
requests cost 370 ns a record with its defaults (page faults) and 66 ns so."""


def _hide_main() -> None:
    """A shard needs nothing of the command line, and would import it as its main module: 0.1 s each.

    Children leave alone a main module that was run as `python -m package`.
    """
    main = sys.modules["__main__"]
    if getattr(main, "__spec__", None) is None:
        main.__spec__ = ModuleSpec("greenlang_iot.__main__", None)


def start_forkserver() -> None:
    """Begin loading kernels in the background; shards are forked from there.

    What this process and its shards write from now on is for its owner only.
    """
    os.umask(0o077)
    for name, value in ALLOCATOR.items():
        os.environ.setdefault(name, value)
    _hide_main()
    multiprocessing.set_forkserver_preload(
        ["greenlang_iot.observe.plain", "greenlang_iot.runtime.preload"]
    )
    forkserver.ensure_running()
    import greenlang_iot.observe.plain  # noqa: F401  (before anything else takes structlog)


def end_forkserver() -> None:
    """This process ends: nobody waits for the kernels that may still be compiled, for a minute on a cold cache."""
    server = getattr(forkserver, "_forkserver")  # noqa: B009 (private: there is no other way)
    if server._forkserver_pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(server._forkserver_pid, signal.SIGKILL)


def shard_process(spec: "ShardSpec", control: "Control", window: "Control") -> None:
    """What a forked process runs: a shard, which the fork server has loaded already."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # blocked in the fork server
    from greenlang_iot.runtime.shard import run_shard

    run_shard(spec, control, window)
