"""The parent's side of `looks`: questions to a shard and its answers."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from greenlang_iot.console.questions import Question
from greenlang_iot.runtime.reload import Control

UNANSWERED: Final = 8
"""Questions that may wait for a shard that is stuck; no more are sent then."""


class Window:
    """The parent's side: one shard's pipe, on the parent's loop. A shard that is stuck costs a wait.

    late: is given the answers for which nobody waited any more.
    """

    def __init__(self, pipe: Control, late: Callable[[Any], None]) -> None:
        self._pipe = pipe
        self._late = late
        self._asked = self._answered = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pipe.fileno(), self._readable)

    async def ask(self, question: Question, within: float) -> Any:
        """The answer; None where the shard ended or does not answer in time."""
        if self._asked - self._answered >= UNANSWERED or self._pipe.closed:
            return None
        self._asked += 1
        number, future = self._asked, self._loop.create_future()
        try:
            self._pipe.send((number, question))
        except OSError:
            return None
        self._waiting[number] = future
        try:
            return await asyncio.wait_for(future, within)
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """The shard ended: nobody is left waiting."""
        if not self._pipe.closed:
            self._loop.remove_reader(self._pipe.fileno())
            self._pipe.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_result(None)

    def _readable(self) -> None:
        try:
            number, answer = self._pipe.recv()
        except (OSError, EOFError):
            self.close()
            return
        self._answered = number
        future = self._waiting.get(number)
        if future is not None and not future.done():
            future.set_result(answer)
        else:
            self._late(answer)
