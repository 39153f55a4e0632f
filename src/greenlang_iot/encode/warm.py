"""Compiles every kernel of the encoders, so that it happens in one place before shards are forked."""

from greenlang_iot.encode.lines import warm_lines
from greenlang_iot.encode.records import warm_records


def warm() -> None:
    """Call every kernel once with arrays of the real types."""
    warm_lines()
    warm_records()
