"""FrameBatches from topics and payloads, as framing would give them."""

from collections.abc import Sequence

import numpy as np

from greenlang_iot.model.batches import SLACK, FrameBatch


def frames(
    messages: Sequence[tuple[str, bytes]],
    *,
    connection: int = 1,
    first_packet_id: int = 1,
    qos: int = 1,
    flags: int = 0,
    received_ns: int = 0,
) -> FrameBatch:
    """One flush of `connection` holding (topic, payload) messages; packet ids count up."""
    parts = [bytes(SLACK)]
    columns: list[tuple[int, int, int, int]] = []
    position = SLACK
    for topic, payload in messages:
        raw = topic.encode()
        columns.append((position, len(raw), position + len(raw), len(payload)))
        parts += [raw, payload]
        position += len(raw) + len(payload)
    parts.append(bytes(SLACK))
    table = np.array(columns, np.int32).reshape(len(messages), 4)
    n = len(messages)
    ids = np.arange(first_packet_id, first_packet_id + n) if qos else np.zeros(n)
    return FrameBatch(
        connection=connection,
        buffer=np.frombuffer(bytearray(b"".join(parts)), np.uint8),
        n=n,
        topic_off=np.ascontiguousarray(table[:, 0]),
        topic_len=np.ascontiguousarray(table[:, 1]),
        payload_off=np.ascontiguousarray(table[:, 2]),
        payload_len=np.ascontiguousarray(table[:, 3]),
        packet_id=ids.astype(np.uint16),
        flags=np.full(n, flags, np.uint8),
        received_ns=received_ns,
    )
