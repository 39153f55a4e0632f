"""The slow, obvious twin of the line-protocol kernel."""

import re

from greenlang_iot.model.batches import ReadingBatch, ScoreBatch
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import DUPLICATE, HAS_SEQ, SUSPECT, TEXT_IN_ARENA


def escape(name: str) -> str:
    return re.sub(r"([,= ])", r"\\\1", name)


def value_text(batch: ReadingBatch, row: int) -> str:
    source = batch.arena if batch.flags[row] & TEXT_IN_ARENA else batch.buffer
    off = int(batch.text_off[row])
    return source[off : off + int(batch.text_len[row])].tobytes().decode()


def encode(
    directory: Directory, batch: ReadingBatch, scores: ScoreBatch, *, tiebreak: bool = False
) -> list[str]:
    """The lines of a batch, without newlines."""
    lines: list[tuple[tuple[int, int, int], dict[str, str]]] = []
    for row in range(batch.n):
        flags = int(batch.flags[row])
        if flags & DUPLICATE:
            continue
        series = int(batch.series[row])
        stamp = int(batch.ts_ns[row])
        if tiebreak and flags & HAS_SEQ:
            stamp += int(batch.seq[row]) % 1000
        place = (int(batch.frame[row]), int(directory.series_device[series]), stamp)
        metric = escape(directory.metric[int(directory.series_metric[series])])
        if not lines or lines[-1][0] != place or metric in lines[-1][1]:
            lines.append((place, {}))
        fields = lines[-1][1]
        fields[metric] = value_text(batch, row)
        if scores.verdict[row] & SUSPECT:
            score = 1 - 10 ** -float(scores.score[row])
            fields[f"{metric}_score"] = f"{score:.6f}"
    return [
        f"{head(directory, device)} {','.join(f'{k}={v}' for k, v in fields.items())} {stamp}"
        for (_, device, stamp), fields in lines
    ]


def head(directory: Directory, device: int) -> str:
    tags = {
        "device": directory.device[device],
        "org": directory.org[int(directory.org_of[device])],
        "site": directory.site[int(directory.site_of[device])],
        "type": directory.type[int(directory.type_of[device])],
    }
    return "telemetry," + ",".join(f"{key}={escape(value)}" for key, value in tags.items())
