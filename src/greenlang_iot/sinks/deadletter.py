"""Where rejected messages and refused lines are kept until somebody looks at them.

1. A dead letter is settled when it is durable: its file synced, or published with acks=all.
2. Its bounds are a rate per device and bytes in all. Beyond them a digest takes its place: a count
   and a SHA-256 chain per reason, as durable as a dead letter, and counted in `digested`.
3. After a failed write or sync what was not durable is written again, to a new file, so that a dead
   letter may be there twice and the last line of a file may be torn; it is never lost. A new file with
   which that fails is removed: a disk that fails for hours is not filled by what was tried.
"""

import asyncio
import contextlib
import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from greenlang_iot.encode.deadletter import decode, encode, from_refused, from_rejects
from greenlang_iot.model.batches import Reject
from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.model.outcomes import DeadLetter, Refused
from greenlang_iot.settings.model import DeadLetterSettings
from greenlang_iot.spool.commit import GroupCommit
from greenlang_iot.spool.files import OS_FILES, Files, replace_durably

FILE_BYTES = 1 << 26
MAX_PENDING = 1 << 26
"""Bytes that may wait in memory for the disk or for Kafka; beyond it: digests."""
PUBLISHED_AT_ONCE = 250
"""Dead letters that Kafka is given together."""
MAX_BUCKETS = 10_000
"""Devices whose rate is followed; the longest unseen is forgotten first."""
ASK_AGAIN = 5.0
"""Seconds for which Kafka is not asked after it was away."""
DIGEST_FILE = "digest.jsonl"

log = structlog.get_logger(__name__)

Publish = Callable[[str, bytes, bytes], Awaitable[None]]
"""(topic, key, value): returns when the record is acknowledged by all replicas."""


@dataclass(slots=True, frozen=True)
class DeadLetterStats:
    """What this process has kept, and what is on disk."""

    kept: int  # dead letters kept whole, by this process
    digested: dict[str, int]  # of which only the digest was kept, by bound, by this process
    nbytes: int  # in files and waiting
    failures: int  # commits that failed


class _Target(Protocol):
    """Makes entries durable, in order; `durable` is the newest number that is."""

    durable: int

    def put(self, number: int, key: bytes, line: bytes) -> None: ...
    def put_digest(self, number: int, reason: str, line: bytes) -> None: ...
    async def wait(self, number: int) -> None: ...
    async def close(self) -> None: ...

    @property
    def failures(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def pending_bytes(self) -> int: ...


class DeadLetterWriter:
    """One shard's dead letters. `submit…` never blocks and never refuses.

    publish: needed for the target kafka; `topic` is where it goes. Raises OSError, InputError.
    """

    def __init__(
        self,
        settings: DeadLetterSettings,
        folder: Path,
        publish: Publish | None = None,
        topic: str = "iot.deadletter",
        *,
        files: Files = OS_FILES,
    ) -> None:
        self._settings = settings
        self._number = 0
        self._kept = 0
        self._digested = {"device_rate": 0, "max_bytes": 0}
        self._buckets = _Buckets(settings.device_rate)
        self._chains = {}
        for letter in _read_digests(folder, files):
            self._chains[letter.answer] = (letter.count, bytes.fromhex(letter.digest))
        if settings.target == "kafka" and publish is None:
            raise InputError("sinks.dead_letter.target is kafka, but sinks.kafka is not enabled")
        in_files = _FileTarget(folder, settings.fsync_every, files)
        self._target: _Target = in_files
        if settings.target == "kafka" and publish is not None:
            self._target = _KafkaTarget(publish, topic, in_files)

    def submit(self, rejects: Sequence[Reject], received_ns: int) -> int:
        """Keep what was rejected at decode; the number to await."""
        return self._submit(from_rejects(rejects, received_ns))

    def submit_refused(self, sink: str, refused: Sequence[Refused], now_ns: int) -> int:
        """Keep what a sink refused for good; the number to await."""
        return self._submit(from_refused(sink, refused, now_ns))

    def _submit(self, letters: Iterable[DeadLetter]) -> int:
        for letter in letters:
            self._number += 1
            line = encode(letter)
            bound = self._bound_passed(letter, len(line) + 1)
            if bound is None:
                self._kept += 1
                self._target.put(self._number, (letter.device or letter.sink).encode(), line)
            else:
                self._digest(bound, letter.ts_ns, line)
        return self._number

    def _bound_passed(self, letter: DeadLetter, size: int) -> str | None:
        if letter.kind == "message" and not self._buckets.take(
            letter.device or letter.topic, letter.ts_ns
        ):
            return "device_rate"
        target = self._target
        if target.nbytes + size > self._settings.max_bytes:
            return "max_bytes"
        return "max_bytes" if target.pending_bytes + size > MAX_PENDING else None

    def _digest(self, reason: str, ts_ns: int, line: bytes) -> None:
        count, digest = self._chains.get(reason, (0, bytes(32)))
        count, digest = count + 1, hashlib.sha256(digest + line).digest()
        self._chains[reason] = (count, digest)
        if self._digested[reason] == 0:
            log.error("dead letters beyond the bound: only a digest is kept", bound=reason)
        self._digested[reason] += 1
        letter = DeadLetter("digest", ts_ns, answer=reason, count=count, digest=digest.hex())
        self._target.put_digest(self._number, reason, encode(letter))

    async def durable(self, number: int) -> None:
        """Return when everything up to that number is durable."""
        await self._target.wait(number)

    @property
    def stats(self) -> DeadLetterStats:
        return DeadLetterStats(
            self._kept, dict(self._digested), self._target.nbytes, self._target.failures
        )

    async def close(self) -> None:
        """Make durable what is pending. Raises OSError."""
        await self._target.close()


class _Buckets:
    """A token bucket per device: `rate` a second, at most one second's worth at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = max(1.0, rate)
        self._tokens: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, device: str, now_ns: int) -> bool:
        tokens, since = self._tokens.pop(device, (self._burst, now_ns))
        tokens = min(self._burst, tokens + max(0, now_ns - since) * 1e-9 * self._rate)
        taken = tokens >= 1.0
        # not the later of the two: a clock that was ahead for a day would stop the refill for a day
        self._tokens[device] = (tokens - 1.0 if taken else tokens, now_ns)
        if len(self._tokens) > MAX_BUCKETS:
            self._tokens.popitem(last=False)
        return taken


class _FileTarget:
    """JSON lines in files that are named by a number counting up, synced in groups."""

    def __init__(self, folder: Path, fsync_every: float, files: Files) -> None:
        self.durable = 0
        self.failures = 0
        self._folder = folder
        self._files = files
        files.make_folder(folder)
        existing = _letter_files(folder, files)
        self._next_file = _file_number(existing[-1]) + 1 if existing else 1
        self._stored = self._measure()
        self._path = folder  # of the open file
        self._fd: int | None = None
        self._file_size = 0
        self._pending: list[tuple[int, bytes]] = []
        self._put_bytes = 0  # written by `put` only
        self._committed_bytes = 0  # written by `_commit` only
        self._digests = {d.answer: encode(d) for d in _read_digests(folder, files)}
        self._digested_number = 0
        self._digests_durable = 0
        self._lock = threading.Lock()  # one commit at a time
        self._handover = threading.Lock()  # a commit sees letters and digests of one moment
        self._group = GroupCommit(
            "dead-letter",
            fsync_every,
            self._commit,
            lambda: self.durable,
            lambda: bool(self._pending) or self._digested_number > self._digests_durable,
        )

    @property
    def pending_bytes(self) -> int:
        return self._put_bytes - self._committed_bytes

    @property
    def nbytes(self) -> int:
        return self._stored + self.pending_bytes

    def put(self, number: int, key: bytes, line: bytes) -> None:
        with self._handover:
            self._put_bytes += len(line) + 1
            self._pending.append((number, line + b"\n"))
        self._group.soon()

    def put_digest(self, number: int, reason: str, line: bytes) -> None:
        with self._handover:
            self._digests[reason] = line
            self._digested_number = number
        self._group.soon()

    async def wait(self, number: int) -> None:
        await self._group.wait(number)

    async def close(self) -> None:
        try:
            await self._group.close()
        finally:
            self._leave_file()

    def _commit(self) -> None:
        with self._lock:
            with self._handover:
                digested, digests = self._digested_number, list(self._digests.values())
                batch = self._pending[:]
            newest = max(digested, batch[-1][0] if batch else 0)
            try:
                if digested > self._digests_durable:
                    self._stored = self._measure()  # files may have been moved away, to make room
                    content = b"".join(line + b"\n" for line in digests)
                    replace_durably(self._files, self._folder / DIGEST_FILE, content)
                    self._digests_durable = digested
                if batch:
                    self._write([line for _, line in batch])
            except OSError as error:
                self._give_up_file()
                self.failures += 1
                log.error("dead letters are not durable yet", error=str(error))
                raise
            del self._pending[: len(batch)]
            size = sum(len(line) for _, line in batch)
            self._stored += size
            self._committed_bytes += size
            self.durable = max(self.durable, newest)

    def _write(self, lines: list[bytes]) -> None:
        if self._file_size >= FILE_BYTES or not self._size(self._path):  # or it was moved away
            self._leave_file()
        fresh = self._fd is None
        if self._fd is None:
            self._path = self._folder / f"dead-letters-{self._next_file:012d}.jsonl"
            self._fd = self._files.create(self._path)
            self._file_size = 0
        self._files.write(self._fd, lines)
        self._files.sync(self._fd)
        if fresh:
            self._files.sync_folder(self._folder)
            self._next_file += 1
        self._file_size += sum(map(len, lines))

    def _measure(self) -> int:
        """Bytes of the files that are there now. OSError."""
        return sum(map(self._size, _letter_files(self._folder, self._files)))

    def _size(self, path: Path) -> int:
        try:
            return self._files.size(path)
        except FileNotFoundError:
            return 0

    def _give_up_file(self) -> None:
        """What was written last is not durable: the next try is in a new file."""
        tried = self._fd is not None and not self._file_size
        self._leave_file()
        with contextlib.suppress(OSError):
            if tried:
                self._files.unlink(self._path)
            self._stored = self._measure()  # a torn end takes room, too

    def _leave_file(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._files.close(fd)


class _KafkaTarget:
    """Records of the dead-letter topic; one group is in flight, the next one gathers meanwhile.

    What Kafka refuses, and what comes while it is away, goes to the files, where it stays: whoever
    reads dead letters reads both.
    """

    def __init__(self, publish: Publish, topic: str, files: _FileTarget) -> None:
        self.durable = 0
        self._publish = publish
        self._topic = topic
        self._files = files
        self._failures = 0
        self._waiting_bytes = 0
        self._pending: list[tuple[int, bytes, bytes]] = []
        self._digests: dict[str, tuple[int, bytes]] = {}
        self._newest = 0
        self._away_until = -math.inf  # loop time
        self._task: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()

    @property
    def failures(self) -> int:
        return self._failures + self._files.failures

    @property
    def pending_bytes(self) -> int:
        return self._waiting_bytes + self._files.pending_bytes

    @property
    def nbytes(self) -> int:
        """What waits here and what lies in files; Kafka's is bounded by the topic's retention."""
        return self._waiting_bytes + self._files.nbytes

    def put(self, number: int, key: bytes, line: bytes) -> None:
        self._waiting_bytes += len(line) + 1
        self._pending.append((number, key, line))
        self._start(number)

    def put_digest(self, number: int, reason: str, line: bytes) -> None:
        self._digests[reason] = (number, line)
        self._start(number)

    def _start(self, number: int) -> None:
        self._newest = number
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self.durable < self._newest:
            batch, digests = self._pending[:PUBLISHED_AT_ONCE], self._digests
            self._pending, self._digests = self._pending[PUBLISHED_AT_ONCE:], {}
            newest = batch[-1][0] if self._pending else self._newest
            items = [(key, line) for _, key, line in batch]
            items += [(reason.encode(), line) for reason, (_, line) in digests.items()]
            taken = await asyncio.gather(*(self._offer(key, line) for key, line in items))
            in_files = 0
            for (number, key, line), done in zip(batch, taken, strict=False):
                if not done:
                    self._files.put(in_files := number, key, line)
            for (reason, (_, line)), done in zip(digests.items(), taken[len(batch) :], strict=True):
                if not done:
                    self._files.put_digest(in_files := newest, reason, line)
            self._waiting_bytes -= sum(len(line) + 1 for _, _, line in batch)
            if in_files:
                await self._files.wait(in_files)
            self.durable = newest
            async with self._moved:
                self._moved.notify_all()
        self._task = None

    async def _offer(self, key: bytes, line: bytes) -> bool:
        """Whether Kafka has it now."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._away_until:
            return False
        try:
            await self._publish(self._topic, key, line)
        except (Exception, asyncio.CancelledError) as error:
            # also a mistake of ours, or a client that cancels itself: nobody must wait for ever
            self._failures += 1
            refused = isinstance(error, SinkError) and not (error.retryable or error.down)
            if not refused:
                self._away_until = loop.time() + ASK_AGAIN
            log.error(
                "Kafka does not take a dead letter: it goes to the files",
                why=str(error) or repr(error),
            )
            return False
        return True

    async def wait(self, number: int) -> None:
        async with self._moved:
            await self._moved.wait_for(lambda: self.durable >= number)

    async def close(self) -> None:
        if self._task is not None:
            await self._task
        await self._files.close()


def read_dead_letters(folder: Path, *, files: Files = OS_FILES) -> Iterator[DeadLetter]:
    """Every dead letter of a folder and the folders in it (one per shard), oldest first, each
    folder's digests last. Works while writers run; a torn last line of a file is left out."""
    try:
        names = sorted(files.names(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        if "." not in name:
            yield from read_dead_letters(folder / name, files=files)
    for path in _letter_files(folder, files):
        yield from _read_lines(path, files)
    yield from _read_digests(folder, files)


def _letter_files(folder: Path, files: Files) -> list[Path]:
    names = [
        n for n in files.names(folder) if n.startswith("dead-letters-") and n.endswith("jsonl")
    ]
    return [folder / name for name in sorted(names)]


def _file_number(path: Path) -> int:
    return int(path.stem.removeprefix("dead-letters-"))


def _read_digests(folder: Path, files: Files) -> list[DeadLetter]:
    try:
        return list(_read_lines(folder / DIGEST_FILE, files))
    except FileNotFoundError:
        return []


def _read_lines(path: Path, files: Files) -> Iterator[DeadLetter]:
    data = files.read(path, 0, files.size(path))
    # What follows the last line's end is torn or still being written: not durable in any case.
    for line in data.split(b"\n")[:-1]:
        try:
            yield decode(line)
        except ValueError as error:
            log.error("a dead letter cannot be read", file=str(path), why=str(error))
