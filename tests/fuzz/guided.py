"""Coverage-guided runs by hand: atheris on kernels as plain Python, its corpus then on compiled ones.

    python -m venv /tmp/atheris && /tmp/atheris/bin/pip install atheris     (Python 3.11)
    export PYTHONPATH=.venv/lib/python3.11/site-packages:src:.
    NUMBA_DISABLE_JIT=1 /tmp/atheris/bin/python -m tests.fuzz.guided json_payload CORPUS -max_total_time=600
    .venv/bin/python -m tests.fuzz.guided --replay json_payload CORPUS

atheris is no dependency of the project: it has no wheels for every Python that the project runs on.
"""

import sys
from pathlib import Path

REPLAY = "--replay"


def replay(name: str, folder: Path) -> int:
    """Every input of a corpus once; how many."""
    from tests.fuzz.targets import TARGETS

    inputs = sorted(path for path in folder.iterdir() if path.is_file())
    for path in inputs:
        try:
            TARGETS[name](path.read_bytes())
        except BaseException:
            print(f"{name}: {path}", file=sys.stderr)
            raise
    return len(inputs)


def main() -> None:
    if sys.argv[1] == REPLAY:
        name, folder = sys.argv[2], Path(sys.argv[3])
        print(f"{name}: {replay(name, folder)} inputs")
        return
    import atheris  # type: ignore[import-not-found]

    name, folder, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["greenlang_iot"]):
        from tests.fuzz.targets import TARGETS, seeds

    Path(folder).mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (Path(folder) / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], folder, *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
