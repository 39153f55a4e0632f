"""Quality figures as rows of the lake's table and as line protocol (measurement `iot_quality`)."""

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from greenlang_iot.encode.escapes import line_head
from greenlang_iot.quality.figures import FIGURES, Scopes
from greenlang_iot.quality.record import (
    ACCURATE,
    ARRIVED,
    INCONSISTENT,
    JUDGED,
    ON_TIME,
    RECEIVED,
    REJECTED,
)
from greenlang_iot.settings.model import QualitySettings

MEASUREMENT = "iot_quality"
_COUNTS = {
    "received": RECEIVED,
    "arrived": ARRIVED,
    "on_time": ON_TIME,
    "rejected": REJECTED,
    "inconsistent": INCONSISTENT,
    "judged": JUDGED,
    "accurate": ACCURATE,
}


def quality_rows(scope: str, scopes: Scopes, settings: QualitySettings) -> pa.Table:
    """Rows of the table `quality`; scope: fleet, site or device."""
    n = len(scopes)
    figures, below = scopes.figures(), scopes.below(settings)
    names = pa.array(np.array(FIGURES)[below.nonzero()[1]], pa.string())
    ends = np.concatenate(([0], below.sum(axis=1).cumsum())).astype(np.int32)
    columns = {
        "scope": pa.repeat(scope, n),
        "org": pa.array(scopes.org),
        "site": pa.array(scopes.site),
        "device": pa.array(scopes.device),
        "ts": pa.repeat(scopes.to_ns, n),
        "seconds": pa.repeat((scopes.to_ns - scopes.from_ns) / 1e9, n),
        **{f: pa.array(figures[:, c], from_pandas=True) for c, f in enumerate(FIGURES)},
        "skew": pa.array(scopes.skew, from_pandas=True),
        "below": pa.ListArray.from_arrays(ends, names),
        "expected": pa.array(scopes.expected),
        **{name: pa.array(scopes.counts[:, field]) for name, field in _COUNTS.items()},
    }
    return pa.table(columns)


def quality_lines(scope: str, scopes: Scopes) -> Iterator[bytes]:
    """One line per row, without its newline; its time is the end of the window (ns).

    Tags: scope, org, site, device. Fields: the figures, skew, expected, received. What is not known is
    left out.
    """
    figures = scopes.figures().tolist()
    received = scopes.counts[:, RECEIVED].tolist()
    places = zip(scopes.org, scopes.site, scopes.device, strict=True)
    for row, (org, site, device) in enumerate(places):
        head = line_head(MEASUREMENT, {"scope": scope, "org": org, "site": site, "device": device})
        fields = dict(zip(FIGURES, figures[row], strict=True))
        fields["skew"] = float(scopes.skew[row])
        written = [f"{k}={v!r}" for k, v in fields.items() if not math.isnan(v)]
        written += [f"expected={float(scopes.expected[row])!r}", f"received={received[row]}i"]
        yield head + f"{','.join(written)} {scopes.to_ns}".encode()
