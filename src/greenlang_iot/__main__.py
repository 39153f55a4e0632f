"""The program: `greenlang-iot`, and `python -m greenlang_iot`."""

import gc
import sys

GATEWAYS = ("run", "demo")
"""Commands that run a gateway: its kernels load (0.2 s sooner) while the command line is imported."""


def main() -> None:
    """Entry point: what takes longest begins first."""
    if not (sys.argv[1:2] and sys.argv[1] in GATEWAYS and "--help" not in sys.argv):
        _command_line()
        return
    from greenlang_iot.runtime.forkserver import end_forkserver, start_forkserver

    start_forkserver()
    gc.disable()  # what is imported and read now stays; the gateway enables it
    try:
        _command_line()
    finally:
        end_forkserver()
        gc.unfreeze()  # else DuckDB, loaded where somebody looked at the console, tells of a leak


def _command_line() -> None:
    from greenlang_iot.cli.main import main

    main()


if __name__ == "__main__":
    main()
