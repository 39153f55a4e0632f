"""Logs: one line per event, for a person on a terminal or as JSON for a collector.

`structlog.get_logger()` and the standard logging of libraries go the same way: control characters
are escaped, secrets are blanked, and the line goes to stderr (stdout belongs to the commands).
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from greenlang_iot.observe.printable import printable, printable_block
from greenlang_iot.settings.model import LogSettings

_HIDDEN = "***"
_SECRET_KEY = re.compile(r"passw|secret|token|credential|authorization|api_?key|private_?key", re.I)
_SECRET_TEXT = re.compile(
    r"(?i)\b(token|bearer|basic)\s+[\w.~+/=-]{8,}|(?<=://)[^/\s:@]*:[^/\s@]*(?=@)"
)
_BLOCKS = ("exception", "stack")
LONGEST_TEXT = 4_000
"""Characters of one text: what a server answers may have millions."""
_SHORTEST_SECRET = 4
"""Shorter secrets are not searched for in texts: blanking them would destroy the log."""

_NOISY = ("asyncio", "numba", "aiohttp.access", "mqtt", "paho")
_SAID_BY_US = ("aiokafka",)
"""Logs every failed attempt, a thousand a second while Kafka is away; the runner says it once."""


def configure(
    settings: LogSettings,
    *,
    shard: int | None = None,
    secrets: Iterable[str] = (),
    stream: TextIO | None = None,
) -> None:
    """Set up structlog and standard logging for this process; a second call replaces the first.

    shard: added to every line. secrets: texts that are blanked wherever they appear.
    """
    stream = stream or sys.stderr
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    known = sorted((s for s in secrets if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _Clean(shard, known),
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty() and not os.environ.get("NO_COLOR"),
            sort_keys=False,
            pad_event_to=0,
            pad_level=False,
        )
        if console
        else structlog.processors.JSONRenderer(serializer=_json)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([_narrow] if console else []),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
    for name in _SAID_BY_US:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


class _Clean:
    """The processor that every line passes: adds the shard, escapes and blanks."""

    def __init__(self, shard: int | None, secrets: list[str]) -> None:
        self._shard = shard
        self._secrets = secrets

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if self._shard is not None:
            event["shard"] = self._shard
        # `_record` and `_from_structlog` are structlog's own and are taken away before rendering
        return {
            printable(key): value if key.startswith("_") else self._value(key, value)
            for key, value in event.items()
        }

    def _value(self, key: str, value: Any) -> Any:
        if _SECRET_KEY.search(key):
            return _HIDDEN
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {printable(str(k)): self._value(str(k), v) for k, v in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(key, item) for item in value]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "backslashreplace")
        text = self._without_secrets(str(value))
        if key in _BLOCKS:
            return printable_block(text)
        more = len(text) - LONGEST_TEXT
        return printable(
            text if more <= 0 else f"{text[:LONGEST_TEXT]} … and {more:,} more characters"
        )

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return _SECRET_TEXT.sub(
            lambda m: f"{m.group(1)} {_HIDDEN}" if m.group(1) else _HIDDEN, text
        )


def _narrow(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Milliseconds, and a name only where the line is not ours: most lines then fit a terminal."""
    event["timestamp"] = event["timestamp"][:-3]
    if event["logger"] is None or event["logger"].startswith("greenlang_iot."):
        del event["logger"]
    return event


def _json(event: MutableMapping[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
