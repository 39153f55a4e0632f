"""The detectors' memory as bytes: versioned, checksummed, keyed by device and metric names, a piece at a time.

    magic (16) · format version u32 · 0 u32 · header length u64 · header (JSON)
    · pieces: length u64 · COUNTS · columns
    · 0 u64 · length u64 · what the second stage keeps (JSON) · CRC-32C of all before u32

A piece holds the series of some devices: of its devices the place in the directory of then (int32), length (int32) and
bytes of the id; of its metrics length and bytes; of its series the device and the metric (int32, within the piece), rows,
z of the newest reading (float32) and, where anything is, what is known of siblings (kernels_siblings.SIBLING).

The header names every field of the rows, so a later layout reads an earlier one: fields that it
does not know are ignored, fields that are missing start empty, and the series learns anew.

Format 1 had all series in one piece, with the sizes of the columns in its header and the CRC-32C in the place of the 0.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from greenlang_iot.detect import state
from greenlang_iot.detect.kernels_context import FAR_ANCHOR, REACH
from greenlang_iot.detect.kernels_siblings import SIBLING
from greenlang_iot.detect.state import Rows
from greenlang_iot.model.batches import F32, I32, I64, U8
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.model.pieces import Body

MAGIC = b"greenlang-detect"
VERSION = 2
_HEAD = struct.Struct("<16sII")
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_COUNTS = struct.Struct("<6Q")
"""Of a piece: devices, bytes of their ids, metrics, bytes of their names, series, siblings."""

STEP = 16_384
"""Rows that are copied at a time: some milliseconds."""

PROCESS_LOCAL = ("recent_connection", "heard_ns")
"""Fields that mean nothing after a restart: stored as zero."""
PIECE = 1 << 20
"""Bytes that are summed up at a time: a thread that does it lets others go on in between."""
MEMORY = ("recent_ts", "floor_ts", "recent_value", "recent_seq")
"""Fields of the duplicate memory: useless one without the others."""
BEGIN_ANEW = (
    *("usual_start", "usual_excess", "stray_start", "stray_excess"),
    *("habit_minute", "habit_days", "habit_peak", "habit_hour"),
    *("early_week", "early_error", "late_week", "late_error", "night_farthest", "day_farthest"),
    *("swing_stay", "swing_longest", "swing_turn", "swing_varies"),
    *("swing_long", "swing_far", "swing_farthest", "swing_run", "swing_count"),
    *("rough", "roughest", "highest", "lowest"),
)
"""Where they are missing, tails start as those of well-behaved noise, no habit is known, every day of the week is like the others, nothing was ever far away, the series never swung, was as rough as its spread allows and ranged as far as its records and hours say; nothing else has to be learnt anew."""
HALVES = ("night_level", "night_seen", "day_level", "day_seen")


@dataclass(slots=True)
class Saved:
    """A piece of a checkpoint, matched to a Directory: `rows[i]` belongs to series `series[i]`."""

    series: npt.NDArray[np.intp]
    rows: Rows
    newest: F32  # z of the newest reading
    siblings: Rows  # as `state.strangers` where nothing was saved


@dataclass(slots=True)
class Piece:
    """A copy of what is known of some series: `parts` touches nothing that lives, and may run in a thread."""

    directory: Directory
    which: npt.NDArray[np.intp]
    rows: Rows
    newest: F32
    siblings: Rows

    def parts(self) -> list[Body]:
        """Its bytes; none where no series was heard."""
        if not len(self.which):
            return []
        for name in PROCESS_LOCAL:
            self.rows[name] = 0
        d = self.directory
        devices, device_of = np.unique(d.series_device[self.which], return_inverse=True)
        metrics, metric_of = np.unique(d.series_metric[self.which], return_inverse=True)
        device_lengths, ids = _pack_texts(d.device, devices)
        metric_lengths, names = _pack_texts(d.metric, metrics)
        columns: list[npt.NDArray[Any]] = [
            *(devices.astype(np.int32), device_lengths, ids, metric_lengths, names),
            *(device_of.astype(np.int32), metric_of.astype(np.int32)),
            *(self.rows, self.newest, self.siblings),
        ]
        counts = _COUNTS.pack(
            *(len(devices), len(ids), len(metrics), len(names)),
            *(len(self.which), len(self.siblings)),
        )
        body: list[Body] = [column.view(np.uint8).reshape(-1).data for column in columns]
        return [_LENGTH.pack(len(counts) + sum(map(len, body))), counts, *body]


class Snapshot:
    """A checkpoint that is taken a piece at a time, while readings go on being learnt.

    Series of different devices know nothing of each other, and those of a device are in one piece, so each piece may be
    as it was at its own moment: whether a reading is a duplicate is asked of its own row alone. A Directory that grows
    meanwhile has rows of its own: this goes on with the ones it began with.

    The bytes are `head()`, the parts of each piece in order, `tail()`, and `checksum` of all these.
    """

    def __init__(self, directory: Directory, rows: Rows, newest: F32, siblings: Rows) -> None:
        self._directory = directory
        self._rows = rows
        self._newest = newest if len(newest) == len(rows) else np.zeros(len(rows), np.float32)
        self._siblings = siblings  # a row each, or none at all
        self._at = 0

    @property
    def done(self) -> bool:
        """Is every row copied?"""
        return self._at >= len(self._rows)

    def step(self, rows: int = STEP) -> Piece:
        """Copy the next so many rows, and the others of the last one's device."""
        at, end = self._at, min(self._at + rows, len(self._rows))
        if at < end:
            d = self._directory
            end = int(d.series_start[d.series_device[end - 1] + 1])
        self._at = end
        seen = np.flatnonzero(state.seen(self._rows[at:end]))
        return Piece(
            self._directory,
            seen + at,
            state.picked(self._rows[at:end], seen),
            self._newest[at:end][seen],
            state.picked(self._siblings[at:end], seen) if len(self._siblings) else self._siblings,
        )


def head() -> list[Body]:
    """What a checkpoint begins with."""
    fields = [
        [name, dtype.base.str, list(dtype.shape), offset]
        for name, (dtype, offset, *_) in (state.ROW.fields or {}).items()
    ]
    header = json.dumps({"stride": state.ROW.itemsize, "fields": fields}).encode()
    return [_HEAD.pack(MAGIC, VERSION, 0), _LENGTH.pack(len(header)), header]


def tail(extra: dict[str, Any]) -> list[Body]:
    """What follows its pieces. extra: what the second stage keeps, as plain JSON types."""
    text = json.dumps(extra).encode()
    return [_LENGTH.pack(0), _LENGTH.pack(len(text)), text]


def add(parts: list[Body], crc: int = 0) -> int:
    """The CRC-32C of what had `crc`, and these parts."""
    for part in parts:
        for start in range(0, len(part), PIECE):
            crc = crc32c(part[start : start + PIECE], crc)
    return crc


def checksum(crc: int) -> bytes:
    """The last bytes of a checkpoint."""
    return _CRC.pack(crc)


def load(blob: Body, directory: Directory) -> tuple[dict[str, Any], Iterator[Saved]]:
    """(what the second stage kept, the series a piece at a time); series that `directory` does not have are left out.

    Raises ValueError with the reason, before anything is read, if the bytes are not a whole checkpoint of a known version.
    """
    view = memoryview(blob)
    if len(view) < _HEAD.size + _LENGTH.size:
        raise ValueError("the checkpoint is cut short")
    magic, version, crc = _HEAD.unpack_from(view)
    if magic != MAGIC:
        raise ValueError("not a detector checkpoint")
    if version not in (1, VERSION):
        raise ValueError(f"checkpoint format {version} is not known here (known: 1, {VERSION})")
    if version == 1:
        whole = add([view[_HEAD.size :]]) == crc
    else:
        whole = _CRC.unpack(view[-_CRC.size :])[0] == add([view[: -_CRC.size]])
    if not whole:
        raise ValueError("the checkpoint is damaged: its checksum does not match")
    (length,) = _LENGTH.unpack_from(view, _HEAD.size)
    start = _HEAD.size + _LENGTH.size + length
    header = json.loads(bytes(view[_HEAD.size + _LENGTH.size : start]))
    places = _Places(directory)
    if version == 1:
        return header["extra"], iter([_first_format(header, view[start:], places)])
    starts = []
    while size := _LENGTH.unpack_from(view, start)[0]:
        starts.append(start + _LENGTH.size)
        start += _LENGTH.size + size
    (length,) = _LENGTH.unpack_from(view, start + _LENGTH.size)
    start += 2 * _LENGTH.size
    extra = json.loads(bytes(view[start : start + length]))
    return extra, (_piece(header, view[at:], places) for at in starts)


def _piece(header: dict[str, Any], view: memoryview, places: "_Places") -> Saved:
    counts = _COUNTS.unpack_from(view)
    n_devices, ids, n_metrics, names, n, n_siblings = counts
    sizes = [
        *(4 * n_devices, 4 * n_devices, ids, 4 * n_metrics, names, 4 * n, 4 * n),
        *(n * header["stride"], 4 * n, n_siblings * SIBLING.itemsize),
    ]
    parts = _split(view[_COUNTS.size :], sizes)
    guess = np.frombuffer(parts[0], np.int32)
    device = places.devices(parts[1], parts[2], guess)[np.frombuffer(parts[5], np.int32)]
    metric = places.metrics(parts[3], parts[4])[np.frombuffer(parts[6], np.int32)]
    siblings = np.frombuffer(parts[9], SIBLING) if n_siblings else state.strangers(n)
    newest = np.frombuffer(parts[8], np.float32)
    return _saved(header, n, parts[7], places.series(device, metric), newest, siblings)


def _first_format(header: dict[str, Any], view: memoryview, places: "_Places") -> Saved:
    n, parts = header["series"], _split(view, header["sizes"])
    device = places.devices(parts[0], parts[1])[np.frombuffer(parts[4], np.int32)]
    metric = places.metrics(parts[2], parts[3])[np.frombuffer(parts[5], np.int32)]
    # the earliest have no such columns
    newest = np.frombuffer(parts[7], np.float32) if len(parts) > 7 else np.zeros(n, np.float32)
    siblings = state.strangers(n)
    if len(parts) > 8 and len(parts[8]) == siblings.nbytes:
        siblings[:] = np.frombuffer(parts[8], SIBLING)
        _without_marks(siblings)
    return _saved(header, n, parts[6], places.series(device, metric), newest, siblings)


def _saved(
    header: dict[str, Any],
    n: int,
    rows: memoryview,
    series: npt.NDArray[np.intp],
    newest: F32,
    siblings: Rows,
) -> Saved:
    saved = _named_rows(header, rows, n)
    known = np.flatnonzero(series >= 0)
    if len(known) == n:
        return Saved(series, _current_layout(saved), newest, siblings)
    saved = saved[known]
    return Saved(series[known], _current_layout(saved), newest[known], siblings[known])


def _split(view: memoryview, sizes: list[int]) -> list[memoryview]:
    ends = np.cumsum(sizes).tolist()
    return [view[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _pack_texts(texts: Texts, which: I32) -> tuple[I32, U8]:
    """(lengths, bytes) of some texts."""
    length = texts.off[which + 1] - texts.off[which]
    before = np.cumsum(length) - length
    at = np.arange(int(length.sum())) + np.repeat(texts.off[which] - before, length)
    return length.astype(np.int32), texts.blob[at]


class _Places:
    """Where the names of a checkpoint are in a Directory; −1 where they are not."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._by_id: dict[bytes, int] | None = None
        self._by_name = _index(directory.metric)

    def devices(self, lengths: memoryview, ids: memoryview, guess: I32 | None = None) -> I64:
        """guess: where each was when it was saved."""
        texts = self._directory.device
        if guess is not None and len(guess) and guess.max() < len(texts):
            length, raw = _pack_texts(texts, guess)
            if length.data == lengths.cast("i") and raw.data == ids:
                return guess.astype(np.int64)
        if self._by_id is None:
            self._by_id = _index(texts)
        return np.array([self._by_id.get(i, -1) for i in _unpack(lengths, ids)], np.int64)

    def metrics(self, lengths: memoryview, names: memoryview) -> I64:
        return np.array([self._by_name.get(n, -1) for n in _unpack(lengths, names)], np.int64)

    def series(self, device: I64, metric: I64) -> npt.NDArray[np.intp]:
        """Index of the series (device, metric)."""
        d = self._directory
        series = np.full(len(device), -1, np.intp)
        left = np.flatnonzero((device >= 0) & (metric >= 0))
        at = d.series_start[device[left]]
        while True:
            there = at < d.series_start[device[left] + 1]
            left, at = left[there], at[there]
            if not len(left):
                return series
            hit = d.series_metric[at] == metric[left]
            series[left[hit]] = at[hit]
            left, at = left[~hit], at[~hit] + 1


def _index(texts: Texts) -> dict[bytes, int]:
    data, off = texts.blob.tobytes(), texts.off.tolist()
    return {data[off[i] : off[i + 1]]: i for i in range(len(texts))}


def _unpack(lengths: memoryview, blob: memoryview) -> list[bytes]:
    ends = np.cumsum(np.frombuffer(lengths, np.int32)).tolist()
    data = blob.tobytes()
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _without_marks(siblings: Rows) -> None:
    """Records of before `begun`: there a set was none where its time was NO_TS."""
    none = siblings["set_ts"] == state.NO_TS
    siblings["set_ts"][none] = 0
    siblings["begun"] |= siblings["set_ts"] != 0


def _named_rows(header: dict[str, Any], data: memoryview, n: int) -> Rows:
    names, formats, shapes, offsets = zip(*header["fields"], strict=True)
    dtype = np.dtype(
        {
            "names": names,
            "formats": [(f, tuple(s)) for f, s in zip(formats, shapes, strict=True)],
            "offsets": offsets,
            "itemsize": header["stride"],
        }
    )
    return np.frombuffer(data, dtype, n)


def _current_layout(saved: Rows) -> Rows:
    """`saved` as ROW: fields of the same name and shape are taken, the rest start empty.

    Numbers of another size are converted; counts stop at the largest number of today's field.
    """
    if saved.dtype == state.ROW:
        return saved
    rows = state.fresh(len(saved))
    there: Mapping[str, Any] = saved.dtype.fields or {}
    taken = {
        name
        for name, field in (state.ROW.fields or {}).items()
        if name in there and there[name][0].shape == field[0].shape
    }
    missing = set(state.ROW.names or ()) - taken - set(PROCESS_LOCAL)
    missing -= set(BEGIN_ANEW)
    if missing & set(MEMORY):
        taken -= set(MEMORY)
    for name in taken - set(PROCESS_LOCAL):
        column = saved[name]
        if rows[name].dtype.kind in "iu":
            column = np.ceil(column) if column.dtype.kind == "f" else column
            column = np.minimum(column, np.iinfo(rows[name].dtype).max)
        with np.errstate(over="ignore"):
            rows[name] = column
    if "hour_level" in there and "hour_seen" in there:  # before the day was kept in halves
        for name in ("level", "seen"):
            for half, hours in (("night", slice(0, state.HALF)), ("day", slice(state.HALF, None))):
                rows[f"{half}_{name}"] = saved[f"hour_{name}"][:, hours]
        missing -= set(HALVES)
        rows["outside"] = 0  # their level was an absolute one
    if "early_week" not in there:
        rows["early_error"] = rows["late_error"] = rows["hour_error"]
    if "anchor" in there:
        _from_anchor(rows, saved["anchor"])
    if "highest" not in there:
        _range(rows)
    if "roughest" not in there:  # a step is the difference of two deviations
        rows["roughest"] = 2.0 * rows["spread"]
    if missing - set(MEMORY):
        rows["n"] = 0
    return rows


FROM_ANCHOR = (
    "slow_level",
    "night_level",
    "day_level",
    "swing_turn",
    "swing_far",
    "swing_farthest",
)
"""Fields that are above the anchor; highest and lowest are younger than its present size."""


def _from_anchor(rows: Rows, before: npt.NDArray[np.floating[Any]]) -> None:
    """An anchor of before was a float64: what is above it is above one that is rounded."""
    rows["anchor"] = np.clip(before, -FAR_ANCHOR, FAR_ANCHOR)
    off = np.clip(before - rows["anchor"], -REACH, REACH)
    for name in FROM_ANCHOR:
        column = rows[name]
        column += (off if column.ndim == 1 else off[:, None]).astype(np.float32)


def _range(rows: Rows) -> None:
    """What a row of before says of the range: no value was farther from the slow level than it remembers, and hours reach as far as their levels."""
    farthest = np.maximum(rows["night_farthest"], rows["day_farthest"])
    for half in ("night", "day"):
        off = np.abs(rows[f"{half}_level"] - rows["slow_level"][:, None])
        off[rows[f"{half}_seen"] == 0] = 0.0
        farthest = np.maximum(farthest, off.max(axis=1) + 10.0 * rows["size_mean"])
    rows["highest"] = rows["slow_level"] + farthest
    rows["lowest"] = rows["slow_level"] - farthest
