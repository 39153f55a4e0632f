"""Plants one bug, named by FAULTS_SEEDED_BUG, when its module is imported. See `__init__.py`.

FAULTS_SWITCHES names a folder with which a row reaches into the processes for faults that this machine
cannot have made otherwise: `disk` holds an errno and the calls that fail with it, or "slow", the seconds that
calls take at most, and those calls; `clock` the seconds
that the wall clock is wrong by, `memory` the pid of a process that leaks until it can have no more. A file
that is not there is no fault.
"""

import asyncio
import ctypes
import errno
import importlib.abc
import importlib.machinery
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any


def _send_late(runner: Any) -> None:
    genuine = runner._send_once

    async def late(self: Any, chunk: Any) -> None:
        await asyncio.sleep(0.5)
        await genuine(self, chunk)

    runner._send_once = late


def acks_first(module: Any) -> None:
    """Tickets wait for nobody; what they stand for is sent half a second later."""
    _send_late(module.Runner)
    genuine = module.Pipeline._open_ticket

    def bug(self: Any, frames: Any, decoded: Any, alerts: bool) -> int:
        required, self._required = self._required, 0
        try:
            return genuine(self, frames, decoded, alerts)
        finally:
            self._required = required

    module.Pipeline._open_ticket = bug


def forgets_chunks(module: Any) -> None:
    """Every tenth chunk counts as delivered and was not sent."""
    genuine = module.Runner._send_once

    async def bug(self: Any, chunk: Any) -> None:
        if self._orders % 10 != 9:
            await genuine(self, chunk)

    module.Runner._send_once = bug


def sends_twice(module: Any) -> None:
    """Every tenth chunk is delivered twice."""
    genuine = module.Runner._send_once

    async def bug(self: Any, chunk: Any) -> None:
        await genuine(self, chunk)
        if self._orders % 10 == 9:
            await genuine(self, chunk)

    module.Runner._send_once = bug


def forgets_failed(module: Any) -> None:
    """A chunk that failed counts as delivered."""
    genuine = module.Runner._send_once

    async def bug(self: Any, chunk: Any) -> None:
        try:
            await genuine(self, chunk)
        except module.SinkError as error:
            self._note_failure(error)

    module.Runner._send_once = bug


def forgets_backlog(module: Any) -> None:
    """Every other record of the spool counts as delivered and was not sent."""
    genuine = module.Runner._replay_one
    calls = 0

    async def bug(self: Any, chunk: Any) -> bool:
        nonlocal calls
        calls += 1
        return True if calls % 2 else await genuine(self, chunk)

    module.Runner._replay_one = bug


def spool_lies(module: Any) -> None:
    """A record counts as durable before it is written, and it is written late."""

    async def bug(self: Any, number: int) -> None:
        self._group._every = 5.0

    module.SegmentLog.durable = bug


def damaged_ledger_releases(module: Any) -> None:
    """A spool whose ledger is damaged counts as delivered."""
    genuine = module.Store._recover

    def bug(self: Any) -> None:
        genuine(self)
        if (self.folder / "ledger.damaged").exists():
            self.released = self.last

    module.Store._recover = bug


def refused_writes_count(module: Any) -> None:
    """A record that the disk did not take counts as durable."""
    genuine = module.Store.write

    def bug(self: Any, records: Any) -> None:
        try:
            genuine(self, records)
        except OSError:
            self.last = records[-1].number

    module.Store.write = bug


def full_spool_drops(module: Any) -> None:
    """A full spool drops a required sink's chunk and calls it settled."""
    genuine = module.Runner._write

    def bug(self: Any, chunk: Any) -> int:
        record = genuine(self, chunk)
        if record is None:
            self._settle(self.bit, chunk.first_ticket, chunk.last_ticket)
            return -1
        return record

    module.Runner._write = bug


def drain_forgets(module: Any) -> None:
    """The drain settles what still waits instead of delivering it; sending takes half a second."""
    _send_late(module.Runner)

    def bug(self: Any) -> bool:
        for runner in self.runners:
            self._settle(runner.bit, 1, self.ledger._newest)
        return True

    module.Shard._drained = bug


def stale_acks(module: Any) -> None:
    """Acknowledgements go to whatever connection is there now."""

    def bug(self: Any, connection: int, packet_ids: Any) -> None:
        for owner in self.connections:
            owner.acknowledge(owner.number, packet_ids)

    module.Shard._acknowledge = bug


def never_reconnects(module: Any) -> None:
    """A connection that is lost stays lost."""

    async def bug(self: Any) -> None:
        try:
            await self._live()
        except module.MqttError as error:
            self._tell(error)

    module.Connection._stay_connected = bug


def takes_back(module: Any) -> None:
    """A session that another client took over is taken back, again and again."""
    genuine = module.Connection._tell

    def bug(self: Any, error: Any) -> None:
        error.retryable = True
        genuine(self, error)

    module.Connection._tell = bug


def no_adoption(module: Any) -> None:
    """What vanished shards left behind is nobody's."""
    module.abandoned = lambda *_: []


def gives_up_on_files(module: Any) -> None:
    """Wrong TLS files end a connection for good."""

    def bug(self: Any, tls: Any) -> Any:
        return module.ssl_context(tls)

    module.Connection._context = bug


def dead_letters_lie(module: Any) -> None:
    """A dead letter counts as durable before it is written, and it is written late."""

    async def bug(self: Any, number: int) -> None:
        if hasattr(self._target, "_group"):
            self._target._group._every = 5.0

    module.DeadLetterWriter.durable = bug


def trusts_the_clock(module: Any) -> None:
    """Time stamps are judged by a clock that stepped."""
    module.ClockWatch.doubts = lambda *_: False


def reload_trusts_files(module: Any) -> None:
    """A reload that fails ends the gateway."""
    genuine = module.Reloader.reload

    async def bug(self: Any) -> Any:
        answer = await genuine(self)
        os._exit(1)
        return answer

    module.Reloader.reload = bug


def letters_forgotten(module: Any) -> None:
    """A dead letter that Kafka does not take counts as kept."""
    genuine = module._KafkaTarget._offer

    async def bug(self: Any, key: bytes, line: bytes) -> bool:
        await genuine(self, key, line)
        return True

    module._KafkaTarget._offer = bug


def best_effort_waits(module: Any) -> None:
    """Tickets wait for best-effort sinks, too."""
    genuine = module.Pipeline.__init__

    def bug(self: Any, *arguments: Any, **named: Any) -> None:
        genuine(self, *arguments, **named)
        self._required = sum(runner.bit for runner in self.runners)

    module.Pipeline.__init__ = bug


def kernels_unchecked(module: Any) -> None:
    """Compiled kernels are trusted as they are found."""

    def bug() -> None:
        module.COMPILED.write_bytes(b"{}")

    module.seal = bug


def rates_drop(module: Any) -> None:
    """What is over a rate is acknowledged and kept nowhere."""
    genuine = module.Decoder.decode

    def bug(self: Any, *arguments: Any, **named: Any) -> Any:
        decoded = genuine(self, *arguments, **named)
        decoded.rejects = [r for r in decoded.rejects if r.paths[0][1] != "over_rate"]
        return decoded

    module.Decoder.decode = bug


def alerts_skipped(module: Any) -> None:
    """Every fifth transition is kept from one target."""
    genuine = module.Target.add

    def bug(self: Any, items: list[Any]) -> None:
        self.bug = getattr(self, "bug", 0)
        kept = [item for n, item in enumerate(items, self.bug) if n % 5 != 4]
        self.bug += len(items)
        self.done += len(items) - len(kept)
        if kept:
            genuine(self, kept)

    module.Target.add = bug


def alerts_lie(module: Any) -> None:
    """A transition counts as durable before it is written, and it is written late."""

    async def bug(self: Any, number: int) -> None:
        self._log._group._every = 5.0

    module.Outbox.durable = bug


def alerts_stay(module: Any) -> None:
    """Every third alert is not resolved."""
    genuine = module.OutboxPort.submit
    seen = 0

    def bug(self: Any, transitions: list[Any], ticket: int) -> None:
        nonlocal seen
        seen += 1
        over = [t for t in transitions if t.state == "resolved"]
        kept = [t for t in transitions if not (seen % 3 == 0 and t in over)]
        if kept:
            genuine(self, kept, ticket)
        elif ticket:
            self._settler.add(0, ticket)

    module.OutboxPort.submit = bug


def alerts_backwards(module: Any) -> None:
    """What is polled together goes out in the wrong order; it is polled every few seconds."""
    genuine = module.OutboxReader.poll
    polls = 0

    def bug(self: Any, records: int = 1000) -> list[Any]:
        nonlocal polls
        polls += 1
        found: list[Any] = [] if polls % 50 else genuine(self, records)
        self.given.reverse()
        return found

    module.OutboxReader.poll = bug


BUGS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "acks_first": ("greenlang_iot.pipeline", acks_first),
    "forgets_chunks": ("greenlang_iot.sinks.runner", forgets_chunks),
    "sends_twice": ("greenlang_iot.sinks.runner", sends_twice),
    "forgets_failed": ("greenlang_iot.sinks.runner", forgets_failed),
    "forgets_backlog": ("greenlang_iot.sinks.runner", forgets_backlog),
    "spool_lies": ("greenlang_iot.spool.log", spool_lies),
    "damaged_ledger_releases": ("greenlang_iot.spool.store", damaged_ledger_releases),
    "refused_writes_count": ("greenlang_iot.spool.store", refused_writes_count),
    "full_spool_drops": ("greenlang_iot.sinks.runner", full_spool_drops),
    "drain_forgets": ("greenlang_iot.runtime.shard", drain_forgets),
    "stale_acks": ("greenlang_iot.runtime.shard", stale_acks),
    "never_reconnects": ("greenlang_iot.mqtt.transport", never_reconnects),
    "takes_back": ("greenlang_iot.mqtt.transport", takes_back),
    "gives_up_on_files": ("greenlang_iot.mqtt.transport", gives_up_on_files),
    "dead_letters_lie": ("greenlang_iot.sinks.deadletter", dead_letters_lie),
    "trusts_the_clock": ("greenlang_iot.runtime.clockwatch", trusts_the_clock),
    "reload_trusts_files": ("greenlang_iot.runtime.reloader", reload_trusts_files),
    "letters_forgotten": ("greenlang_iot.sinks.deadletter", letters_forgotten),
    "best_effort_waits": ("greenlang_iot.pipeline", best_effort_waits),
    "kernels_unchecked": ("greenlang_iot.model.kernel_cache", kernels_unchecked),
    "rates_drop": ("greenlang_iot.decode.decoder", rates_drop),
    "alerts_skipped": ("greenlang_iot.runtime.alert_targets", alerts_skipped),
    "alerts_lie": ("greenlang_iot.sinks.outbox", alerts_lie),
    "alerts_stay": ("greenlang_iot.runtime.durable", alerts_stay),
    "alerts_backwards": ("greenlang_iot.sinks.outbox", alerts_backwards),
    "no_adoption": ("greenlang_iot.runtime.sinks", no_adoption),
}


class _Planter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module as usual, then plants the bug in it."""

    def __init__(self, name: str, plant: Callable[[Any], None]) -> None:
        self._name = name
        self._plant = plant
        self._genuine: importlib.abc.Loader | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None:
            self._genuine, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert self._genuine is not None
        self._genuine.exec_module(module)
        self._plant(module)


def _failing_disk(folder: str) -> Callable[[Any], None]:
    """Calls of `OsFiles` fail while the switch names them."""

    def plant(module: Any) -> None:
        def wrapped(name: str, genuine: Callable[..., Any]) -> Callable[..., Any]:
            def call(self: Any, *arguments: Any) -> Any:
                code, *calls = _switch(folder, "disk").split() or [""]
                if code == "slow" and name in calls[1:]:
                    time.sleep(random.random() ** 3 * float(calls[0]))  # most of them not for long
                elif name in calls:
                    raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
                return genuine(self, *arguments)

            return call

        for name in ("create", "write", "sync", "sync_path", "sync_folder", "rename", "unlink"):
            setattr(module.OsFiles, name, wrapped(name, getattr(module.OsFiles, name)))

    return plant


def _stepping_clock(folder: str) -> None:
    """`time.time` and `time.time_ns` follow the switch; it is read every 20 ms, and memory leaks then."""
    genuine, read_at, step_ns = time.time_ns, 0.0, 0

    def time_ns() -> int:
        nonlocal read_at, step_ns
        now = time.monotonic()
        if now - read_at > 0.02:
            read_at, step_ns = now, int(float(_switch(folder, "clock") or 0) * 1e9)
            if _switch(folder, "memory") == str(os.getpid()):
                _take_all_memory()
        return genuine() + step_ns

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def _take_all_memory() -> None:
    """All that malloc has left, in ever smaller pieces, for good. Only where RLIMIT_DATA ends it."""
    if resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY:
        return
    malloc = ctypes.CDLL(None).malloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    for size in (1 << 20, 1 << 16, 1 << 12, 1 << 9):
        while malloc(size):
            pass


def _switch(folder: str, name: str) -> str:
    try:
        with open(f"{folder}/{name}") as file:
            return file.read()
    except FileNotFoundError:
        return ""


_bug = os.environ.get("FAULTS_SEEDED_BUG")
if _bug:
    sys.meta_path.insert(0, _Planter(*BUGS[_bug]))
_switches = os.environ.get("FAULTS_SWITCHES")
if _switches:
    sys.meta_path.insert(0, _Planter("greenlang_iot.spool.files", _failing_disk(_switches)))
    _stepping_clock(_switches)
