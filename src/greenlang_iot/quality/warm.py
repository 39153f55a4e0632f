"""Compile the room's kernel once, before shards are forked."""

import numpy as np

from greenlang_iot.quality.kernels import count_batch


def warm() -> None:
    """Call it with empty columns of the real dtypes."""
    i32, i64, f32 = np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.float32)
    u8, u16 = np.zeros(0, np.uint8), np.zeros(0, np.uint16)
    f64 = np.zeros(0)
    count_batch(
        0, i32, i64, f64, u16, u8, f32, f32, i32, 0, 0, 1, 0, 0, i32, i64, i32, f64, f64, i64, i64
    )
