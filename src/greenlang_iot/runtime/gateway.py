"""The parent process of one gateway: shards, admin endpoint, alert courier, lake compaction.

`Gateway.run` returns after SIGINT or SIGTERM (or `stop()`), when everything has drained.
"""

import asyncio
import gc
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from greenlang_iot import __version__
from greenlang_iot.alerts.rule_file import NO_RULES, RuleSet
from greenlang_iot.console.api import Console
from greenlang_iot.devices.columns import Columns
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import GatewayError
from greenlang_iot.observe import health
from greenlang_iot.observe.access import Tokens, local_url
from greenlang_iot.observe.admin import AdminServer, Status
from greenlang_iot.observe.api_alerts import AlertApi
from greenlang_iot.observe.audit import Audit
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.observe.exporter import Exporter
from greenlang_iot.runtime.courier import Courier, remind
from greenlang_iot.runtime.discovery import Discovery
from greenlang_iot.runtime.earlier_layouts import retired_connections
from greenlang_iot.runtime.folders import (
    admin_url_file,
    alerts_folder,
    dead_letter_folder,
    lake_folder,
)
from greenlang_iot.runtime.instance_lock import InstanceLock
from greenlang_iot.runtime.layout import ShardPlan, plan
from greenlang_iot.runtime.memory import SharedRegistry, give_back
from greenlang_iot.runtime.presence import PresenceWatch
from greenlang_iot.runtime.quality import QualityWatch
from greenlang_iot.runtime.reloader import Read, Reloader
from greenlang_iot.runtime.service_manager import ServiceManager
from greenlang_iot.runtime.spec import ShardSpec
from greenlang_iot.runtime.summary import Summary, summarize
from greenlang_iot.runtime.supervisor import Supervisor, install_signals
from greenlang_iot.settings.model import Settings
from greenlang_iot.sinks.alert_store import AlertStore
from greenlang_iot.sinks.endings import end
from greenlang_iot.spool.format import FormatError
from greenlang_iot.spool.store import LogInUse
from greenlang_iot.spool.threads import use_workers

log = structlog.get_logger(__name__)
WORKERS = 4
"""Threads for what blocks: files of the console's pages, the audit log, the lake's compaction."""
BESIDE_WITHIN = 5.0
"""Seconds after the start when alerts are delivered and sites are looked for though the gateway is not ready."""
WATCH_EVERY = 0.5
"""Seconds between two looks at which shards are up, once the gateway is ready: each costs 0.2 ms."""
AGAIN_AFTER = 10.0
"""Seconds after which what failed beside the data plane begins again."""


class Gateway:
    """One instance. on_transition: told of every alert transition, for a screen. on_start: called once its
    admin endpoint listens.

    read: settings, registry and alert rules as their files say now, for a reload; raises InputError.
    service_manager: told that the gateway has started, is alive, drains.
    """

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        *,
        rules: RuleSet = NO_RULES,
        on_transition: Callable[[dict[str, Any]], None] | None = None,
        on_start: Callable[["Gateway"], None] | None = None,
        read: Read | None = None,
        service_manager: ServiceManager | None = None,
    ) -> None:
        self._read = read
        self._service_manager = service_manager or ServiceManager()
        self.settings = settings
        self.directory = directory  # from `run` on as all processes map it
        self.rules = rules
        self.ready = asyncio.Event()
        self.admin_port = 0
        self.shards: dict[int, Counters] = {}
        self.plans: list[ShardPlan] = plan(
            directory, settings.mqtt, settings.runtime.shards, settings.instance
        )
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._on_transition = on_transition
        self._on_start = on_start

    def stop(self) -> None:
        """Ask for a drain; `run` returns when it is done."""
        self._stop.set()

    async def run(self, *, signals: bool = True) -> Summary:
        """Run until stopped. GatewayError where nothing can run (port taken, every shard lost)."""
        settings = self.settings
        use_workers(WORKERS)
        run = settings.data_dir / "run"
        with InstanceLock(settings.data_dir):
            columns = self._share_registry(run)
            own = Counters.create(run / "gateway.counters")
            supervisor = self._supervisor(run, columns)
            quality = QualityWatch(settings, own)
            store = _alert_store(settings, self.rules)
            audit = Audit(settings.data_dir, settings.admin.audit_max_bytes)
            reloader = Reloader(self, supervisor, self._read, audit, store.configure)
            console = Console(
                self,
                own,
                supervisor,
                lake=lake_folder(settings) if settings.sinks.lake.enabled else None,
                letters=dead_letter_folder(settings),
            )
            supervisor.late = console.late
            store.listen(lambda said: console.alerts_changed(len(said.transitions)))
            admin = AdminServer(
                settings.admin,
                Exporter(self.shards, own, quality.sites).generate,
                self._status,
                Tokens.of(settings.data_dir),
                reloader.reload,
                lambda reason: own.add(cell("admin_refused", reason=reason)),
                [AlertApi(store, audit).add_routes, console.add_routes],
            )
            self.admin_port = await admin.start()
            _write_address(admin_url_file(settings), self.admin_url)
            if self._on_start is not None:
                self._on_start(self)
            courier = Courier(settings, own, store, self._on_transition)
            if signals:
                install_signals(asyncio.get_running_loop(), self.stop, reloader.soon)
            supervisor.start()
            gc.freeze()
            gc.enable()
            tasks = [
                asyncio.ensure_future(coroutine)
                for coroutine in (
                    supervisor.watch(),
                    self._watch_shards(supervisor),
                    self._tell_service_manager(),
                    self._once_ready(courier.run),
                    self._beside("the lake's compaction", self._compact_lake),
                    self._beside("data quality", quality.run),
                    self._beside("the console", console.run),
                    self._beside(
                        "the look for sites",
                        Discovery(settings.mqtt, self.directory, own).run,
                        once_ready=True,
                    ),
                    self._beside(
                        "presence",
                        PresenceWatch(settings, store, lambda: self.directory).run,
                        once_ready=True,
                    ),
                )
            ]
            stopping = asyncio.ensure_future(self._stop.wait())
            try:
                await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
                log.info("draining", at_most_seconds=settings.runtime.drain_timeout)
            finally:
                self._service_manager.stopping()
                clean = await supervisor.stop()
                await courier.drain()
                failed = [t.exception() for t in tasks if t.done() and not t.cancelled()]
                await end([*tasks, stopping])
                await admin.stop()
                admin_url_file(settings).unlink(missing_ok=True)
                await _close_book(store)
        for error in failed:
            if error is not None:
                raise error
        if not clean:
            raise GatewayError(
                "A shard did not drain within runtime.drain_timeout; "
                "what it had not acknowledged comes again after the next start."
            )
        return summarize(settings, self.shards, time.monotonic() - self._started)

    # ---- shards -----------------------------------------------------------------------------------

    def _share_registry(self, run: Path) -> Columns:
        self.shared = SharedRegistry(run)
        try:
            columns, self.directory = self.shared.put(self.directory)
        except OSError as error:
            raise GatewayError(
                f"The registry's columns cannot be written to {run} ({error.strerror}): make room there, "
                "or choose another data_dir."
            ) from error
        give_back()
        return columns

    def _supervisor(self, run: Path, columns: Columns) -> Supervisor:
        plans = self.plans
        retired = retired_connections(
            self.settings.data_dir, plans, [broker.name for broker in self.settings.mqtt.brokers]
        )
        specs = []
        paths = {item.index: run / f"shard-{item.index}.counters" for item in plans}
        for item in plans:
            path = paths[item.index]
            self.shards[item.index] = Counters.create(path)
            specs.append(
                ShardSpec(
                    item.index,
                    self.settings,
                    columns,
                    item,
                    path,
                    tuple(r for n, r in enumerate(retired) if n % len(plans) == item.index),
                    os.getpid(),
                    self.rules,
                    tuple((paths[p.index], len(p.connections)) for p in plans if p is not item),
                )
            )
        return Supervisor(specs, self.settings.runtime, self._beat, self._restarted)

    def _beat(self, shard: int) -> float:
        age = self.shards[shard].age(cell("heartbeat_age_seconds"), time.monotonic_ns())
        return time.monotonic() - age if age != float("inf") else 0.0

    def _restarted(self, shard: int, reason: str) -> None:
        counters = self.shards[shard]
        counters.add(cell("shard_restarts"))
        counters.set(cell("connections_up"), 0)

    async def _watch_shards(self, supervisor: Supervisor) -> None:
        while True:
            for index, counters in self.shards.items():
                counters.set(cell("shard_up"), float(supervisor.alive(index)))
            if not self.ready.is_set() and not self.reasons:
                self.ready.set()
                log.info("ready", seconds=round(time.monotonic() - self._started, 2))
            await asyncio.sleep(WATCH_EVERY if self.ready.is_set() else 0.05)

    async def _once_ready(self, run: Callable[[], Awaitable[None]]) -> None:
        """What stands beside the data plane gives way to it until it is ready, for BESIDE_WITHIN at most."""
        events = [asyncio.ensure_future(event.wait()) for event in (self.ready, self._stop)]
        try:
            await asyncio.wait(events, timeout=BESIDE_WITHIN, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(events)
        await run()

    async def _beside(
        self, what: str, run: Callable[[], Awaitable[None]], *, once_ready: bool = False
    ) -> None:
        """What no reading and no alert depends on: a mistake in it is said, and it begins again."""
        while True:
            try:
                await (self._once_ready(run) if once_ready else run())
                return
            except Exception:
                log.error("failed beside the data plane; it begins again", what=what, exc_info=True)
            await asyncio.sleep(AGAIN_AFTER)

    async def _tell_service_manager(self) -> None:
        """From the parent's own loop: where that is stuck, the signs of life end."""
        manager = self._service_manager
        if not manager.present:
            await asyncio.Event().wait()
        manager.started()
        while not self._stop.is_set():
            manager.beat("; ".join(self.reasons) or "ready")
            await asyncio.sleep(manager.every)
        await asyncio.Event().wait()  # the drain has its own bound

    @property
    def reasons(self) -> list[str]:
        """Why the gateway is not ready, one sentence each."""
        return health.not_ready(self.settings, self.shards, time.monotonic_ns())

    @property
    def admin_url(self) -> str:
        """Where this machine reaches the admin endpoint, with the port that it really has."""
        return local_url(self.settings.admin, self.admin_port)

    @property
    def uptime(self) -> float:
        """Seconds."""
        return time.monotonic() - self._started

    def _status(self) -> Status:
        document = {
            "version": __version__,
            "uptime_seconds": round(self.uptime, 3),
            **health.document(self.settings, self.shards, time.monotonic_ns()),
        }
        return Status(self.reasons, document)

    # ---- lake ---------------------------------------------------------------------------------------

    async def _compact_lake(self) -> None:
        """Segments to Parquet, in a thread: the parent has nothing else that is urgent."""
        settings = self.settings.sinks.lake
        if not settings.enabled:
            await asyncio.Event().wait()
        from greenlang_iot.sinks.lake import Lake

        lake = Lake(lake_folder(self.settings), settings)
        while True:
            await asyncio.sleep(settings.compact_every)
            try:
                shards = self.settings.runtime.shards
                await asyncio.to_thread(lake.compact, time.time_ns(), shards)
            except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
                log.error("the lake was not compacted; its log keeps the data", why=str(error))


def _alert_store(settings: Settings, rules: RuleSet) -> AlertStore:
    folder = alerts_folder(settings)
    try:
        store = AlertStore(folder, settings.alerts, rules)
        remind(store.book, settings)
        return store
    except (OSError, LogInUse, FormatError) as error:
        raise GatewayError(f"The book of alerts in {folder} cannot be opened: {error}.") from error


async def _close_book(store: AlertStore) -> None:
    """What is not in its journal was confirmed to nobody, and is in the outboxes still."""
    try:
        await store.close()
    except OSError as error:
        log.error("the disk failed the book of alerts in the drain", why=str(error))


def _write_address(path: Path, url: str) -> None:
    try:
        path.write_text(f"{url}\n")
    except OSError as error:
        raise GatewayError(
            f"{path} cannot be written ({error.strerror}): make room there, or choose another data_dir."
        ) from error


def run_gateway(gateway: Callable[[], Gateway]) -> Summary:
    """Run a gateway in its own loop (uvloop) to its end."""
    import uvloop

    async def main() -> Summary:
        return await gateway().run()

    summary: Summary = uvloop.run(main())
    return summary
