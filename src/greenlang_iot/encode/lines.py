"""Columns → InfluxDB line protocol (always with ns time stamps).

    telemetry,device=d1,org=acme,site=north,type=pump temperature=21.5,pressure=3.2 1700000000000000000

The tags come only from the registry; what does not change between messages (measurement, tags, field
names) is escaped once. A value's text is copied as it came: the text of a JSON number is a valid float
of line protocol.
"""

import re

import numpy as np

from greenlang_iot.encode.kernels_lines import append_lines
from greenlang_iot.model.batches import I32, I64, U8, U64, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.settings.model import InfluxSettings

# A backslash cannot be escaped in a name, and a control character would end the line. The registry
# refuses such names; this keeps one that came another way from breaking its neighbours' lines.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f\\]")
_SPECIAL_IN_KEY = re.compile(r"[,= ]")
_SPECIAL_IN_MEASUREMENT = re.compile(r"[, ]")


def escape_key(name: str) -> str:
    """A tag key, tag value or field key as line protocol writes it."""
    return _SPECIAL_IN_KEY.sub(r"\\\g<0>", _writable(name))


def escape_measurement(name: str) -> str:
    """A measurement as line protocol writes it."""
    return _SPECIAL_IN_MEASUREMENT.sub(r"\\\g<0>", _writable(name))


def _writable(name: str) -> str:
    return _UNWRITABLE.sub(lambda match: f"%{ord(match[0]):02X}", name)


def line_head(measurement: str, tags: dict[str, str]) -> bytes:
    """`measurement,key=value,… ` with the tags sorted by key; empty ones are left out."""
    written = "".join(f",{key}={escape_key(value)}" for key, value in sorted(tags.items()) if value)
    return f"{escape_measurement(measurement)}{written} ".encode()


class Words:
    """Byte strings in whole 64-bit words, as the kernel writes them: text i is the first `lengths[i]`
    bytes of `words[offsets[i]:]`."""

    def __init__(self, items: list[bytes]) -> None:
        self.words: U64 = np.empty(0, np.uint64)
        self.offsets: I64 = np.empty(0, np.int64)
        self.lengths: I32 = np.empty(0, np.int32)
        self.extend(items)

    def __len__(self) -> int:
        return len(self.lengths)

    def extend(self, items: list[bytes]) -> None:
        lengths = np.array([len(item) for item in items], np.int32)
        counts = (lengths.astype(np.int64) + 7) // 8
        padded = b"".join(item.ljust((len(item) + 7) // 8 * 8, b"\0") for item in items)
        offsets = len(self.words) + np.cumsum(counts) - counts
        self.words = np.concatenate((self.words, np.frombuffer(padded, "<u8").astype(np.uint64)))
        self.offsets = np.concatenate((self.offsets, offsets))
        self.lengths = np.concatenate((self.lengths, lengths))


class LineEncoder:
    """An OpenChunk of line protocol: one line per message and time stamp, a field per metric.

    A suspect reading has a second field `<metric>_score` in [0, 1]. Two rows with the same device,
    metric and time stamp keep their order, so that in InfluxDB the last one wins; with
    `tiebreak: seq` the time stamp has seq mod 1000 ns added.
    """

    def __init__(self, directory: Directory, settings: InfluxSettings) -> None:
        self._measurement = settings.measurement
        self._tiebreak = int(settings.tiebreak == "seq")
        self._buffer: U8 = np.empty(settings.chunk_bytes + settings.chunk_bytes // 4, np.uint8)
        self._rows = 0
        self._size = 0
        self._directory = directory
        self._heads = Words(self._line_heads(directory, 0))
        self._keys = Words(_field_keys(directory))

    @property
    def rows(self) -> int:
        """Readings appended since the last seal."""
        return self._rows

    @property
    def size(self) -> int:
        """Bytes of the open chunk."""
        return self._size

    def append(self, batch: ReadingBatch, scores: ScoreBatch) -> int:
        """Encode the batch's readings (DUPLICATE rows are skipped); return how many."""
        directory, heads, keys = self._directory, self._heads, self._keys
        row, appended = 0, 0
        while True:
            row, self._size, readings = append_lines(
                row,
                self._size,
                batch.n,
                batch.series,
                batch.ts_ns,
                batch.seq,
                batch.flags,
                batch.frame,
                batch.text_off,
                batch.text_len,
                batch.buffer,
                batch.arena,
                scores.score,
                scores.verdict,
                directory.series_device,
                directory.series_metric,
                heads.words,
                heads.offsets,
                heads.lengths,
                keys.words,
                keys.offsets,
                keys.lengths,
                self._tiebreak,
                self._buffer,
            )
            appended += readings
            if row >= batch.n:
                break
            self._buffer = np.concatenate((self._buffer, np.empty_like(self._buffer)))
        self._rows += appended
        return appended

    def seal(self) -> bytes:
        """The lines, each ended by a newline (the buffer itself is used again)."""
        body = self._buffer[: self._size].tobytes()
        self._rows = self._size = 0
        return body

    def grow(self, directory: Directory) -> None:
        """Go on with a newer Directory in which known series keep their index."""
        if self._is_extended_by(directory):
            self._heads.extend(self._line_heads(directory, len(self._heads)))
        else:  # reloaded: a device may have moved
            self._heads = Words(self._line_heads(directory, 0))
        self._keys = Words(_field_keys(directory))
        self._directory = directory

    def _is_extended_by(self, directory: Directory) -> bool:
        """Whether every known device stays as it is."""
        old = self._directory
        return all(
            np.array_equal(a, b[: len(a)])
            for a, b in (
                (old.device.off, directory.device.off),
                (old.device.blob, directory.device.blob),
                (old.org_of, directory.org_of),
                (old.site_of, directory.site_of),
                (old.type_of, directory.type_of),
                (old.org.off, directory.org.off),
                (old.org.blob, directory.org.blob),
                (old.site.off, directory.site.off),
                (old.site.blob, directory.site.blob),
                (old.type.off, directory.type.off),
                (old.type.blob, directory.type.blob),
            )
        )

    def _line_heads(self, directory: Directory, first: int) -> list[bytes]:
        """The line heads of the devices from `first` on."""
        return [
            line_head(
                self._measurement,
                {
                    "device": directory.device[d],
                    "org": directory.org[directory.org_of[d]],
                    "site": directory.site[directory.site_of[d]],
                    "type": directory.type[directory.type_of[d]],
                },
            )
            for d in range(first, directory.n_devices)
        ]


def _field_keys(directory: Directory) -> list[bytes]:
    return [escape_key(directory.metric[m]).encode() for m in range(len(directory.metric))]


_UNESCAPED_SPACE = re.compile(rb"(?<!\\) ")
_UNESCAPED_COMMA = re.compile(rb"(?<!\\),")


def readings_in(line: bytes) -> int:
    """How many readings a line of LineEncoder holds (its fields less the scores); 1 for other lines."""
    parts = _UNESCAPED_SPACE.split(line)
    if len(parts) != 3 or b'"' in parts[1]:
        return 1
    keys = [field.partition(b"=")[0] for field in _UNESCAPED_COMMA.split(parts[1])]
    return sum(not key.endswith(b"_score") for key in keys)
