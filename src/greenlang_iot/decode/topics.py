"""Topics → devices: a table from a whole topic's bytes to the device."""

import secrets

import numpy as np

from greenlang_iot.decode.kernels_topics import BLOCK, find_topics, insert_topics, write_topics
from greenlang_iot.formats.topics import TopicTemplate
from greenlang_iot.model.batches import I32, I64, U8, U64, FrameBatch
from greenlang_iot.model.directory import Directory, Texts, packed, writable
from greenlang_iot.model.kinds import kinds

_NAME = b"\0"  # in no topic, so it stands for a device's name
_SPARE = 8  # readable bytes after the last topic (wide loads)


class TopicTable:
    """The topics of all enabled devices; lookup compares bytes after the hash matches.

    The hash's key is drawn per table, so nobody outside can aim at one slot.
    The arrays are as `kernels_topics` describes them.
    """

    def __init__(self, directory: Directory, template: TopicTemplate, room: int = 0) -> None:
        """`room`: how many devices may be added later without a new hash table."""
        n = directory.n_devices
        size = 16
        while size < 2 * (n + room):
            size *= 2
        self._template = template
        self.n = 0
        self._hashes: U64 = np.zeros(BLOCK, np.uint64)
        self.key = np.uint64(secrets.randbits(64))
        self.slots: U64 = np.zeros(size, np.uint64)
        self.blob: U8 = np.zeros(_SPARE, np.uint8)
        self.off: I64 = np.zeros(n + room + 1, np.int64)
        self.extend(directory)

    def extend(self, directory: Directory) -> None:
        """Enter the devices that `directory` has and the table has not, at most `room` in all."""
        first, last = self.n, directory.n_devices
        if first == last:
            return
        before, after, place = self._around(directory, first)
        size = (
            np.diff(directory.device.off)[first:]
            + (np.diff(before.off) + np.diff(after.off))[place[first:]]
        )
        start = int(self.off[first])
        self.off[first + 1 : last + 1] = start + np.cumsum(size)
        end = int(self.off[last])
        if end + _SPARE > len(self.blob):
            blob = np.zeros(2 * end + _SPARE if first else end + _SPARE, np.uint8)
            blob[:start] = self.blob[:start]
            self.blob = blob
        write_topics(
            first, last, writable(directory.device.blob), directory.device.off, place,
            before.blob, before.off, after.blob, after.off, self.blob, self.off,
        )  # fmt: skip
        enabled = np.ascontiguousarray(directory.enabled)
        insert_topics(first, last, enabled, self.slots, self.blob, self.off, self.key)
        self.n = last

    def _around(self, directory: Directory, first: int) -> tuple[Texts, Texts, I32]:
        """What stands before and after the name in a topic, and which of them is each device's."""
        orgs, sites = directory.org_of[first:], directory.site_of[first:]
        rows, place = kinds(orgs, sites)
        around = [
            self._template.topic(directory.org.raw(org), directory.site.raw(site), _NAME)
            for org, site in zip(orgs[rows].tolist(), sites[rows].tolist(), strict=True)
        ]
        before, _, after = zip(*(topic.partition(_NAME) for topic in around), strict=True)
        of: I32 = np.zeros(directory.n_devices, np.int32)
        of[first:] = place
        return packed(before), packed(after), of

    def find(self, frames: FrameBatch, device: I32) -> None:
        """Write the device of each frame (−1: not in the table) to `device[:frames.n]`."""
        find_topics(
            frames.n,
            frames.buffer,
            frames.topic_off,
            frames.topic_len,
            self.slots,
            self.blob,
            self.off,
            self.key,
            self._hashes,
            device,
        )
