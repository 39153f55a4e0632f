"""A FrameBatch from topics and payloads, as the transport would have framed it."""

from collections.abc import Sequence

import numpy as np

from greenlang_iot.model.batches import SLACK, FrameBatch
from greenlang_iot.model.flags import FRAME_RETAIN


def frame_batch(
    messages: Sequence[tuple[bytes, bytes, bool]],
    *,
    connection: int = 1,
    received_ns: int = 0,
    filler: int = 0,
) -> FrameBatch:
    """`messages` are (topic, payload, retained); packet ids count from 1.

    filler: what the bytes around the messages are (whatever was in a reused buffer).
    """
    buffer = bytearray([filler] * SLACK)
    columns: list[tuple[int, int, int, int]] = []
    for topic, payload, _ in messages:
        at = len(buffer)
        columns.append((at, len(topic), at + len(topic), len(payload)))
        buffer += topic + payload
    buffer += bytes([filler] * SLACK)
    offsets = np.array(columns, np.int32).reshape(len(messages), 4).T.copy()
    return FrameBatch(
        connection=connection,
        buffer=np.frombuffer(buffer, np.uint8),
        n=len(messages),
        topic_off=offsets[0],
        topic_len=offsets[1],
        payload_off=offsets[2],
        payload_len=offsets[3],
        packet_id=np.arange(1, len(messages) + 1, dtype=np.uint16),
        flags=np.array([FRAME_RETAIN if m[2] else 0 for m in messages], np.uint8),
        received_ns=received_ns,
    )
