"""Compile every kernel of the room once, before shards are forked."""

import numpy as np

from greenlang_iot.detect import kernels, kernels_arrival, kernels_lanes, state
from greenlang_iot.detect.kernels_bank import adjust, choose, observe, weigh
from greenlang_iot.detect.kernels_forest import forest_observe
from greenlang_iot.detect.kernels_siblings import SIBLING
from greenlang_iot.detect.limits import LIMIT


def warm() -> None:
    """Call the kernels with empty columns of the real dtypes."""
    f32 = np.zeros(0, np.float32)
    i64 = np.zeros(0, np.int64)
    u8 = np.zeros(0, np.uint8)
    rows = state.unheard(0)
    kernels.score_batch(
        0,
        np.zeros(0, np.int32),
        i64,
        np.zeros(0, np.float64),
        i64,
        i64,
        np.zeros(0, np.uint16),
        0,
        0,
        2,
        rows,
        state.halves(rows),
        state.weeks(rows),
        state.aligned(0, LIMIT),
        np.zeros(0, np.int32),
        state.aligned(0, SIBLING),
        f32,
        u8,
        u8,
        f32,
        f32,
        f32,
        f32,
        *kernels_lanes.room(),
    )
    kernels_arrival.recognise_batch(
        0,
        np.zeros(0, np.int32),
        i64,
        np.zeros(0, np.float64),
        i64,
        i64,
        np.zeros(0, np.uint16),
        0,
        0,
        rows,
        state.aligned(0, LIMIT),
        np.zeros(0, np.int32),
    )
    i32, f64 = np.zeros(1, np.int32), np.zeros(1)
    none, u16 = np.zeros((0, 2)), np.zeros(0, np.uint16)
    forest_observe(1, 0, 0.0, i32, f64, i32, i32, 1, 1, 0, none, u8, f64)
    choose(0, i32, u16, u8, f32, f32, 0, 1, 0, 0, 0, False, i64, u8)
    observe(0, i32, i64, u16, f32, f32, f32, i64, i64, i32, i64, i64, f64)
    weigh(none, u8, 0, 0, 0, 0.0, f64, f64, f64)
    adjust(i64, f64, i32, i32, state.aligned(0, LIMIT), f32, u8, u8)
