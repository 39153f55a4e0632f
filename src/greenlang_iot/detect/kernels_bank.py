"""What the second stage looks at: the newest z of each series, and an observation's features."""

from greenlang_iot.model.batches import F32, F64, I32, I64, U16
from greenlang_iot.model.flags import NOT_LEARNT
from greenlang_iot.model.jit import kernel, leaf

DAY_NS = 86_400_000_000_000


@leaf
def squash(z: float) -> float:
    """Any z into (0, 1), steepest where normal readings are."""
    return 0.5 + 0.5 * z / (4.0 + abs(z))


@kernel
def observe(
    n: int,
    series: I32,
    ts_ns: I64,
    flags: U16,
    z: F32,
    change: F32,
    newest: F32,
    rows: I64,
    first: I64,
    places: I32,
    places_at: I64,
    features: F64,
) -> None:
    """Go through a batch of n readings: note the newest z of each series, and write the features of `rows`, in
    ascending order, as they stood at each of them.

    first: of each row's device, its first series. places[places_at[i]:places_at[i + 1]]: of row i, by column which
    of the device's series it is, −1: none. features: for each row its columns, the change of the reading and its
    time of day; so row i begins at places_at[i] + 2 i. Of several readings of a series the newest counts.
    """
    done = 0
    for i in range(len(rows) + 1):
        end = int(rows[i]) + 1 if i < len(rows) else n
        for row in range(done, end):
            if flags[row] & NOT_LEARNT == 0:
                newest[series[row]] = z[row]
        done = end
        if i == len(rows):
            break
        out = int(places_at[i]) + 2 * i
        for place in range(places_at[i], places_at[i + 1]):
            at = int(places[place])
            features[out] = squash(float(newest[first[i] + at])) if at >= 0 else 0.5
            out += 1
        features[out] = squash(float(change[end - 1]))
        features[out + 1] = (ts_ns[end - 1] % DAY_NS) / DAY_NS
