"""What the second stage looks at: the newest z of each series, and an observation's features."""

from greenlang_iot.model.batches import F32, F64, I32, U16
from greenlang_iot.model.flags import NOT_LEARNT
from greenlang_iot.model.jit import kernel, leaf

DAY_NS = 86_400_000_000_000


@kernel
def note_newest(start: int, end: int, series: I32, flags: U16, z: F32, newest: F32) -> None:
    """newest[series] = z of the rows start..end that were judged, in order."""
    for row in range(start, end):
        if flags[row] & NOT_LEARNT == 0:
            newest[series[row]] = z[row]


@leaf
def squash(z: float) -> float:
    """Any z into (0, 1), steepest where normal readings are."""
    return 0.5 + 0.5 * z / (4.0 + abs(z))


@kernel
def put_features(first: int, places: I32, newest: F32, change: float, ts_ns: int, out: F64) -> None:
    """Write the features of a device's reading: its series begin at `first`.

    places: by column, which of the device's series it is, −1: none. out: a column each, then the change
    of this reading and its time of day.
    """
    columns = len(places)
    for column in range(columns):
        at = places[column]
        out[column] = squash(float(newest[first + at])) if at >= 0 else 0.5
    out[columns] = squash(change)
    out[columns + 1] = (ts_ns % DAY_NS) / DAY_NS
