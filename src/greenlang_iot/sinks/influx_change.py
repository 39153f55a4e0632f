"""What an idempotent setup of InfluxDB is made of, for 2.x and 1.x alike."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from greenlang_iot.model.errors import SinkError
from greenlang_iot.settings.model import InfluxSettings
from greenlang_iot.sinks.influx_http import Answer, InfluxHttp

WINDOWS_RECOMPUTED: Final = 6
"""Missed runs are never caught up, so every run computes the last windows again (same points)."""


@dataclass(slots=True, frozen=True)
class Change:
    """One difference between what is there and what the settings ask for."""

    subject: str  # for example: bucket iot_data
    current: str
    wanted: str
    make: Callable[[], Awaitable[None]] = field(repr=False, compare=False)


class InfluxSetup(ABC):
    """`plan()` tells what differs, `apply()` makes it so; a second `apply()` does nothing."""

    def __init__(self, settings: InfluxSettings) -> None:
        self._settings = settings
        self._http = InfluxHttp(settings, connections=1)

    async def plan(self) -> list[Change]:
        """What differs from the settings; changes nothing. Raises SinkError."""
        await self._open()
        return [change async for change in self._differences()]

    async def apply(self) -> list[Change]:
        """Make every difference go away; returns what was changed. Raises SinkError."""
        await self._open()
        done = []
        async for change in self._differences():
            await change.make()
            done.append(change)
        return done

    @abstractmethod
    async def downsampling(self) -> str:
        """One sentence about the last run of the downsampling. Raises SinkError."""

    async def close(self) -> None:
        await self._http.close()

    async def _open(self) -> None:
        await self._http.open()
        settings = self._settings
        there = other_version(await self._http.request("GET", "/ping"), settings)
        if there is not None:
            raise SinkError(
                f"InfluxDB at {settings.url} is {there}, and the settings say {settings.version}: set "
                f'sinks.influxdb.version to "{there[0]}"',
                reason="version",
                retryable=False,
            )

    @abstractmethod
    def _differences(self) -> AsyncIterator[Change]:
        """Each difference, looked for only after the one before it was made (or not)."""


def other_version(ping: Answer, settings: InfluxSettings) -> str | None:
    """The server's version, such as `1.8.10`, where it is not the one of the settings and is managed in
    another way; None where it is, or does not say."""
    said = ping.headers.get("X-Influxdb-Version", "").removeprefix("v")
    return said if said[:2] in ("1.", "2.") and said[0] != settings.version else None


def duration(seconds: float) -> str:
    """A duration as a person writes it in Flux and InfluxQL; 0 is for ever."""
    whole = int(seconds)
    if whole == 0:
        return "0s"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s"


def checked(answer: Answer) -> Answer:
    """The answer, if it is a good one. Raises SinkError with InfluxDB's words."""
    if answer.status >= 400:
        raise SinkError(
            f"InfluxDB answered {answer.status}: {answer.message}",
            reason=f"http_{answer.status}",
            retryable=answer.status >= 500,
            down=True,
        )
    return answer
