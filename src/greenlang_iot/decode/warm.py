"""Compile (or load from the cache) every kernel of the room."""

import numpy as np

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.model.batches import SLACK, FrameBatch
from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.settings.model import LimitSettings


def warm() -> None:
    """Decode an empty batch, so that nothing is compiled after shards have been forked."""
    none = np.zeros(0, np.int32)
    frames = FrameBatch(
        connection=0,
        buffer=np.zeros(2 * SLACK, np.uint8),
        n=0,
        topic_off=none,
        topic_len=none,
        payload_off=none,
        payload_len=none,
        packet_id=np.zeros(0, np.uint16),
        flags=np.zeros(0, np.uint8),
    )
    Decoder(_directory(), LimitSettings(), "{org}/{site}/{device}").decode(frames, now_ns=0)


def _directory() -> Directory:
    """One device without series."""
    text = Texts(np.frombuffer(b"x", np.uint8).copy(), np.array([0, 1]))
    i32, f64, u8 = np.zeros(0, np.int32), np.zeros(0), np.zeros(0, np.uint8)
    zero = np.zeros(1, np.int32)
    return Directory(
        device=text, org=text, site=text, type=text,
        org_of=zero, site_of=zero, type_of=zero, enabled=np.ones(1, np.uint8),
        series_start=np.zeros(2, np.int64), series_device=i32, series_metric=i32, series_unit=i32,
        low=f64, high=f64, warn_low=f64, warn_high=f64, step=f64,
        interval_ns=np.zeros(0, np.int64), profile=u8, series_enabled=u8, reference=i32, tolerance=f64,
        metric=text, unit=text,
        unit_from=i32, unit_to=i32, unit_factor=f64, unit_shift=f64,
    )  # fmt: skip
