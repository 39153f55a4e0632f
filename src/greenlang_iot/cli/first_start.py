"""The first start compiles the kernels, which takes up to a minute: somebody should say so."""

import os
import threading
import time

from greenlang_iot.cli.terminal import live, say


def tell_first_start() -> None:
    """Say that kernels are being compiled, and when they are done; nothing on any later start.

    A thread of its own: the parent waits for the compiler in a call that cannot be interrupted.
    """
    from greenlang_iot.model.kernel_cache import COMPILED, drop_damaged

    drop_damaged()
    if COMPILED.exists() or os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return
    say("first start: compiling kernels, which takes up to a minute and is kept for later starts")

    def wait() -> None:
        began = time.monotonic()
        while not COMPILED.exists():
            live(f"compiling … {time.monotonic() - began:.0f} s")
            time.sleep(0.5)
        say(f"kernels are compiled ({time.monotonic() - began:.0f} s)")

    threading.Thread(target=wait, daemon=True).start()
