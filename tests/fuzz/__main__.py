"""`make fuzz`: mutated inputs for FUZZ_SECONDS through framing and the JSON kernel.

The last line is one JSON object: per target the inputs, and `disagreements` in all. Ends with 1 and
the input at the first disagreement; a read beyond a buffer ends it with a signal.
"""

import argparse
import json
import os
import sys
import time

from tests.fuzz.framing import Framing
from tests.fuzz.payloads import JsonPayloads

BATCH = 20_000


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    arguments.add_argument("--inputs", type=int, default=0, help="at least so many per target")
    arguments.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    arguments.add_argument("--json-only", action="store_true", help="leave framing out")
    asked = arguments.parse_args()
    print(f"seed {asked.seed}", flush=True)
    versions = {} if asked.json_only else {"framing of MQTT 5": True, "framing of 3.1.1": False}
    framing = {name: Framing(version5, asked.seed) for name, version5 in versions.items()}
    payloads = JsonPayloads(asked.seed)
    targets = {**framing, "JSON": payloads}
    for target in targets.values():  # kernels are compiled, or loaded, before the clock starts
        target.run(100)
    started = time.monotonic()
    wanted = {name: asked.inputs // (1 if name == "JSON" else 2) for name in targets}
    disagreements = 0
    try:
        while time.monotonic() - started < asked.seconds or any(
            target.inputs < wanted[name] for name, target in targets.items()
        ):
            late = time.monotonic() - started >= asked.seconds
            for name, target in targets.items():
                if not late or target.inputs < wanted[name]:
                    target.run(BATCH)
    except AssertionError as error:
        disagreements = 1
        print(error, file=sys.stderr)
    document = {
        "seed": asked.seed,
        "seconds": round(time.monotonic() - started, 1),
        "inputs": {name: target.inputs for name, target in targets.items()},
        "splits": sum(target.splits for target in framing.values()),
        "taken_by_the_scanner": payloads.taken,
        "bounds_checked": os.environ.get("NUMBA_BOUNDSCHECK") == "1",
        "disagreements": disagreements,
    }
    print(json.dumps(document))
    return disagreements


if __name__ == "__main__":
    sys.exit(main())
