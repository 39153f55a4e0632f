"""One reload between parent and shard: whose answer is whose, and what a failure half-way means."""

import asyncio
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest

from greenlang_iot.alerts.rule_file import NO_RULES
from greenlang_iot.model.errors import InputError
from greenlang_iot.runtime import reload as module
from greenlang_iot.runtime.reload import Answer, answer_reloads, ask
from greenlang_iot.settings.model import Settings


class Registry:
    """Stands in for `Columns`."""

    n_devices = n_series = 0

    def open(self) -> "Registry":
        return self

    def forget(self) -> None:
        return


class Shard:
    """Counts its reloads; `failure` is raised instead."""

    def __init__(self) -> None:
        self.reloads = 0
        self.failure: Exception | None = None

    def reload(self, *_: Any) -> Any:
        self.reloads += 1
        if self.failure is not None:
            raise self.failure
        return SimpleNamespace(added=self.reloads, removed=0, moved=0)


REQUEST: Any = (Registry(), Settings(), NO_RULES)


async def test_an_answer_that_came_too_late_is_not_the_next_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = Pipe()
    shard = Shard()
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.0)
    assert ask(ours, *REQUEST) == Answer(error="no answer within 0 s")
    monkeypatch.setattr(module, "ANSWER_WITHIN", 30.0)
    answer_reloads(shard, theirs)
    assert await asyncio.to_thread(ask, ours, *REQUEST) == Answer(added=2)
    shard.failure = InputError("no such site")
    assert await asyncio.to_thread(ask, ours, *REQUEST) == Answer(error="no such site")
    asyncio.get_running_loop().remove_reader(theirs.fileno())


async def test_a_reload_that_breaks_half_way_ends_the_shard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some of it holds the old registry and some the new one: nothing it says could be trusted."""
    ended: list[int] = []
    ours, theirs = Pipe()

    def end(code: int) -> None:
        ended.append(code)
        asyncio.get_running_loop().remove_reader(theirs.fileno())
        theirs.close()

    monkeypatch.setattr(module.os, "_exit", end)
    shard = Shard()
    shard.failure = ZeroDivisionError("a mistake of ours")
    answer_reloads(shard, theirs)
    answer = await asyncio.to_thread(ask, ours, *REQUEST)
    assert answer == Answer(
        error="the shard ended meanwhile; it starts again with the new registry"
    )
    assert ended == [1]
