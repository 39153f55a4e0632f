"""The topic table under somebody who knows its hash: names that collide, names that come for ever."""

import itertools

import numpy as np
import pytest
from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.decode.kernels_topics import hash_bytes, insert_topics
from greenlang_iot.decode.topics import TopicTable
from greenlang_iot.model.batches import U64
from greenlang_iot.model.jit import JIT_DISABLED
from greenlang_iot.settings.model import LimitSettings

TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
NOW = 1_714_566_896_789_000_000
NAMES = 32 if JIT_DISABLED else 128
SLOTS = 4 * NAMES


def colliding(key: int) -> list[bytes]:
    """Topics that all begin their search at the same slot, for whoever knows the key."""
    found: list[bytes] = []
    for number in itertools.count():
        topic = b"greenlang/acme/s/%08d/telemetry" % number
        padded = np.frombuffer(topic + bytes(8), np.uint8)
        h = int(hash_bytes(padded, 0, len(topic), np.uint64(key)))
        if h & (SLOTS - 1) == 7:
            found.append(topic)
        if len(found) == NAMES:
            return found
    raise AssertionError("never")


def probes(topics: list[bytes], key: int) -> float:
    """Slots that a lookup of these topics looks at, on average, in a table that holds them."""
    blob = np.frombuffer(b"".join(topics) + bytes(8), np.uint8).copy()
    off = np.zeros(len(topics) + 1, np.int64)
    np.cumsum([len(topic) for topic in topics], out=off[1:])
    slots: U64 = np.zeros(SLOTS, np.uint64)
    insert_topics(0, len(topics), np.ones(len(topics), np.uint8), slots, blob, off, np.uint64(key))
    places = {
        int(s & np.uint64(0xFFFF_FFFF)) - 1: at
        for at, s in enumerate(slots.tolist() and slots)
        if s
    }
    looked = 0
    for device in range(len(topics)):
        h = int(
            hash_bytes(blob, int(off[device]), int(off[device + 1] - off[device]), np.uint64(key))
        )
        looked += (places[device] - h) % SLOTS + 1
    return looked / len(topics)


def test_topics_made_to_collide_for_a_known_key_do_not_for_a_drawn_one() -> None:
    crafted = colliding(key=0)
    assert probes(crafted, key=0) == (NAMES + 1) / 2, "the attack works where the key is known"
    assert max(probes(crafted, key) for key in range(1, 40)) < 2.0
    harmless = [b"greenlang/acme/s/d%07d/telemetry" % n for n in range(NAMES)]
    assert max(probes(harmless, key) for key in range(40)) < 2.0


def test_the_key_is_drawn_for_every_table() -> None:
    keys = {int(TopicTable(directory(2), Decoder(directory(2), LimitSettings(), TEMPLATE)._template).key)
            for _ in range(4)}  # fmt: skip
    assert len(keys) == 4
    assert 0 not in keys


def test_an_equal_hash_is_not_an_equal_topic() -> None:
    """With all hashes equal the bytes still decide, whoever is looked for."""
    registry = directory(8)
    decoder = Decoder(registry, LimitSettings(), TEMPLATE)
    table = decoder._topics
    low, high = np.uint64(0xFFFF_FFFF), np.uint64(0xFFFF_FFFF_0000_0000)
    topic = b"greenlang/acme/site-0/nobody/telemetry"
    h = hash_bytes(np.frombuffer(topic + bytes(8), np.uint8), 0, len(topic), table.key)
    # every device claims the hash of a topic that is nobody's, from its first slot on
    start = int(h & low) & (len(table.slots) - 1)
    table.slots[:] = 0
    for device in range(8):
        slot = (start + device) & (len(table.slots) - 1)
        table.slots[slot] = (h & high) | np.uint64(device + 1)
    found = np.zeros(1, np.int32)
    table.find(frame_batch([(topic, b"", False)]), found)
    assert found.tolist() == [-1]


def messages(names: range) -> list[tuple[bytes, bytes, bool]]:
    return [
        (b"greenlang/acme/site-0/u%d/telemetry" % n,
         b'{"ts":%d,"values":{%s}}' % (NOW, b",".join(b'"m%d":1' % (n + k) for k in range(4))), False)
        for n in names
    ]  # fmt: skip


@pytest.mark.parametrize("unknown", ["reject", "accept"])
def test_unknown_devices_cost_no_more_than_the_bound(unknown: str) -> None:
    """Ten thousand names, each with its own metrics: series, lookups and table stay as large as allowed."""
    limits = LimitSettings.model_validate(
        {"unknown_devices": unknown, "max_unknown_devices": 50, "max_metrics_per_unknown_device": 3}
    )
    decoder = Decoder(directory(4), limits, TEMPLATE)
    accepted = 0
    for start in range(0, 10_000, 1_000):
        found = decoder.decode(
            frame_batch(messages(range(start, start + 1_000)), received_ns=NOW), NOW
        )
        accepted += found.readings.n
    place = decoder.directory
    guests = 50 if unknown == "accept" else 0
    assert (place.n_devices, accepted) == (4 + guests, 3 * guests)
    assert place.n_series == 8 + 3 * guests
    assert len(decoder._topics.slots) <= 128
