"""The parent starts with what it needs: everything heavy is loaded by shards, or when somebody looks."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("numba", "river", "duckdb", "pyarrow", "aiokafka")


def test_the_parent_imports_nothing_heavy() -> None:
    """Nor does who sends its alerts, and stores what it says of quality, need kernels."""
    code = (
        "import sys, greenlang_iot.cli.run, greenlang_iot.runtime.gateway; "
        "from greenlang_iot.cli.first_start import tell_first_start; tell_first_start(); "
        "print(*sys.modules); "
        "import greenlang_iot.sinks.kafka, greenlang_iot.sinks.influx; "
        "import greenlang_iot.encode.alert_lines, greenlang_iot.encode.quality; "
        "assert 'numba' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint(HEAVY)


def test_a_shard_imports_what_it_needs() -> None:
    """One process for all of it, since its kernels take a second: no matrices of scipy, which take 0.2 s and can
    still be imported by whoever needs them; no certificates that nobody uses, 0.05 s for each of aiohttp's two
    contexts (ours read them as ever); nothing of the command line, neither with the fork server nor as the main
    module of a console script.
    """
    code = (
        "import ssl, sys; read = ssl.SSLContext.load_default_certs\n"
        "seen = []\n"
        "def load_default_certs(context, *rest): seen.append(context); read(context, *rest)\n"
        "ssl.SSLContext.load_default_certs = load_default_certs\n"
        "import greenlang_iot.model.jit\n"
        "assert not any(name.startswith('scipy.linalg') for name in sys.modules)\n"
        "import greenlang_iot.runtime.preload, aiohttp; assert not seen\n"
        "assert not any(name.startswith(('greenlang_iot.cli', 'typer')) for name in sys.modules)\n"
        "ours = ssl.create_default_context(); assert seen == [ours]\n"
        "assert ssl.SSLContext.set_default_verify_paths is ssl._ssl._SSLContext.set_default_verify_paths\n"
        "import scipy.linalg.cython_blas\n"
        "from greenlang_iot.runtime.forkserver import _hide_main\n"
        "from multiprocessing.spawn import get_preparation_data\n"
        "sys.modules['__main__'].__file__ = '/usr/bin/greenlang-iot'\n"
        "_hide_main()\n"
        "data = get_preparation_data('shard')\n"
        "assert data['init_main_from_name'].endswith('.__main__'), data\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_logs_do_without_rich_and_the_terminal_has_it() -> None:
    code = (
        "import sys; from multiprocessing import forkserver; forkserver.ensure_running = lambda: None; "
        "from greenlang_iot.runtime.forkserver import start_forkserver; start_forkserver(); "
        "import greenlang_iot.observe.logs; "
        "assert 'rich' not in sys.modules; "
        "from rich.console import Console"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["run", "--config", "nowhere.yaml"], "before the command line"),
        (["run", "--help"], "never"),
        (["version"], "never"),
    ],
    ids=" ".join,
)
def test_the_fork_server_starts_before_the_command_line(arguments: list[str], wanted: str) -> None:
    code = (
        "import sys; from multiprocessing import forkserver; seen = []; "
        "forkserver.ensure_running = lambda: seen.append('typer' in sys.modules); "
        f"sys.argv = ['greenlang-iot', *{arguments}]; "
        "from greenlang_iot.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('never' if not seen else 'later' if seen[0] else 'before the command line')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == wanted


def test_a_gateway_in_which_the_lake_was_asked_ends_without_a_word_of_leaks() -> None:
    """What was frozen is not collected at the end, and DuckDB's binding wrote 150 lines about it."""
    code = (
        "import gc, sys; from multiprocessing import forkserver; "
        "forkserver.ensure_running = lambda: None; sys.argv = ['greenlang-iot', 'run']\n"
        "import greenlang_iot.__main__ as program\n"
        "def gateway():\n"
        "    import duckdb\n"
        "    duckdb.connect().sql('SELECT 1').fetchall()\n"
        "    gc.freeze()\n"
        "program._command_line = gateway\n"
        "program.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_start_that_fails_leaves_no_fork_server_compiling(tmp_path: Path) -> None:
    """On a cold cache it went on for a minute, on every core that the next try needs."""
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    run = [sys.executable, "-m", "greenlang_iot", "run", "--config", "nowhere.yaml"]
    # not a pipe: whoever waits for its end would wait for the fork server, which has it too
    done = subprocess.run(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    assert done.returncode == 2
    ours = f"XDG_CACHE_HOME={tmp_path}".encode()

    def left() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if ours in path.read_bytes().split(b"\0"):
                    found.append(path.parent.name)
        return found

    until = time.monotonic() + 5
    while left() and time.monotonic() < until:  # the kernel needs a moment to end a process
        time.sleep(0.01)
    assert left() == []
