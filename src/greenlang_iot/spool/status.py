"""What waits in a log, seen from outside: while its writer runs or when nobody does. Changes nothing."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from greenlang_iot.spool.files import OS_FILES
from greenlang_iot.spool.format import FormatError, Record
from greenlang_iot.spool.reader import list_segments, read_header, read_segment
from greenlang_iot.spool.store import LEDGER


@dataclass(slots=True, frozen=True)
class LogStatus:
    """records: not delivered yet (a record is one chunk). nbytes: on disk, delivered segments that are
    not unlinked yet included. oldest_ns: when the oldest segment with something waiting was begun."""

    records: int
    segments: int
    nbytes: int
    oldest_ns: int | None
    damaged: tuple[str, ...]  # segments whose header cannot be read


def log_status(folder: Path) -> LogStatus:
    """Raises OSError where the folder cannot be read."""
    released = newest_released(folder)
    segments = list_segments(folder)
    last, oldest, damaged, nbytes = released, None, [], 0
    ends = [following.first - 1 for _, following in pairwise(segments)]
    for segment, end in zip(segments, [*ends, 0], strict=False):  # an empty spool has none
        try:
            nbytes += OS_FILES.size(segment.path)
            newest = end or max(
                (i.number if isinstance(i, Record) else i.last for i in read_segment(segment)),
                default=segment.first - 1,
            )
            if newest > released and oldest is None:
                oldest = read_header(segment).created_ns
        except FileNotFoundError:
            continue  # delivered and unlinked since it was listed
        except FormatError:
            damaged.append(segment.path.name)
            continue
        last = max(last, newest)
    first = max(released, segments[0].first - 1 if segments else 0)
    return LogStatus(max(0, last - first), len(segments), nbytes, oldest, tuple(damaged))


def newest_released(folder: Path) -> int:
    """Number of the newest record that was delivered, by the ledger on disk; 0: none, or nobody knows."""
    try:
        return int(json.loads((folder / LEDGER).read_text())["released"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return 0  # nothing was delivered yet, or the writer will put the ledger aside
