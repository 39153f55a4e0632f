"""The clock that all connections of a shard share."""

import asyncio
import socket
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from greenlang_iot.mqtt.linger import FEWEST, LONGEST, LOOK, MOST, WORTH_FLUSHING, Linger


async def over(linger: Linger) -> None:
    """Until the time of what waits now is over."""
    done = asyncio.Event()
    linger.add(done.set)
    async with asyncio.timeout(20):
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


async def test_what_is_woken_is_read_before_it_is_gone_through() -> None:
    """The loop looks at its sockets between the two."""
    linger, calls = Linger(0.001), []
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()

    def wake() -> bool:
        calls.append("wake")
        far.send(b"x")
        return True

    def read() -> None:
        calls.append("read")
        near.recv(1)
        linger.add(lambda: calls.append("what was read"), wake=lambda: False)

    loop.add_reader(near, read)
    try:
        linger.add(lambda: calls.append("process"), wake)
        linger.add(lambda: None, lambda: False)
        await over(linger)
    finally:
        loop.remove_reader(near)
        near.close()
        far.close()
    assert calls == ["wake", "read", "process", "what was read"]


class Shares:
    """Clocks of a thread that uses, of each such time in seconds, the share that is next."""

    def __init__(self, *shares: float, each: float = 1.0) -> None:
        self._shares = list(shares)
        self._each = each
        self._now = (100.0, 10.0)

    def __call__(self) -> tuple[float, float]:
        now = self._now
        if self._shares:
            used = self._each * self._shares.pop(0)
            self._now = (now[0] + self._each, now[1] + used)
        return now


async def lengths(*shares: float, each: float = 1.0) -> list[float]:
    """How long the linger is after each of these times, in settings."""
    linger = Linger(0.0005, Shares(*shares, each=each))
    found = []
    for _ in shares:
        await over(linger)
        found.append(linger.seconds / 0.0005)
    return found


async def test_it_is_longer_while_the_shard_has_no_time_to_spare_and_shorter_again_afterwards() -> (
    None
):
    assert await lengths(0.3, 0.95, 0.95, 0.95, 0.95, 1.0) == [1, 2, 4, 8, 8, 8]
    assert await lengths(1.0, 1.0, 1.0, 0.7, 0.5, 0.5, 0.5, 0.1) == [2, 4, 8, 8, 4, 2, 1, 1]


async def test_one_late_flush_among_others_says_nothing_of_how_busy_the_shard_is() -> None:
    each = LOOK / 4.5
    assert await lengths(0.3, 0.3, 1.0, 1.0, 0.3, each=each) == [1] * 5
    assert await lengths(*[0.9] * 10, each=each) == [1] * 4 + [2] * 5 + [4]
    assert await lengths(*[0.9] * 10, *[0.7] * 20, each=each) == [1] * 4 + [2] * 5 + [4] * 21


@given(st.lists(st.floats(0.0, 1.0), max_size=6))
def test_it_is_always_within_its_bounds(shares: list[float]) -> None:
    assert all(1 <= times <= LONGEST for times in asyncio.run(lengths(*shares)))


async def test_two_looks_at_the_same_moment_are_no_division_by_zero() -> None:
    linger = Linger(0.001, lambda: (1.0, 1.0))
    await over(linger)
    assert linger.seconds == 0.001


async def flushed_after(*came: int, linger: Linger | None = None) -> int:
    """At which look it is flushed, where so many bytes wait at each."""
    linger = linger or Linger(0.0005, lambda: (1.0, 1.0))
    looks, done = iter(came), asyncio.Event()
    linger.add(done.set, came=lambda: next(looks))
    async with asyncio.timeout(5):
        await done.wait()
    return len(came) - len(list(looks))


async def test_it_is_repeated_while_little_has_come_and_more_comes() -> None:
    assert await flushed_after(WORTH_FLUSHING, 0) == 1
    assert await flushed_after(1, 600, WORTH_FLUSHING, 0) == 3
    assert await flushed_after(1_000, WORTH_FLUSHING, 0) == 2
    assert await flushed_after(*range(20, 200, 20)) == LONGEST
    assert await flushed_after(*[20] * 9) == LONGEST  # more may still come
    assert await flushed_after(300, 600, 900, 1_200, 1_200, 1_500, 1_500, 1_600) == LONGEST


async def test_who_sends_no_more_before_the_answer_waits_for_no_more() -> None:
    """A broker that leaves twenty messages unanswered at most would send a quarter of them."""
    linger = Linger(0.0005, lambda: (1.0, 1.0))
    for pause in (FEWEST, 2 * FEWEST):
        assert await flushed_after(2_000, 2_000, 2_000, linger=linger) == 2
        for _ in range(pause):
            assert await flushed_after(2_000, 2_000, linger=linger) == 0
    assert await flushed_after(2_000, 2_100, WORTH_FLUSHING, linger=linger) == 3  # now more came
    assert await flushed_after(900, 2_400, 2_400, 2_400, linger=linger) == 3  # looked at half of it
    for _ in range(FEWEST):
        assert await flushed_after(2_000, 2_000, linger=linger) == 0
    assert await flushed_after(2_000, 2_000, 2_000, linger=linger) == 2


async def test_a_broker_that_sends_one_message_at_a_time_waits_seldom() -> None:
    """Its throughput is one message a linger."""
    linger = Linger(0.0001, lambda: (1.0, 1.0))
    for pause in (16, 32, 64, 128, MOST, MOST):
        looks = [await flushed_after(*[150] * 9, linger=linger) for _ in range(1 + pause)]
        assert looks == [LONGEST] + [0] * pause


async def test_a_linger_that_is_long_already_is_not_repeated_beyond_its_bound() -> None:
    linger = Linger(0.0005, Shares(1.0, 1.0, 1.0))
    await over(linger)  # twice as long from here on
    assert await flushed_after(*range(1, 9), linger=linger) == LONGEST - 1
    assert await flushed_after(*range(1, 9), linger=linger) == LONGEST - 3
