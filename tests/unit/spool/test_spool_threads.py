"""Threads are there from the start: what a process does later adds none."""

import asyncio
import threading

import pytest

from greenlang_iot.spool.commit import GroupCommit
from greenlang_iot.spool.threads import started, use_workers


@pytest.fixture
def named() -> set[str]:
    """Names of threads that there were before."""
    return {thread.name for thread in threading.enumerate()}


def new(before: set[str]) -> set[str]:
    return {thread.name for thread in threading.enumerate()} - before


def test_a_pool_has_all_its_threads_before_it_has_work(named: set[str]) -> None:
    pool = started(3, "early")
    assert new(named) == {"early_0", "early_1", "early_2"}
    pool.shutdown()
    assert not new(named)


def test_what_blocks_at_once_shares_the_workers_of_the_loop(named: set[str]) -> None:
    gate = threading.Event()

    async def main() -> tuple[set[str], set[str]]:
        use_workers(2)
        before = new(named)
        blocked = [asyncio.ensure_future(asyncio.to_thread(gate.wait)) for _ in range(10)]
        await asyncio.sleep(0)
        meanwhile = new(named)
        gate.set()
        await asyncio.gather(*blocked)
        return before, meanwhile

    before, meanwhile = asyncio.run(main())
    assert before == meanwhile == {"worker_0", "worker_1"}
    assert not new(named)


def test_a_log_in_a_loop_has_its_thread_before_its_first_commit(named: set[str]) -> None:
    async def main() -> set[str]:
        group = GroupCommit("log-x", 0.01, lambda: None, lambda: 0, lambda: False)
        there = new(named)
        await group.close()
        return there

    assert asyncio.run(main()) == {"log-x_0"}
    assert not new(named)


def test_a_log_without_a_loop_has_none(named: set[str]) -> None:
    GroupCommit("log-y", 0.01, lambda: None, lambda: 0, lambda: False)
    assert not new(named)
