"""Which formats there are by name: ours, and those of installed packages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from pydantic import ValidationError

from greenlang_iot.formats.base import GROUP, PayloadFormat, Reading, SessionFormat
from greenlang_iot.formats.topics import TopicTemplate

_ROOM = "greenlang_iot.formats"
BUILT_IN: Mapping[str, EntryPoint] = {
    name: EntryPoint(name, f"{_ROOM}.{place}", GROUP)
    for name, place in {
        "json": "maps:Json",
        "json-map": "json_map:JsonMap",
        "cbor": "maps:Cbor",
        "messagepack": "maps:MessagePack",
        "senml-json": "senml:SenmlJson",
        "senml-cbor": "senml:SenmlCbor",
        "sparkplug-b": "sparkplug:SparkplugB",
        "line-protocol": "line_protocol:LineProtocol",
        "plain": "plain:Plain",
    }.items()
}
"""Loaded when they are asked for: a gateway of JSON only imports none of their libraries."""

SPARKPLUG, PLAIN = "sparkplug-b", "plain"


@dataclass(slots=True)
class Route:
    """Which topics are read how."""

    template: TopicTemplate
    format: PayloadFormat
    metrics: Mapping[str, str | None] = field(default_factory=dict)
    receive_time: bool | None = None  # None: as limits.missing_ts says
    is_session: bool = field(init=False)  # its messages depend on earlier ones

    def __post_init__(self) -> None:
        self.is_session = isinstance(self.format, SessionFormat)

    def named(self, readings: Sequence[Reading]) -> Sequence[Reading]:
        """With the registry's metrics for the payload's names, and without what is not wanted."""
        if not self.metrics:
            return readings
        pairs = (
            (reading, self.metrics.get(reading.metric, reading.metric)) for reading in readings
        )
        return [
            reading if metric == reading.metric else reading._replace(metric=metric)
            for reading, metric in pairs
            if metric is not None
        ]


def names() -> list[str]:
    """The names of all formats, ours first."""
    return [*BUILT_IN, *sorted({e.name for e in entry_points(group=GROUP)} - set(BUILT_IN))]


def make(name: str, options: Mapping[str, object]) -> PayloadFormat:
    """The format `name` with these options. ValueError says what is wrong with either."""
    found = BUILT_IN.get(name)
    if found is None:
        installed = [entry for entry in entry_points(group=GROUP) if entry.name == name]
        if len(installed) != 1:
            problem = "is not the name of a format" if not installed else "is in several packages"
            raise ValueError(f"{name!r} {problem}; there are {', '.join(names())}")
        found = installed[0]
    try:
        made: PayloadFormat = found.load()(**options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"option {place}: {first['msg']}") from error
    except TypeError as error:
        raise ValueError(f"the options do not fit: {error}") from error
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{found.value} cannot be loaded: {error}") from error
    return made
