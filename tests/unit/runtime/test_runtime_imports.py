"""The parent starts with what it needs: everything heavy is loaded by shards, or when somebody looks."""

import subprocess
import sys

HEAVY = ("numba", "river", "duckdb", "pyarrow", "aiokafka")


def test_the_parent_imports_nothing_heavy() -> None:
    code = "import sys, greenlang_iot.cli.run, greenlang_iot.runtime.gateway; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()).isdisjoint(HEAVY)
