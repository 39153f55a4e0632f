"""Property fuzzing of everything that reads bytes from outside; found cases stay here."""

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.targets import TARGETS, seeds

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "40"))

FOUND: dict[str, list[bytes]] = {name: [] for name in TARGETS} | {
    # a good message, then a packet that ends the connection
    "session": [bytes.fromhex("1a 32 09 00 01 74 00 ef fc ff fe 8b ff fe fc 23")],
    "config": [
        b"instance: \x10",  # a character that YAML does not allow
        b"instance: 2024-13-45",  # looks like a date and is none
        b"runtime: {shards: 1:99:99:99}",
        b"? [1, {a: b}]\n: 1",
        b"a: &a [x, x, x, x, x, x, x, x, x]\n"
        + b"".join(
            b"%c: &%c [%b]\n" % (c, c, b", ".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 106)
        ),  # nine aliases of nine aliases of nine
        b"[" * 1_500,
        b"a: " + b"{a: " * 3_000,
    ],
    "alert_rules": [
        b"version: \x10",  # a character that YAML does not allow
        b"version: 2024-13-45",  # looks like a date and is none
        b"version: {a: 1:99:99:99}",
        b"version: 0b",
        b"? [1, {a: b}]\n: 1",
        b"a: &a {<<: *a}",  # a mapping that is merged into itself
        b"a: &a [*a]",
        b"[" * 1_500,
        b"- " * 3_000,
        b"{version: 1, rules: [{name: a, expression: x > 1%b}]}" % (b"0" * 400),
        b"{version: 1, rules: [{name: a, stuck: 1%bh}]}" % (b"0" * 400),
        b"{version: 1, rules: [{name: a, stuck: \xc2\xb2h}]}",
    ],
}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_found_cases(name: str) -> None:
    for case in (*seeds(name), *FOUND[name], b"", b"\x00", b"\xff" * 64):
        TARGETS[name](case)


def mutated(name: str, seed: int) -> bytes:
    """One of the target's seeds with up to six flaws."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(seeds(name)))
    for _ in range(rng.randrange(1, 7)):
        at, kind = rng.randrange(len(data) + 1), rng.randrange(4)
        if kind == 0:
            data[at:at] = rng.randbytes(rng.randrange(1, 5))
        elif kind == 1:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 2 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        else:
            data[at:at] = data[: rng.randrange(40)]
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_broken_inputs(name: str) -> None:
    @settings(max_examples=EXAMPLES)
    @given(st.integers(0, 2**48) | st.binary(max_size=80))
    def run(made: int | bytes) -> None:
        TARGETS[name](made if isinstance(made, bytes) else mutated(name, made))

    run()
