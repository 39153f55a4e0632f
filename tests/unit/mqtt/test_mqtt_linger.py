"""The clock that all connections of a shard share."""

import asyncio
from functools import partial

from greenlang_iot.mqtt.link import Linger


async def over(linger: Linger) -> None:
    """Until the time of what waits now is over."""
    done = asyncio.Event()
    linger.add(done.set)
    async with asyncio.timeout(5):
        await done.wait()


async def test_all_that_wait_are_called_once_in_one_turn_of_the_loop_and_in_order() -> None:
    linger, turn, calls = Linger(0.001), [0], []

    def called(name: str) -> None:
        calls.append((name, turn[0]))
        asyncio.get_running_loop().call_soon(turn.__setitem__, 0, turn[0] + 1)

    first, second = partial(called, "first"), partial(called, "second")
    for process in (first, second, first):
        linger.add(process)
    await over(linger)
    assert calls == [("first", 0), ("second", 0)]
    await over(linger)
    assert len(calls) == 2


async def test_what_was_discarded_is_not_called_also_by_one_that_is_called_before_it() -> None:
    linger, calls = Linger(0.001), []
    away, later = partial(calls.append, "away"), partial(calls.append, "later")
    linger.add(away)
    linger.discard(away)
    linger.add(lambda: linger.discard(later))
    linger.add(later)
    await over(linger)
    assert calls == []
    linger.add(away)
    await over(linger)
    assert calls == ["away"]
