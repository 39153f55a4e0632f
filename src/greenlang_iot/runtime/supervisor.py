"""The parent: spawns shards, watches their heartbeats, restarts them with a budget, drains them.

Shards come from a fork server that has every kernel loaded (`runtime.preload`). They watch the parent and
die with it (and with the fork server), so SIGKILL of the parent leaves nothing behind.
"""

import asyncio
import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from typing import Any

import structlog

from greenlang_iot.alerts.rule_file import RuleSet
from greenlang_iot.console.questions import Question
from greenlang_iot.devices.columns import Columns
from greenlang_iot.model.errors import GatewayError
from greenlang_iot.runtime.forkserver import shard_process
from greenlang_iot.runtime.reload import Answer, Control, ask
from greenlang_iot.runtime.spec import ShardSpec
from greenlang_iot.runtime.window import Window
from greenlang_iot.settings.model import RuntimeSettings, Settings

log = structlog.get_logger(__name__)
CHECK_EVERY = 0.1
LOOK_WITHIN = 1.0
START_WITHIN = 60.0
"""Seconds until a shard's first heartbeat, if heartbeat_timeout is not longer still: loading kernels and
state takes long on a busy machine, and killing it for that would only begin it again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a second restart, doubled for each further one: a cause that lasts, as a disk that fails, would
spend the budget within three seconds, and the shard would stay down when the cause is gone."""
CLOSE_WITHIN = 5.0
"""Seconds beyond the drain for closing connections, senders and files."""


class _Child:
    """One shard's process over its restarts."""

    def __init__(self, spec: ShardSpec) -> None:
        self.spec = spec
        self.process: ForkServerProcess | None = None
        self.control: Control | None = None
        self.window: Window | None = None
        self.started = 0.0
        self.restarts: deque[float] = deque()
        self.due = 0.0
        """When it is started again; 0: it runs."""
        self.waits = False
        """Starting it failed, and was said."""
        self.total_restarts = 0
        self.failed = False
        self.killed = False

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.is_alive()


class Supervisor:
    """Owns the shard processes.

    heartbeat(shard): monotonic seconds of the shard's last tick (0 = none yet).
    on_restart(shard, reason): called before a shard is started again.
    late(answer): called with what a shard answers to `look` after its time was up.
    """

    def __init__(
        self,
        specs: Sequence[ShardSpec],
        settings: RuntimeSettings,
        heartbeat: Callable[[int], float],
        on_restart: Callable[[int, str], None],
    ) -> None:
        self._children = [_Child(spec) for spec in specs]
        self._settings = settings
        self._heartbeat = heartbeat
        self._on_restart = on_restart
        self.late: Callable[[Any], None] = lambda answer: None
        self._stopping = False
        self._context = multiprocessing.get_context("forkserver")

    @property
    def failed(self) -> list[int]:
        """Shards that spent their restart budget and are down for good."""
        return [child.spec.index for child in self._children if child.failed]

    def alive(self, shard: int) -> bool:
        return self._children[shard].alive

    def pid(self, shard: int) -> int | None:
        process = self._children[shard].process
        return process.pid if process is not None else None

    def restarts(self, shard: int) -> int:
        return self._children[shard].total_restarts

    def start(self) -> None:
        for child in self._children:
            self._spawn(child)

    async def watch(self) -> None:
        """Restart what dies or stops beating; returns after `stop`. GatewayError when all are lost."""
        while not self._stopping:
            for child in self._children:
                if not child.failed:
                    self._check(child)
            if self._children and all(child.failed for child in self._children):
                raise GatewayError(
                    "Every shard failed more often than runtime.restart_budget allows; "
                    "the log says why each ended. Mend that and start again."
                )
            await asyncio.sleep(CHECK_EVERY)

    async def reload(
        self, registry: Columns, settings: Settings, rules: RuleSet
    ) -> dict[int, Answer]:
        """Have every shard take these over; also those that are started later. shard → its answer."""
        asked = []
        for child in self._children:
            child.spec = replace(child.spec, registry=registry, settings=settings, rules=rules)
            if child.alive and child.control is not None:
                asked.append((child.spec.index, child.control))
        answers = await asyncio.gather(
            *(asyncio.to_thread(ask, control, registry, settings, rules) for _, control in asked)
        )
        return {index: answer for (index, _), answer in zip(asked, answers, strict=True)}

    async def look(self, question: Question, within: float = LOOK_WITHIN) -> dict[int, Any]:
        """Shard → its answer; without those that do not answer in time."""
        asked = [(c.spec.index, c.window) for c in self._children if c.alive and c.window]
        answers = await asyncio.gather(*(window.ask(question, within) for _, window in asked))
        return {
            index: answer
            for (index, _), answer in zip(asked, answers, strict=True)
            if answer is not None
        }

    async def stop(self) -> bool:
        """Drain: SIGTERM to all, wait runtime.drain_timeout, then SIGKILL. True if all ended by themselves."""
        self._stopping = True
        for child in self._children:
            if child.alive and child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + self._settings.drain_timeout + CLOSE_WITHIN
        while any(child.alive for child in self._children) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        clean = True
        for child in self._children:
            if child.process is None:
                continue
            if child.process.is_alive():
                log.error("shard did not drain in time: killed", shard=child.spec.index)
                child.process.kill()
                clean = False
            child.process.join(CLOSE_WITHIN)
            # Ended by the signal itself: it had not begun, so there was nothing to drain.
            clean = clean and child.process.exitcode in (0, -signal.SIGTERM)
        return clean

    def _spawn(self, child: _Child) -> None:
        if child.control is not None:
            child.control.close()
        if child.window is not None:
            child.window.close()
        child.control, theirs = self._context.Pipe()
        ours, window = self._context.Pipe()
        child.window = Window(ours, lambda answer: self.late(answer))
        child.process = self._context.Process(
            target=shard_process,
            args=(child.spec, theirs, window),
            name=f"shard-{child.spec.index}",
            daemon=False,
        )
        child.process.start()
        theirs.close()
        window.close()
        child.started = time.monotonic()
        child.killed = False

    def _check(self, child: _Child) -> None:
        process = child.process
        if process is None:
            return
        now = time.monotonic()
        if child.due:
            self._start_again(child, now)
            return
        if not process.is_alive():
            code = process.exitcode
            reason = f"signal {-code}" if code and code < 0 else f"exit code {code}"
            self._restart(child, "no heartbeat" if child.killed else reason)
            return
        if child.killed:  # it ends when the kernel lets it, which may wait for a disk
            return
        beat = self._heartbeat(child.spec.index)
        limit = self._settings.heartbeat_timeout
        if beat < child.started:  # it is starting: no beat yet is no sign of standing still
            beat, limit = child.started, max(limit, START_WITHIN)
        if now - beat > limit:
            log.error(
                "shard stopped beating: killed",
                shard=child.spec.index,
                seconds=round(now - beat, 1),
            )
            process.kill()
            child.killed = True

    def _restart(self, child: _Child, reason: str) -> None:
        now = time.monotonic()
        while child.restarts and now - child.restarts[0] > self._settings.restart_window:
            child.restarts.popleft()
        if len(child.restarts) >= self._settings.restart_budget:
            child.failed = True
            log.error(
                "shard is given up: restart budget spent", shard=child.spec.index, reason=reason
            )
            return
        earlier = len(child.restarts)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (earlier - 1)) if earlier else 0.0
        child.restarts.append(now)
        child.total_restarts += 1
        log.warning("shard restarts", shard=child.spec.index, reason=reason, in_seconds=pause)
        self._on_restart(child.spec.index, reason)
        child.due = now + pause
        self._start_again(child, now)

    def _start_again(self, child: _Child, now: float) -> None:
        if now < child.due:
            return
        try:
            self._spawn(child)
        except (
            OSError,
            EOFError,
        ) as error:  # no descriptor or no memory is left here, or no fork server
            if not child.waits:
                log.error(
                    "a shard cannot be started; it is tried again",
                    shard=child.spec.index,
                    why=str(error) or repr(error),
                )
            child.waits = True
            child.due = now + LONGEST_PAUSE
        else:
            child.waits = False
            child.due = 0.0


def install_signals(
    loop: asyncio.AbstractEventLoop,
    stop: Callable[[], None],
    reload: Callable[[], None] | None = None,
) -> None:
    """SIGINT and SIGTERM both ask for a drain; a second one changes nothing (the drain is bounded).
    SIGHUP asks for a reload, where there is one."""
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    if reload is not None:
        loop.add_signal_handler(signal.SIGHUP, reload)
