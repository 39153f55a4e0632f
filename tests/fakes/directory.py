"""A small Directory for unit tests, built without the registry loader."""

from collections.abc import Sequence

import numpy as np

from greenlang_iot.model.directory import Directory, Texts


def texts(items: Sequence[str]) -> Texts:
    raw = [item.encode() for item in items]
    off = np.zeros(len(raw) + 1, np.int64)
    np.cumsum([len(r) for r in raw], out=off[1:])
    return Texts(np.frombuffer(b"".join(raw), np.uint8).copy(), off)


def directory(
    devices: int = 10,
    metrics: Sequence[str] = ("temperature", "humidity"),
    *,
    units: Sequence[str] = ("Cel", "%RH"),
    low: float = -50.0,
    high: float = 150.0,
    step: float = np.inf,
    interval_s: float = 60.0,
    sites: int = 2,
    names: Sequence[str] | None = None,
) -> Directory:
    """`devices` devices d000… over `sites` sites of org acme, each with all `metrics`.

    Units are metrics[i] → units[i]; "degF" converts to "Cel" where "Cel" is among the units.
    """
    n, m = devices, len(metrics)
    names = list(names) if names is not None else [f"d{i:03d}" for i in range(n)]
    unit_names = list(dict.fromkeys([*units, "degF"]))
    conversions = (
        [(unit_names.index("degF"), unit_names.index("Cel"), 5 / 9, -160 / 9)]
        if "Cel" in unit_names
        else []
    )
    columns = list(zip(*conversions, strict=True)) or [(), (), (), ()]
    return Directory(
        device=texts(names),
        org=texts(["acme"]),
        site=texts([f"site-{i}" for i in range(sites)]),
        type=texts(["sensor"]),
        org_of=np.zeros(n, np.int32),
        site_of=(np.arange(n) % sites).astype(np.int32),
        type_of=np.zeros(n, np.int32),
        enabled=np.ones(n, np.uint8),
        series_start=(np.arange(n + 1) * m).astype(np.int64),
        series_device=np.repeat(np.arange(n), m).astype(np.int32),
        series_metric=np.tile(np.arange(m), n).astype(np.int32),
        series_unit=np.tile([unit_names.index(u) for u in units[:m]], n).astype(np.int32),
        low=np.full(n * m, low),
        high=np.full(n * m, high),
        warn_low=np.full(n * m, -np.inf),
        warn_high=np.full(n * m, np.inf),
        step=np.full(n * m, step),
        interval_ns=np.full(n * m, int(interval_s * 1e9), np.int64),
        profile=np.zeros(n * m, np.uint8),
        series_enabled=np.ones(n * m, np.uint8),
        reference=np.full(n * m, -1, np.int32),
        tolerance=np.zeros(n * m),
        metric=texts(list(metrics)),
        unit=texts(unit_names),
        unit_from=np.array(columns[0], np.int32),
        unit_to=np.array(columns[1], np.int32),
        unit_factor=np.array(columns[2], np.float64),
        unit_shift=np.array(columns[3], np.float64),
    )
