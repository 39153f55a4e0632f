"""Columns → InfluxDB line protocol (always with ns time stamps).

    telemetry,device=d1,org=acme,site=north,type=pump temperature=21.5,pressure=3.2 1700000000000000000

The tags come only from the registry; what does not change between messages (measurement, tags, field
names) is escaped once. A value's text is copied as it came: the text of a JSON number is a valid float
of line protocol.
"""

import numpy as np

from greenlang_iot.encode.escapes import escape_key, escape_measurement, line_head
from greenlang_iot.encode.kernels_lines import append_lines
from greenlang_iot.encode.texts import SeriesTexts
from greenlang_iot.model.batches import U8, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory, Texts, packed
from greenlang_iot.model.pieces import Body
from greenlang_iot.settings.model import InfluxSettings

_COPIED = 65_536
"""Bytes of a chunk below which a copy of it costs less than a new buffer."""
_ESCAPED = np.array([*range(0x20), 0x7F, *b"\\,= "], np.uint8)
"""Bytes of which `escape_key` changes something."""


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
        self.grow(directory)

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
        texts = self._texts
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
                texts.place,
                texts.blob,
                texts.heads,
                self._tiebreak,
                self._buffer,
            )
            appended += readings
            if row >= batch.n:
                break
            self._buffer = np.concatenate((self._buffer, np.empty_like(self._buffer)))
        self._rows += appended
        return appended

    def seal(self) -> Body:
        """The lines, each ended by a newline; where they are many, the buffer itself, and a new one is taken."""
        size = self._size
        self._rows = self._size = 0
        if size < _COPIED:
            return self._buffer[:size].tobytes()
        body = self._buffer
        self._buffer = np.empty_like(body)
        body.resize(size, refcheck=False)  # in place: what it does not need is free again
        return body.data

    def grow(self, directory: Directory) -> None:
        """Go on with a newer Directory in which known series keep their index."""
        d = directory
        shape = len(d.org), len(d.site), len(d.type)
        kinds, after_of = np.unique(
            np.ravel_multi_index((d.org_of, d.site_of, d.type_of), shape), return_inverse=True
        )
        places = np.stack(np.unravel_index(kinds, shape), axis=1)
        self._texts = SeriesTexts(
            directory,
            metrics=[_field_keys(directory.metric[m]) for m in range(len(directory.metric))],
            kind=directory.series_metric,
            names=_device_tags(directory.device),
            before=[escape_measurement(self._measurement).encode() + b",device="],
            before_of=np.zeros(directory.n_devices, np.int32),
            after=[
                line_head("", {"org": d.org[org], "site": d.site[site], "type": d.type[kind]})
                for org, site, kind in places.tolist()
            ],
            after_of=after_of.astype(np.int32),
            number=np.zeros(directory.n_devices, np.int32),
            with_key=False,
        )


def _field_keys(metric: str) -> tuple[bytes, bytes]:
    key = escape_key(metric).encode()
    return key + b"=", b",%b_score=" % key


def _device_tags(names: Texts) -> Texts:
    """The names as tag values; mostly they are the same."""
    if not np.isin(names.blob, _ESCAPED).any():
        return names
    return packed([escape_key(names[i]).encode() for i in range(len(names))])
