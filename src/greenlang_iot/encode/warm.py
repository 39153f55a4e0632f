"""Compiles every kernel of the encoders, so that it happens in one place before shards are forked."""

import numpy as np

from greenlang_iot.encode.lines import LineEncoder
from greenlang_iot.encode.records import RecordEncoder
from greenlang_iot.model.batches import SLACK, ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.model.protocols import OpenChunk
from greenlang_iot.settings.model import InfluxSettings


def warm() -> None:
    """Encode one reading of one device with each encoder."""
    directory, batch, scores = _one_reading()
    encoders: tuple[OpenChunk, ...] = (
        LineEncoder(directory, InfluxSettings()),
        RecordEncoder(directory, 1, "none", 1_024),
    )
    for encoder in encoders:
        encoder.append(batch, scores)
        encoder.seal()


def _one_reading() -> tuple[Directory, ReadingBatch, ScoreBatch]:
    name = Texts(np.frombuffer(b"a", np.uint8).copy(), np.array([0, 1], np.int64))
    one32 = np.zeros(1, np.int32)
    one64 = np.zeros(1, np.int64)
    directory = Directory(
        device=name,
        org=name,
        site=name,
        type=name,
        org_of=one32,
        site_of=one32,
        type_of=one32,
        enabled=np.ones(1, np.uint8),
        series_start=np.array([0, 1], np.int64),
        series_device=one32,
        series_metric=one32,
        series_unit=one32,
        low=np.zeros(1),
        high=np.zeros(1),
        warn_low=np.zeros(1),
        warn_high=np.zeros(1),
        step=np.zeros(1),
        interval_ns=one64,
        profile=np.zeros(1, np.uint8),
        series_enabled=np.ones(1, np.uint8),
        reference=np.full(1, -1, np.int32),
        tolerance=np.zeros(1),
        metric=name,
        unit=name,
        unit_from=one32[:0],
        unit_to=one32[:0],
        unit_factor=np.zeros(0),
        unit_shift=np.zeros(0),
    )
    batch = ReadingBatch(
        n=1,
        series=one32,
        ts_ns=one64,
        value=np.zeros(1),
        seq=one64,
        flags=np.zeros(1, np.uint16),
        frame=one32,
        text_off=one32,
        text_len=np.ones(1, np.int16),
        buffer=np.full(SLACK, ord("0"), np.uint8),
        arena=np.zeros(1, np.uint8),
        connection=0,
        received_ns=0,
    )
    scores = ScoreBatch(
        n=1,
        score=np.zeros(1, np.float32),
        detector=np.zeros(1, np.uint8),
        verdict=np.zeros(1, np.uint8),
        expected=np.zeros(1, np.float32),
        band=np.zeros(1, np.float32),
    )
    return directory, batch, scores
