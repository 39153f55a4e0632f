"""A shard's window of quality counts as a file in `run/`, from the shard to the parent."""

import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog

from greenlang_iot.model.directory import Directory, Texts
from greenlang_iot.quality.figures import Scopes, skews
from greenlang_iot.quality.record import FIELDS, LEAST_LAG, NO_LAG, RECEIVED, Window

log = structlog.get_logger(__name__)


def window_file(data_dir: Path, shard: int) -> Path:
    return data_dir / "run" / f"quality-{shard}.npz"


def save_window(
    path: Path, window: Window, directory: Directory, owned: npt.NDArray[np.bool_]
) -> None:
    """Replace the file by this window: devices that the shard owns, and whatever else it heard.

    What cannot be written is logged: the parent misses these devices in one window.
    """
    heard = (window.records != np.where(np.arange(FIELDS) == LEAST_LAG, NO_LAG, 0)).any(axis=1)
    heard[: len(owned)] |= owned[: len(heard)]
    rows = np.flatnonzero(heard & (directory.enabled[: len(heard)] != 0))
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(
                file,
                window=np.array([window.from_ns, window.to_ns]),
                expected=window.expected[rows],
                records=window.records[rows],
                device=_names(directory.device, rows),
                org=_names(directory.org, directory.org_of[rows]),
                site=_names(directory.site, directory.site_of[rows]),
            )
        temporary.replace(path)
    except OSError as error:
        log.error("quality figures of a window are missing", file=str(path), why=str(error))


def reported(owned: npt.NDArray[np.bool_], layout: str) -> npt.NDArray[np.bool_]:
    """Devices that a shard reports also when it heard nothing of them: those it owns.

    Of a share nobody owns any, so all shards report all: a device that nobody hears is not complete.
    """
    return np.ones_like(owned) if layout == "shared" else owned


def load_window(path: Path, end_ns: int | None = None) -> Scopes | None:
    """The window that a shard left; None where there is none (yet), or none that ends at `end_ns`.

    OSError, ValueError: damaged. To find another window is cheap: no more than its times is read.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            from_ns, to_ns = saved["window"].tolist()
            if end_ns is not None and to_ns != end_ns:
                return None
            records: npt.NDArray[np.int64] = saved["records"]
            names = {key: saved[key].tolist() for key in ("org", "site", "device")}
            return Scopes(
                **names,
                expected=saved["expected"],
                counts=records,
                skew=skews(records),
                from_ns=from_ns,
                to_ns=to_ns,
            )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error


def joined(windows: Sequence[Scopes]) -> Scopes:
    """One row per device. With `mqtt.layout: shared` several shards hear a device: counts add up.

    RECEIVED is capped at what was due, so that a device that sends more often than its registry says
    does not hide another one's gaps. Where 2.3 were due, three are not more than that.
    """
    index: dict[str, int] = {}
    for window in windows:
        for device in window.device:
            index.setdefault(device, len(index))
    org, site = [""] * len(index), [""] * len(index)
    expected = np.zeros(len(index))
    counts = np.zeros((len(index), windows[0].counts.shape[1]), np.int64)
    counts[:, LEAST_LAG] = NO_LAG
    for window in windows:
        rows = np.array([index[device] for device in window.device], np.int64)
        least = np.minimum(counts[rows, LEAST_LAG], window.counts[:, LEAST_LAG])
        counts[rows] += window.counts
        counts[rows, LEAST_LAG] = least
        expected[rows] = np.maximum(expected[rows], window.expected)
        for row, one_org, one_site in zip(rows.tolist(), window.org, window.site, strict=True):
            org[row], site[row] = one_org, one_site
    due = np.ceil(expected - 1e-6).astype(np.int64)
    counts[:, RECEIVED] = np.minimum(counts[:, RECEIVED], due)
    return Scopes(
        org,
        site,
        list(index),
        expected,
        counts,
        skews(counts),
        min(window.from_ns for window in windows),
        windows[0].to_ns,
    )


def wait_until(end_ns: int) -> float:
    """Seconds until the wall clock says so; at least 0."""
    return max(end_ns - time.time_ns(), 0) / 1e9


def _names(texts: Texts, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.str_]:
    """The texts at `rows` as an array of strings."""
    every = np.array([texts[i] for i in range(len(texts))] or [""], np.str_)
    found: npt.NDArray[np.str_] = every[rows]
    return found
