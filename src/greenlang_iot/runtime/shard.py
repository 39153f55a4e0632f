"""One shard: a uvloop process that owns its connections, its pipeline and its runners."""

import asyncio
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import structlog
import uvloop

from greenlang_iot.acks.ledger import Ledger
from greenlang_iot.alerts.rule_file import RuleSet
from greenlang_iot.alerts.rules import Alerter
from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.decode.guests import GUEST_TYPE
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices.columns import Columns
from greenlang_iot.devices.reload import Reloaded, reloaded
from greenlang_iot.model.batches import FrameBatch, Reject
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import GatewayError
from greenlang_iot.model.outcomes import Refused, Transition
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.counters import Counters
from greenlang_iot.observe.logs import configure
from greenlang_iot.pipeline import DEAD_LETTER, OUTBOX, Clock, Pipeline
from greenlang_iot.quality.counter import QualityCounter
from greenlang_iot.runtime.checkpoints import Checkpoints, restore
from greenlang_iot.runtime.connections import Connections
from greenlang_iot.runtime.durable import DurableSettler, OutboxPort
from greenlang_iot.runtime.folders import dead_letter_folder, outbox_folder
from greenlang_iot.runtime.gauges import ShardGauges
from greenlang_iot.runtime.looks import LookingMeter, Looks, answer_looks
from greenlang_iot.runtime.memory import give_back
from greenlang_iot.runtime.quality_windows import reported, save_window, window_file
from greenlang_iot.runtime.reload import Control, answer_reloads
from greenlang_iot.runtime.sinks import SinkFactory, kafka_publisher
from greenlang_iot.runtime.spec import ShardSpec
from greenlang_iot.runtime.watches import Watches
from greenlang_iot.settings.formats import routes
from greenlang_iot.settings.model import Settings
from greenlang_iot.settings.secrets import secrets
from greenlang_iot.sinks.deadletter import DeadLetterStats, DeadLetterWriter
from greenlang_iot.sinks.endings import end
from greenlang_iot.sinks.outbox import Outbox, known_alerts
from greenlang_iot.sinks.runner import Runner
from greenlang_iot.spool.threads import use_workers

log = structlog.get_logger(__name__)
TICK = 0.1
SECOND_STAGE_WITHIN = 10.0
"""Seconds after the start when river is imported though a connection or sink is still away."""
PR_SET_PDEATHSIG = 1
WORKERS = 2
"""Threads for what blocks: the checkpoint, and beside it the window of quality."""


def run_shard(spec: ShardSpec, control: Control, window: Control) -> None:
    """The forked process; exit code 0 after a clean drain.

    control: see `reload`; window: see `looks`.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the group; the parent drains us
    configure(spec.settings.log, shard=spec.index, secrets=secrets(spec.settings))
    sys.unraisablehook = _unraisable
    try:
        uvloop.run(Shard(spec, control, window).run())
    except GatewayError as error:
        log.error("shard stopped", reason=str(error))
        raise SystemExit(1) from None


def _unraisable(failed: "sys.UnraisableHookArgs") -> None:
    """What was raised where nobody could catch it, as in the loop's own callbacks."""
    if isinstance(failed.exc_value, MemoryError):
        os._exit(1)
    sys.__unraisablehook__(failed)


class Shard:
    """Composes one shard and keeps it ticking."""

    def __init__(self, spec: ShardSpec, control: Control, window: Control) -> None:
        self.spec = spec
        self._control = control
        self._window = window
        settings = spec.settings
        self.settings = settings
        registry = spec.registry
        self.directory = (
            registry.open() if isinstance(registry, Columns) else registry
        )  # at the start
        self.counters = Counters.open(spec.counters)
        self.clock = Clock(time.time_ns, time.monotonic)
        self.ledger = Ledger()
        self._stop = asyncio.Event()
        self._state_file = settings.data_dir / "state" / f"shard-{spec.index}.state"
        self.gauges = ShardGauges(self.counters)
        self._tasks: list[asyncio.Task[None]] = []

    # ---- composition ----------------------------------------------------------------------------

    def _compose(self) -> None:
        settings, directory = self.settings, self.directory
        self.dead_letters = DeadLetterWriter(
            settings.sinks.dead_letter,
            dead_letter_folder(settings) / f"shard-{self.spec.index}",
            kafka_publisher(settings),
            settings.sinks.kafka.deadletter_topic,
        )
        self.outbox = Outbox(
            outbox_folder(settings) / f"shard-{self.spec.index}", settings.alerts.outbox_max_bytes
        )
        self.detector = Detector(directory, settings.detect)
        self.checkpoints = Checkpoints(
            self.detector,
            self._state_file,
            lambda: self.counters.touch(cell("checkpoint_age_seconds")),
        )
        self.looks = Looks(self.detector, directory, lambda: self.pipeline.decoder.directory)
        self.alerter = Alerter(directory, settings.alerts, self.spec.rules)
        self.quality = (
            QualityCounter(directory, settings.quality, time.time_ns())
            if settings.quality.enabled
            else None
        )
        self.watches = Watches(
            self.spec.plan, settings, directory, self.detector, self.alerter, self._announce
        )
        self._restore()
        self.dead_letter_settler = DurableSettler(
            DEAD_LETTER, self.dead_letters.durable, self._settle
        )
        self.outbox_settler = DurableSettler(OUTBOX, self.outbox.durable, self._settle)
        self.outbox_port = OutboxPort(self.outbox, self.outbox_settler)
        factory = SinkFactory(
            settings,
            directory,
            self.spec.index,
            self.counters,
            self.clock,
            self._settle,
            self._refuse,
        )
        self.runners: list[Runner] = factory.runners()
        self.adoptions = factory.adoptions()
        self.connections = Connections(
            self.spec, self.counters, self.gauges, self.ledger, self._process
        )
        self.pipeline = Pipeline(
            Decoder(directory, settings.limits, settings.mqtt.topic, routes(settings.mqtt)),
            self.detector,
            self.alerter,
            self.quality,
            self.ledger,
            self.runners,
            self,
            self.outbox_port,
            LookingMeter(self.counters, self.looks),
            self.connections.acknowledge,
            self.connections.publish,
            self.clock,
        )
        self.pipeline.clock_suspect = self.watches.clock_suspect

    # ---- what the pipeline calls ------------------------------------------------------------------

    def submit(self, rejects: Sequence[Reject], received_ns: int, ticket: int) -> None:
        """Dead letters of a batch (pipeline.DeadLetters)."""
        number = self.dead_letters.submit(rejects, received_ns)
        self.counters.add(cell("dead_letters", kind="message"), len(rejects))
        self.dead_letter_settler.add(number, ticket)

    def _process(self, frames: FrameBatch) -> None:
        self.pipeline.process(frames)

    def _announce(self, transitions: Sequence[Transition]) -> None:
        self.pipeline.announce(transitions)

    async def _refuse(self, sink: str, refused: list[Refused]) -> None:
        number = self.dead_letters.submit_refused(sink, refused, self.clock.wall_ns())
        self.counters.add(cell("dead_letters", kind="line"), len(refused))
        await self.dead_letters.durable(number)

    def _settle(self, bit: int, first: int, last: int) -> None:
        if last >= first:
            self.pipeline.settle(bit, first, last)

    # ---- life ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until SIGTERM, then drain: stop reading, deliver or spool, acknowledge, say goodbye."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.set_exception_handler(self._unhandled)
        use_workers(WORKERS)
        if self.spec.supervisor:
            self._end_with(self.spec.supervisor)
        try:
            self._compose()
        except OSError as error:
            raise GatewayError(f"the shard's files cannot be opened: {error}") from error
        answer_reloads(self, self._control)
        answer_looks(self.looks, self._window)
        self.gauges.bounds(self.settings, self.spec.plan, self.directory)
        gc.collect()
        gc.freeze()
        self._give_back()
        self._start(self.dead_letter_settler.run())
        self._start(self.outbox_settler.run())
        for runner in self.runners:
            self._start(runner.run())
        for adoption in self.adoptions:
            self._start(adoption.run())
        for life in self.connections.lives():
            self._start(life)
        self.pipeline.announce(self._orphaned_alerts)
        self._start(self._load_second_stage_later())
        try:
            await self._tick_until_stopped()
            await self._drain()
        finally:
            self._stop.set()  # what is cancelled from here on is meant to be

    def _give_back(self) -> None:
        """What was only needed to start."""
        if isinstance(self.spec.registry, Columns):
            self.spec.registry.forget()
        give_back()

    async def _load_second_stage_later(self) -> None:
        """Once messages are taken: until then the import would take half of the core from the start."""
        until = time.monotonic() + SECOND_STAGE_WITHIN
        while not self._ready() and time.monotonic() < until:
            await asyncio.sleep(TICK)
        # Not in the loop's executor: a drain would wait for an import that takes seconds.
        threading.Thread(target=self._load_second_stage, daemon=True).start()

    def _ready(self) -> bool:
        """Connections stand and required sinks are open."""
        return self.connections.all_up and all(
            self.counters.get(cell("sink_up", sink=runner.name)) == 1
            for runner in self.runners
            if runner.required
        )

    def _load_second_stage(self) -> None:
        try:
            self.detector.load_second_stage()
        except ImportError as error:
            log.error("the second stage cannot be loaded: its scores are shed", why=str(error))

    def _end_with(self, supervisor: int) -> None:
        """The fork server lives as long as one of its shards does, so its death tells us nothing."""
        try:
            died = os.pidfd_open(supervisor)
        except ProcessLookupError:
            os._exit(1)
        asyncio.get_running_loop().add_reader(died, os._exit, 1)

    def _start(self, coroutine) -> None:  # type: ignore[no-untyped-def]
        task = asyncio.ensure_future(coroutine)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        cancelled = task.cancelled()  # from within: before the end nobody else does it
        error = None if cancelled else task.exception()
        if error is not None or (cancelled and not self._stop.is_set()):
            try:
                log.error("a task of the shard failed", task=repr(task), exc_info=error)
            finally:  # also where there is no memory left to say why
                os._exit(1)  # what is not settled was not acknowledged; the supervisor restarts us

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What a callback raised and nobody caught. Without memory or threads a shard would stand
        still and say that it is well: it ends instead."""
        error = context.get("exception")
        starved = isinstance(error, MemoryError) or "can't start new thread" in str(error)
        try:
            log.error("unhandled in the event loop", what=context.get("message"), exc_info=error)
        finally:  # also where there is no memory left to say why
            if starved and not self._stop.is_set():
                os._exit(1)

    def reload(self, registry: Directory, settings: Settings, rules: RuleSet) -> Reloaded:
        """Take over a newer registry and settings that need no restart. Raises InputError."""
        done = reloaded(self.pipeline.decoder.directory, registry, GUEST_TYPE)
        self.settings = settings
        configure(settings.log, shard=self.spec.index, secrets=secrets(settings))
        self.pipeline.decoder.configure(settings.limits)
        self.detector.settings = settings.detect
        self.pipeline.reload(done.directory)
        self.pipeline.announce(self.alerter.configure(settings.alerts, rules))
        self.watches.follow(done.directory)
        self.looks.follow(done.directory, done.entries)
        self.counters.add(cell("registry_reloads"))
        self.gauges.registry(registry)
        give_back()
        return done

    async def _tick_until_stopped(self) -> None:
        silence_due = time.monotonic() + 1.0
        while not self._stop.is_set():
            self._tick()
            if time.monotonic() >= silence_due:
                silence_due = time.monotonic() + 1.0
                listening = self.connections.all_up and not self.connections.paused
                self.watches.silence(self.pipeline.decoder.directory, listening)
                self.gauges.look(self)
                self._close_quality()
            try:
                await asyncio.wait_for(self._stop.wait(), TICK)
            except TimeoutError:
                pass

    def _tick(self) -> None:
        self.counters.heartbeat()
        for runner in self.runners:
            runner.check(self.ledger.oldest(runner.bit))
        self.outbox_port.retry()
        self._back_pressure()
        self.watches.tick(TICK, self.connections.own)
        self.checkpoints.tick(self.settings.detect.checkpoint_every)

    def _back_pressure(self) -> None:
        """Hard bounds pause the sockets; the soft bound is the receive window itself."""
        over = self.ledger.nbytes > self.settings.runtime.memory_bound or any(
            runner.required and runner.over_queue for runner in self.runners
        )
        if over != self.connections.paused:
            self.connections.pause(over=over)
            if over:
                self.counters.add(cell("pauses"))
                log.warning("sockets paused: a memory bound is reached", bytes=self.ledger.nbytes)

    def _close_quality(self) -> None:
        """A slot is over: leave the window's counts for the parent, which judges them."""
        window = self.quality.close(time.time_ns()) if self.quality is not None else None
        if window is not None:
            path = window_file(self.settings.data_dir, self.spec.index)
            directory = self.pipeline.decoder.directory
            mine = reported(self.watches.owned, self.settings.mqtt.layout)
            loop = asyncio.get_running_loop()
            loop.run_in_executor(None, save_window, path, window, directory, mine)

    # ---- state --------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """State of every earlier shard: a device may have moved; open alerts from the outboxes."""
        folder = self._state_file.parent
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("shard-*.state"), key=lambda p: p.stat().st_mtime)
        for path in files:
            try:
                count = restore(self.detector, path)
            except (ValueError, OSError) as error:
                log.error(
                    "checkpoint refused: its series start anew", file=str(path), why=str(error)
                )
            else:
                log.info("checkpoint restored", file=str(path), series=count)
        self._orphaned_alerts = self._restore_alerts()

    def _restore_alerts(self) -> list[Transition]:
        """From the outboxes of all shards; the ends of those that nothing watches any more."""
        folders = sorted(outbox_folder(self.settings).glob("shard-[0-9]*"))
        shards, index = self.settings.runtime.shards, self.spec.index
        known = known_alerts(folders)
        written: set[str] = set()
        if self.settings.mqtt.layout == "shared":  # nobody owns a device: whoever wrote it goes on
            mine = [f for f in folders if int(f.name.removeprefix("shard-")) % shards == index]
            written = {alert["alert_id"] for alert in known_alerts(mine).open}
        devices = self.directory.find(alert["device"] for alert in known.open)
        taken, elsewhere = [], []
        for alert in known.open:
            device = devices.get(alert["device"])
            if device is None:  # another device's, the gateway's own: looked after by the first
                taken += [alert] if index == 0 else []
            elif self.watches.owned[device] or alert["alert_id"] in written:
                taken.append(alert)
            elif self.settings.mqtt.layout == "sites":
                elsewhere.append(alert)
        return self.alerter.restore(taken, known.ended, elsewhere)

    async def _drain(self) -> None:
        """Bounded by runtime.drain_timeout; what is not settled then stays unacknowledged."""
        self.connections.stop()
        try:
            async with asyncio.timeout(self.settings.runtime.drain_timeout):
                while not self._drained():
                    for runner in self.runners:
                        # A sink that does not answer now must still hand over to its spool.
                        runner.check(self.ledger.oldest(runner.bit))
                    self.outbox_port.retry()
                    await asyncio.sleep(0.005)
        except TimeoutError:
            log.warning("drain timed out", unacknowledged=self.ledger.messages)
        await self.connections.close()
        await self.checkpoints.finish()
        closing = [runner.close() for runner in self.runners]
        closing += [self.dead_letters.close(), self.outbox.close()]
        for error in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(error, OSError):
                log.error("the disk failed in the drain", why=str(error))
            elif isinstance(error, BaseException):
                raise error
        await end(self._tasks)

    @property
    def outbox_bytes(self) -> int:
        return self.outbox.pending_bytes

    @property
    def suppressed_alerts(self) -> int:
        return self.alerter.suppressed

    @property
    def dead_letter_stats(self) -> DeadLetterStats:
        return self.dead_letters.stats

    def _drained(self) -> bool:
        """Everything given to sinks, dead letters and outbox is settled."""
        idle = all(runner.idle for runner in self.runners)
        return idle and self.dead_letter_settler.idle and self.outbox_port.idle
