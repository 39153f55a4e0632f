"""What every command says in the same way: tables, JSON, progress, colours only on a terminal.

rich leaves colours out where the stream is no terminal and where NO_COLOR is set.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from greenlang_iot.observe.printable import printable_block, printable_json

if TYPE_CHECKING:
    from rich.console import Console

PROGRESS_AFTER = 1.0
"""Seconds of work that need no progress bar."""
PROBLEMS_SHOWN = 100
"""Problems of one input that are printed; the rest are counted."""

Advance = Callable[[int], None]
"""Called with how much is done so far."""


def console(*, stderr: bool = False, wrap: bool = False, width: int | None = None) -> "Console":
    """A console whose text is never taken for markup, and cannot steer the terminal.

    Its output is not re-wrapped, or with `wrap` (for tables) to `width` or the terminal's.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class Printable(Console):
        """Whatever is printed, texts from outside in tables too, is escaped on its way out."""

        def render(
            self, renderable: RenderableType, options: ConsoleOptions | None = None
        ) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                if segment.control:
                    yield segment
                else:
                    yield Segment(printable_block(segment.text), segment.style)

    return Printable(
        soft_wrap=not wrap, highlight=False, markup=False, emoji=False, stderr=stderr, width=width
    )


def print_json(document: Any) -> None:
    """One JSON document on stdout, indented; what could steer a terminal is escaped in it."""
    text = json.dumps(document, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write(printable_json(text) + "\n")


def print_json_line(document: Any) -> None:
    """One JSON document on one line of stdout, escaped like `print_json`'s."""
    text = json.dumps(document, ensure_ascii=False, default=str)
    sys.stdout.write(printable_json(text) + "\n")


ERASE_LINE = "\r\x1b[K"
_lines_shown: list[str] = []
"""The line that `live` shows, if any."""


def counted(number: int, what: str) -> str:
    """`1 device`, `1,001 devices`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr, in the place of what `live` shows there."""
    sys.stderr.write((ERASE_LINE if _lines_shown else "") + printable_block(text) + "\n")
    _lines_shown.clear()


def live(text: str) -> None:
    """What is going on, on a line that the next `live` or `say` writes over; on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(ERASE_LINE + printable_block(text))
        sys.stderr.flush()
        _lines_shown[:] = [text]


@contextmanager
def progress(label: str, total: int) -> Iterator[Advance]:
    """A bar on stderr when the work takes longer than a second and somebody watches."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn(label),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    task = bar.add_task(label, total=total)
    began = time.monotonic()
    started = False

    def advance(done: int) -> None:
        nonlocal started
        if not started and time.monotonic() - began >= PROGRESS_AFTER:
            bar.start()
            started = True
        bar.update(task, completed=done)

    try:
        yield advance
    finally:
        bar.stop()


def print_problems(problems: tuple[str, ...]) -> None:
    """Mistakes on stderr, one a line, the first hundred."""
    for problem in problems[:PROBLEMS_SHOWN]:
        say(f"  {problem}")
    if len(problems) > PROBLEMS_SHOWN:
        say(f"  … and {len(problems) - PROBLEMS_SHOWN:,} more")
