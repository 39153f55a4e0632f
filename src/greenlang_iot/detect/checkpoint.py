"""The detectors' memory as bytes: versioned, checksummed, keyed by device and metric names.

    magic (16) · format version u32 · CRC-32C of the rest u32 · header length u64 · header (JSON)
    · device ids · metric names · series → device, metric (int32) · rows · z of the newest readings (float32)
    · what is known of siblings (kernels_siblings.SIBLING), where anything is

The header names every field of the rows, so a later layout reads an earlier one: fields that it
does not know are ignored, fields that are missing start empty, and the series learns anew.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from greenlang_iot.detect import state
from greenlang_iot.detect.kernels_siblings import SIBLING
from greenlang_iot.detect.state import Rows
from greenlang_iot.model.batches import F32, I32, I64
from greenlang_iot.model.directory import Directory, Texts

MAGIC = b"greenlang-detect"
VERSION = 1
_HEAD = struct.Struct("<16sII")
_LENGTH = struct.Struct("<Q")

PROCESS_LOCAL = ("recent_connection", "heard_ns")
"""Fields that mean nothing after a restart: stored as zero."""
PIECE = 1 << 20
"""Bytes that are summed up at a time: a thread that does it lets others go on in between."""
MEMORY = ("recent_ts", "floor_ts", "recent_value", "recent_seq")
"""Fields of the duplicate memory: useless one without the others."""
BEGIN_ANEW = (
    *("usual_start", "usual_excess", "stray_start", "stray_excess"),
    *("habit_minute", "habit_days", "habit_peak", "habit_hour"),
    *("early_week", "early_error", "early_spare", "late_week", "late_error", "late_spare"),
)
"""Where they are missing, tails start as those of well-behaved noise, no habit is known and every day of the week is like the others; nothing else has to be learnt anew."""
HALVES = ("night_level", "night_seen", "day_level", "day_seen")


@dataclass(slots=True)
class Saved:
    """What a checkpoint held, matched to a Directory: `rows[i]` belongs to series `series[i]`."""

    series: npt.NDArray[np.intp]
    rows: Rows
    extra: dict[str, Any]
    newest: F32  # z of the newest reading
    siblings: Rows  # as `state.strangers` where nothing was saved


class Snapshot:
    """A checkpoint that is taken a piece at a time, while readings go on being learnt.

    Series know nothing of each other, so each may be as it was at its own moment. `step` copies; what
    takes long (`parts`) touches nothing that lives, and may run in a thread. A Directory that grows
    meanwhile has rows of its own: this goes on with the ones it began with.
    """

    def __init__(self, directory: Directory, rows: Rows, newest: F32, siblings: Rows) -> None:
        self._directory = directory
        self._rows = rows
        self._newest = newest if len(newest) == len(rows) else np.zeros(len(rows), np.float32)
        self._siblings = siblings  # a row each, or none at all
        self._at = 0
        self._which: list[npt.NDArray[np.intp]] = []
        self._kept: list[Rows] = []
        self._kept_newest: list[F32] = []
        self._kept_siblings: list[Rows] = []

    def step(self, rows: int) -> bool:
        """Copy the next so many rows; True when all are."""
        piece = slice(self._at, self._at + rows)
        seen = np.flatnonzero(state.seen(self._rows[piece]))
        self._which.append(seen + self._at)
        self._kept.append(self._rows[piece][seen])
        self._kept_newest.append(self._newest[piece][seen])
        if len(self._siblings):
            self._kept_siblings.append(self._siblings[piece][seen])
        self._at += rows
        return self._at >= len(self._rows)

    def parts(self, extra: dict[str, Any]) -> list[bytes]:
        """The file's content, in pieces. extra: what the second stage keeps, as plain JSON types."""
        for kept in self._kept:
            for name in PROCESS_LOCAL:
                kept[name] = 0
        which = np.concatenate([np.zeros(0, np.intp), *self._which])
        directory = self._directory
        devices, device_of = np.unique(directory.series_device[which], return_inverse=True)
        metrics, metric_of = np.unique(directory.series_metric[which], return_inverse=True)
        columns: list[list[bytes]] = [
            *(
                [part]
                for part in (
                    *_pack_texts(directory.device, devices),
                    *_pack_texts(directory.metric, metrics),
                )
            ),
            [device_of.astype(np.int32).tobytes()],
            [metric_of.astype(np.int32).tobytes()],
            [kept.tobytes() for kept in self._kept],
            [newest.tobytes() for newest in self._kept_newest],
            [siblings.tobytes() for siblings in self._kept_siblings],
        ]
        fields = [
            [name, dtype.base.str, list(dtype.shape), offset]
            for name, (dtype, offset, *_) in (state.ROW.fields or {}).items()
        ]
        header = json.dumps(
            {
                "series": len(which),
                "stride": state.ROW.itemsize,
                "fields": fields,
                "sizes": [sum(map(len, column)) for column in columns],
                "extra": extra,
            }
        ).encode()
        body = [_LENGTH.pack(len(header)), header, *(part for column in columns for part in column)]
        crc = 0
        for part in body:
            for start in range(0, len(part), PIECE):
                crc = crc32c(part[start : start + PIECE], crc)
        return [_HEAD.pack(MAGIC, VERSION, crc), *body]


def load(blob: bytes, directory: Directory) -> Saved:
    """Read a checkpoint; series that `directory` does not have are left out.

    Raises ValueError with the reason if the bytes are not a whole checkpoint of a known version.
    """
    header, parts = _open(blob)
    devices, metrics = _unpack_texts(parts[0], parts[1]), _unpack_texts(parts[2], parts[3])
    device = _match(devices, directory.device)[np.frombuffer(parts[4], np.int32)]
    metric = _match(metrics, directory.metric)[np.frombuffer(parts[5], np.int32)]
    series = _find(directory, device, metric)
    known = np.flatnonzero(series >= 0)
    saved = _named_rows(header, parts[6])
    # checkpoints of before have no such column
    newest = (
        np.frombuffer(parts[7], np.float32) if len(parts) > 7 else np.zeros(len(saved), np.float32)
    )
    siblings = state.strangers(len(saved))
    if len(parts) > 8 and len(parts[8]) == siblings.nbytes:
        siblings[:] = np.frombuffer(parts[8], SIBLING)
        _without_marks(siblings)
    rows = _current_layout(saved[known])
    return Saved(series[known], rows, header["extra"], newest[known], siblings[known])


def _open(blob: bytes) -> tuple[dict[str, Any], list[memoryview]]:
    if len(blob) < _HEAD.size + _LENGTH.size:
        raise ValueError("the checkpoint is cut short")
    magic, version, crc = _HEAD.unpack_from(blob)
    if magic != MAGIC:
        raise ValueError("not a detector checkpoint")
    if version != VERSION:
        raise ValueError(f"checkpoint format {version} is not known here (known: {VERSION})")
    if crc32c(blob[_HEAD.size :]) != crc:
        raise ValueError("the checkpoint is damaged: its checksum does not match")
    (length,) = _LENGTH.unpack_from(blob, _HEAD.size)
    start = _HEAD.size + _LENGTH.size + length
    header = json.loads(blob[_HEAD.size + _LENGTH.size : start])
    view = memoryview(blob)
    parts = []
    for size in header["sizes"]:
        parts.append(view[start : start + size])
        start += size
    return header, parts


def _pack_texts(texts: Texts, which: I32) -> tuple[bytes, bytes]:
    raw = [texts.raw(int(i)) for i in which]
    return np.array([len(r) for r in raw], np.int32).tobytes(), b"".join(raw)


def _unpack_texts(lengths: memoryview, blob: memoryview) -> list[bytes]:
    ends = np.cumsum(np.frombuffer(lengths, np.int32)).tolist()
    data = blob.tobytes()
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _match(names: list[bytes], texts: Texts) -> I64:
    """Index in `texts` of every name; −1 where there is none."""
    data, off = texts.blob.tobytes(), texts.off.tolist()
    index = {data[off[i] : off[i + 1]]: i for i in range(len(texts))}
    return np.array([index.get(name, -1) for name in names], np.int64)


def _find(directory: Directory, device: I64, metric: I64) -> npt.NDArray[np.intp]:
    """Index of the series (device, metric); −1 where there is none."""
    width = len(directory.metric) + 1
    keys = directory.series_device.astype(np.int64) * width + directory.series_metric
    order = np.argsort(keys, kind="stable")
    wanted = np.where((device >= 0) & (metric >= 0), device * width + metric, -1)
    at = np.searchsorted(keys, wanted, sorter=order)
    found = order[np.minimum(at, len(order) - 1)] if len(order) else np.zeros(len(wanted), np.intp)
    hit = keys[found] == wanted if len(order) else np.zeros(len(wanted), bool)
    return np.where(hit, found, -1)


def _without_marks(siblings: Rows) -> None:
    """Records of before `begun`: there a set was none where its time was NO_TS."""
    none = siblings["set_ts"] == state.NO_TS
    siblings["set_ts"][none] = 0
    siblings["begun"] |= siblings["set_ts"] != 0


def _named_rows(header: dict[str, Any], data: memoryview) -> Rows:
    names, formats, shapes, offsets = zip(*header["fields"], strict=True)
    dtype = np.dtype(
        {
            "names": names,
            "formats": [(f, tuple(s)) for f, s in zip(formats, shapes, strict=True)],
            "offsets": offsets,
            "itemsize": header["stride"],
        }
    )
    return np.frombuffer(data, dtype, header["series"])


def _current_layout(saved: Rows) -> Rows:
    """`saved` as ROW: fields of the same name and shape are taken, the rest start empty.

    Numbers of another size are converted; counts stop at the largest number of today's field.
    """
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
        if column.dtype.kind in "iu":
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
    if missing - set(MEMORY):
        rows["n"] = 0
    return rows
