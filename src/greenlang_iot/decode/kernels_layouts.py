"""Layouts: what stays the same from one message of a device to the next.

A layout is an object as it was scanned, cut at its numbers and its ISO time stamp: literal, number, literal,
…, literal. A message with the same literals is that object with other numbers, so nothing of it has to be
scanned or looked up: literals are compared eight bytes a step, and numbers are judged as ever.

plans: PLAN words per layout: words 0 to 2 are the bits of the keys, the readings and how often it was met;
from _STEPS on four words for each literal: its length, what follows it (END, TS, …, VALUE + k), and of
reading k the series within the device and its kind (`tables.Tables`). literals: the texts, LITERAL bytes
per layout. Layout 0 fits nothing.

What is expected of a device is what followed, with whatever device, its last layout (`layout_of`,
`following`): so a device that takes turns with its metrics is followed, too. Layouts are shared by all
devices. One that was never met again before its place was taken says that messages here have little in
common; then less and less is learnt.
"""

from greenlang_iot.decode.kernels_json import epoch_ns, iso_ns, number, to_float
from greenlang_iot.decode.kernels_topics import same_bytes
from greenlang_iot.model.batches import F64, I32, I64, U8
from greenlang_iot.model.jit import fused, leaf
from greenlang_iot.model.kernels_words import load8, peek, poke

LAYOUTS = 64
PLAN = 64
LITERAL = 512
_STEPS = 4
MOST_MARKS = 14
assert _STEPS + 4 * (MOST_MARKS + 1) <= PLAN
MEMORY = 3
"""`memory`: the layout learnt last, messages to pass before the next is learnt, and how many were so lately.
(`scratch`: what `follow` leaves while known layouts are tried.)"""
_LONGEST_PAUSE = 4096

READINGS = 8
"""Where the readings begin in `fields` (see `kernels`)."""
MARKS = READINGS + 4 * 64
"""Where the marks of an object begin: their number, then of each its begin, its end and what it is."""
END, TS, ISO, SEQ, SKIP, VALUE = range(6)

LINE = 8
"""Words of a kind's line in the scanner's table (`tables.Tables`): one cache line."""
LOW, HIGH = 6, 7
_LARGEST_EXPONENT = 200  # as in kernels_json: the number stays finite


@fused
def mark(fields: I64, start: int, stop: int, what: int) -> None:
    """Remember where a number or time stamp stands; more than MOST_MARKS are only counted."""
    n = fields[MARKS]
    if n < MOST_MARKS:
        at = MARKS + 1 + 3 * n
        poke(fields, at, start)
        poke(fields, at + 1, stop)
        poke(fields, at + 2, what)
    fields[MARKS] = n + 1


@fused
def expected(layout_of: U8, following: U8, device: int) -> int:
    """The layout that a device's next message should have; 0: nobody knows."""
    return int(peek(following, int(peek(layout_of, device))))


@fused
def follow(
    plans: I64, literals: U8, layout: int, buffer: U8, i: int, end: int, first: int, last: int,
    kind: I32, bounds: F64, fields: I64, numbers: F64,
) -> int:  # fmt: skip
    """The readings of `buffer[i:end]`, if it has this layout and is good in every respect; else −1.

    Leaves in `fields` and `numbers` what the scanner and the search for series would.
    """
    if layout == 0:
        return -1
    step = PLAN * layout + _STEPS
    literal = LITERAL * layout
    while True:
        length = int(peek(plans, step))
        if i + length > end or not same_bytes(buffer, i, literals, literal, length):
            return -1
        i += length
        literal += length
        what = int(peek(plans, step + 1))
        if what == END:
            break
        if what == ISO:
            if load8(buffer, i) != 34:
                return -1
            i, fields[1] = iso_ns(buffer, i + 1)
        else:
            stop, mantissa, exponent, real, negative = number(buffer, i, end)
            if what >= VALUE:
                k = what - VALUE
                good, x = to_float(mantissa, exponent, real, negative)
                s = first + int(peek(plans, step + 2))
                own = int(peek(plans, step + 3))
                if not good or s >= last or int(peek(kind, s)) != own:
                    return -1
                low = float(peek(bounds, LINE * own + LOW))
                if not low <= x <= float(peek(bounds, LINE * own + HIGH)):
                    return -1
                poke(numbers, k, x)
                poke(fields, READINGS + 4 * k, s)
                poke(fields, READINGS + 4 * k + 2, i)
                poke(fields, READINGS + 4 * k + 3, stop - i)
            elif what == TS:
                fields[1] = epoch_ns(mantissa, exponent, real, negative)
                if fields[1] < 0:
                    return -1
            elif what == SEQ:
                fields[2] = mantissa
                if real or negative:
                    return -1
            elif not -_LARGEST_EXPONENT <= exponent <= _LARGEST_EXPONENT:
                return -1
            i = stop
        if i < 0:
            return -1
        step += 4
    if i != end:
        return -1
    head = PLAN * layout
    fields[0] = int(peek(plans, head))
    poke(plans, head + 2, int(peek(plans, head + 2)) + 1)
    return int(peek(plans, head + 1))


@leaf
def _learn(
    plans: I64, literals: U8, layout: int, buffer: U8, begin: int, end: int, first: int, count: int,
    fields: I64, kind: I32,
) -> bool:  # fmt: skip
    """Write the object in `buffer[begin:end]`, just scanned, as this layout, if it is one."""
    marks = fields[MARKS]
    if not 0 < marks <= MOST_MARKS or count == 0:
        return False
    size = end - begin
    for m in range(marks):
        size -= fields[MARKS + 2 + 3 * m] - fields[MARKS + 1 + 3 * m]
    if size > LITERAL:
        return False
    head = PLAN * layout
    plans[head] = fields[0]
    plans[head + 1] = count
    plans[head + 2] = 0
    literal = LITERAL * layout
    i = begin
    for m in range(marks + 1):
        step = head + _STEPS + 4 * m
        stop = end
        what = END
        if m < marks:
            stop = fields[MARKS + 1 + 3 * m]
            what = fields[MARKS + 3 + 3 * m]
        plans[step] = stop - i
        plans[step + 1] = what
        while i < stop:
            literals[literal] = buffer[i]
            literal += 1
            i += 1
        if m < marks:
            i = fields[MARKS + 2 + 3 * m]
        if what >= VALUE:
            s = fields[READINGS + 4 * (what - VALUE)]
            plans[step + 2] = s - first
            plans[step + 3] = kind[s]
    return True


@leaf
def miss(
    plans: I64, literals: U8, layout_of: U8, following: U8, memory: I64, device: int,
    buffer: U8, begin: int, end: int, first: int, last: int, count: int, fields: I64,
    scratch: I64, numbers: F64, kind: I32, bounds: F64,
) -> None:  # fmt: skip
    """An object was scanned because another layout, or none, was expected: know better next time."""
    if memory[1] > 0:
        memory[1] -= 1
        return
    before = layout_of[device]
    found = 0
    for layout in range(1, LAYOUTS):
        if (
            plans[PLAN * layout + 1]
            and follow(
                plans,
                literals,
                layout,
                buffer,
                begin,
                end,
                first,
                last,
                kind,
                bounds,
                scratch,
                numbers,
            )
            >= 0
        ):
            found = layout
            break
    if found == 0:
        found = 1 + memory[0] % (LAYOUTS - 1)
        taken = plans[PLAN * found + 1] != 0
        wasted = taken and plans[PLAN * found + 2] <= 1
        if not _learn(plans, literals, found, buffer, begin, end, first, count, fields, kind):
            return
        memory[0] = found
        memory[2] = min(2 * memory[2] + 1, _LONGEST_PAUSE) if wasted else 0
        memory[1] = memory[2]
        following[found] = found
    layout_of[device] = found
    following[before] = found
