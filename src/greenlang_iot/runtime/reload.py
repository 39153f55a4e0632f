"""A reload between parent and shard: one request and one answer over a pipe."""

import asyncio
import itertools
import os
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, cast

import structlog

from greenlang_iot.alerts.rule_file import RuleSet
from greenlang_iot.devices.columns import Columns
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.model import Settings

if TYPE_CHECKING:
    from greenlang_iot.devices.reload import Reloaded  # with kernels, which the parent does without

log = structlog.get_logger(__name__)

Control: TypeAlias = "Connection[Any, Any]"

ANSWER_WITHIN: Final = 30.0
"""Seconds; a shard that takes longer is looked after by its heartbeat."""

_numbers = itertools.count(1)


@dataclass(slots=True, frozen=True)
class Answer:
    """What a shard did. error: why it goes on with the old registry; empty when it did not."""

    added: int = 0
    removed: int = 0
    moved: int = 0
    error: str = ""


class Reloading(Protocol):
    def reload(self, registry: Directory, settings: Settings, rules: RuleSet) -> "Reloaded": ...


def ask(control: Control, registry: Columns, settings: Settings, rules: RuleSet) -> Answer:
    """The parent's side, in a thread."""
    number = next(_numbers)
    until = time.monotonic() + ANSWER_WITHIN
    try:
        control.send((number, registry, settings, rules))
        while control.poll(max(until - time.monotonic(), 0)):
            answered, answer = control.recv()
            if answered == number:  # else that of a reload that was not waited for any more
                return cast(Answer, answer)
    except (OSError, EOFError):
        return Answer(error="the shard ended meanwhile; it starts again with the new registry")
    return Answer(error=f"no answer within {ANSWER_WITHIN:g} s")


def answer_reloads(shard: Reloading, control: Control) -> None:
    """The shard's side: between two batches, so that a batch sees one registry."""
    loop = asyncio.get_running_loop()

    def requested() -> None:
        try:
            number, columns, settings, rules = control.recv()
        except (OSError, EOFError):
            loop.remove_reader(control.fileno())  # the parent is gone; so are we, in a moment
            return
        try:
            registry = columns.open()
            done = shard.reload(registry, settings, rules)
        except (InputError, OSError) as error:
            answer = Answer(error=str(error))
        except BaseException:
            try:
                log.error("a reload failed half-way: the shard starts again", exc_info=True)
            finally:  # some of it holds the old registry, some the new one
                os._exit(1)
        else:
            answer = Answer(done.added, done.removed, done.moved)
            columns.forget()
            log.info("reloaded", devices=registry.n_devices, series=registry.n_series)
        control.send((number, answer))

    loop.add_reader(control.fileno(), requested)
