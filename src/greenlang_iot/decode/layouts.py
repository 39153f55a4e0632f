"""What the scanner has learnt of how messages look; see `kernels_layouts`."""

import numpy as np

from greenlang_iot.decode.kernels_layouts import LAYOUTS, LITERAL, MARKS, MEMORY, PLAN
from greenlang_iot.model.batches import I64, SLACK, U8


class Layouts:
    """Nothing learnt yet, for so many devices."""

    def __init__(self, devices: int) -> None:
        self.plans: I64 = np.zeros(LAYOUTS * PLAN, np.int64)
        self.literals: U8 = np.zeros(LAYOUTS * LITERAL + SLACK, np.uint8)
        self.layout_of: U8 = np.zeros(devices, np.uint8)
        self.following: U8 = np.zeros(LAYOUTS, np.uint8)
        self.memory: I64 = np.zeros(MEMORY, np.int64)
        self.scratch: I64 = np.zeros(MARKS, np.int64)
