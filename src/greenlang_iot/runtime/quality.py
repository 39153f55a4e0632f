"""Data quality in the parent: the shards' windows put together, judged, said and stored.

A figure goes to the metrics (fleet and sites), to the table `quality` of the lake and to InfluxDB
(devices, too); a missed target becomes an alert through an outbox of the parent's own.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from greenlang_iot.alerts.episode import restored
from greenlang_iot.alerts.wide import WideAlerts
from greenlang_iot.model.errors import SinkError
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.quality.breaches import judge
from greenlang_iot.quality.figures import FIGURES, Scopes, widened
from greenlang_iot.quality.record import slot_ns
from greenlang_iot.runtime.folders import QUALITY_OUTBOX, lake_folder, outbox_folder
from greenlang_iot.runtime.quality_windows import joined, load_window, wait_until, window_file
from greenlang_iot.settings.model import Settings
from greenlang_iot.sinks.outbox import Outbox, known_alerts
from greenlang_iot.spool.log import SpoolFull
from greenlang_iot.spool.store import LogInUse

log = structlog.get_logger(__name__)
GRACE = 10.0
"""Seconds a shard has after the end of a slot to leave its window, and half a slot at most."""
POLL_EVERY = 0.1
LOOK_EVERY = 10.0
"""Seconds between two looks at the clock, which may be set."""
TRY_EVERY = 5.0
LINES = 5_000
"""Lines of one request to InfluxDB."""

Judged = tuple[tuple[str, Scopes], ...]
"""(scope, its rows)"""


async def _over(end: int, slot: int) -> int:
    """Sleep until a window is over; its end, which is an earlier one where the clock was set back."""
    while (left := wait_until(end)) > 0:
        if left > 2 * slot / 1e9:
            end = (time.time_ns() // slot + 1) * slot
        else:
            await asyncio.sleep(min(left, LOOK_EVERY))
    return end


class QualityWatch:
    """Runs in the parent. sites: (org, site) → its figures now, for the exporter."""

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self.sites: dict[tuple[str, str], list[float]] = {}
        self._settings = settings
        self._counters = counters
        self._alerts = WideAlerts(settings.alerts.max_active)
        self._unsaid: list[Transition] = []

    async def run(self) -> None:
        """Until cancelled; a sink that is away costs the figures of a window there, loudly."""
        settings = self._settings
        if not settings.quality.enabled:
            await asyncio.Event().wait()
        folder = outbox_folder(settings) / QUALITY_OUTBOX
        for saved in known_alerts([folder]).open:
            self._alerts.keep(restored(saved))
        outbox = Outbox(folder, settings.alerts.outbox_max_bytes)
        slot = slot_ns(settings.quality)
        end = (time.time_ns() // slot + 1) * slot
        storing: list[asyncio.Task[None]] = []
        try:
            while True:
                end = await _over(end, slot)
                windows, whole = await self._windows(end)
                if windows:
                    judged = await asyncio.to_thread(self._judge, windows, whole)
                    await self._announce(outbox)
                    storing = [task for task in storing if not task.done()]
                    storing += [asyncio.ensure_future(s) for s in self._stores(judged, slot)]
                # a machine that slept, or whose clock was put right: what ended meanwhile left no window
                end = max(end + slot, time.time_ns() // slot * slot)
        finally:
            for task in storing:
                task.cancel()
            await asyncio.gather(*storing, return_exceptions=True)
            await outbox.close()

    async def _windows(self, end: int) -> tuple[list[Scopes], bool]:
        """What the shards left for the window that ended then, and whether all did in time."""
        shards = range(self._settings.runtime.shards)
        found: dict[int, Scopes] = {}
        until = time.monotonic() + min(GRACE, slot_ns(self._settings.quality) / 2e9)
        while len(found) < len(shards) and time.monotonic() < until:
            for shard in shards:
                if shard in found:
                    continue
                path = window_file(self._settings.data_dir, shard)
                try:
                    window = await asyncio.to_thread(load_window, path, end)
                except (OSError, ValueError) as error:
                    log.error("a window of quality is unreadable", file=str(path), why=str(error))
                    path.unlink(missing_ok=True)
                    continue
                if window is not None:
                    found[shard] = window
            await asyncio.sleep(POLL_EVERY)
        if found and len(found) < len(shards):
            missing = sorted(set(shards) - set(found))
            log.warning("quality is judged without some shards", missing=missing)
        return [window for window in found.values() if len(window)], len(found) == len(shards)

    def _judge(self, windows: Sequence[Scopes], whole: bool) -> Judged:
        quality = self._settings.quality
        devices = joined(windows)
        sites, fleet = widened(devices)
        self._unsaid += judge(self._alerts, sites, devices, quality, whole=whole)
        set_ = self._counters.set
        below = devices.below(quality).sum(axis=0)
        for column, figure in enumerate(FIGURES):
            set_(cell("quality_ratio", figure=figure), float(fleet.figures()[0, column]))
            set_(cell("quality_devices_below_target", figure=figure), float(below[column]))
        set_(cell("quality_skew_seconds"), float(fleet.skew[0]))
        places = zip(sites.org, sites.site, strict=True)
        self.sites.clear()
        self.sites.update(zip(places, sites.figures().tolist(), strict=True))
        return (("fleet", fleet), ("site", sites), ("device", devices))

    async def _announce(self, outbox: Outbox) -> None:
        """Transitions into the outbox, durably; what has no room now comes with the next window."""
        if not self._unsaid:
            return
        try:
            number = outbox.append(self._unsaid)
        except SpoolFull:
            log.error("the outbox is full; alerts of quality wait", waiting=len(self._unsaid))
            return
        self._unsaid = []
        await outbox.durable(number)

    # ---- storing ------------------------------------------------------------------------------------

    def _stores(self, judged: Judged, slot: int) -> list[Awaitable[None]]:
        stores: list[Awaitable[None]] = []
        if self._settings.sinks.lake.enabled:
            stores.append(self._until_stored("lake", lambda: self._to_lake(judged), slot))
        if self._settings.sinks.influxdb.enabled:
            stores.append(self._until_stored("influxdb", lambda: self._to_influxdb(judged), slot))
        return stores

    async def _until_stored(
        self, sink: str, store: Callable[[], Awaitable[None]], slot: int
    ) -> None:
        """Again and again, until the next window is there."""
        until = time.monotonic() + slot / 1e9
        while True:
            try:
                await store()
            except (SinkError, OSError, SpoolFull, LogInUse) as error:
                if time.monotonic() + TRY_EVERY >= until:
                    why = "the quality figures of a window are not in a sink"
                    log.error(why, sink=sink, why=str(error))
                    return
            else:
                return
            await asyncio.sleep(TRY_EVERY)

    async def _to_lake(self, judged: Judged) -> None:
        await asyncio.to_thread(self._append_to_lake, judged)

    def _append_to_lake(self, judged: Judged) -> None:
        import pyarrow as pa

        from greenlang_iot.encode.quality import quality_rows
        from greenlang_iot.sinks.lake import Lake

        quality = self._settings.quality
        rows = pa.concat_tables([quality_rows(scope, item, quality) for scope, item in judged])
        lake = Lake(lake_folder(self._settings), self._settings.sinks.lake)
        try:
            lake.append_quality(rows)
        finally:
            lake.close()

    async def _to_influxdb(self, judged: Judged) -> None:
        from greenlang_iot.encode.quality import quality_lines
        from greenlang_iot.sinks.influx import InfluxSender

        def encoded() -> list[bytes]:
            return [line for scope, item in judged for line in quality_lines(scope, item)]

        lines = await asyncio.to_thread(encoded)  # 1.5 s of CPU time for 100,000 devices
        sender = InfluxSender(self._settings.sinks.influxdb)
        await sender.open()
        try:
            for first in range(0, len(lines), LINES):
                part = lines[first : first + LINES]
                outcome = await sender.send(b"\n".join(part), len(part))
                for refused in outcome.refused:
                    why = "InfluxDB refused a figure of quality; it will not arrive there"
                    log.error(why, line=refused.body.decode(errors="replace"), why=refused.answer)
        finally:
            await sender.close()
