"""Which formats there are by name: ours, and those of installed packages; settings → formats ready to use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from pydantic import ValidationError

from greenlang_iot.formats.base import GROUP, PayloadFormat, Reading, SessionFormat
from greenlang_iot.formats.topics import FIELDS, TopicTemplate, template_problem
from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.model import FormatSettings, MqttSettings

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
    """One entry of `mqtt.formats`, ready to use: which topics, read how."""

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


def routes(settings: MqttSettings) -> list[Route]:
    """The entries of `mqtt.formats`. Raises InputError: a format was there when settings were checked."""
    try:
        return [
            Route(
                TopicTemplate(entry.topic, entry.device_id),
                make(entry.format, entry.options),
                entry.metrics,
                None if entry.missing_ts is None else entry.missing_ts == "receive_time",
            )
            for entry in settings.formats
        ]
    except ValueError as error:
        raise InputError(f"mqtt.formats: {error}") from error


def templates(settings: MqttSettings) -> list[TopicTemplate]:
    """Every template that is subscribed to: `mqtt.topic` first, then those of the formats."""
    own = [TopicTemplate(entry.topic, entry.device_id) for entry in settings.formats]
    return [TopicTemplate(settings.topic), *(t for t in own if t.template != settings.topic)]


def entry_problem(entry: FormatSettings) -> tuple[str, str] | None:
    """(key, what is wrong) of an entry of `mqtt.formats` by itself, or None."""
    sparkplug = entry.format == SPARKPLUG
    required: tuple[str, ...] = ("type", "device") if sparkplug else ("device",)
    allowed: tuple[str, ...] = ("org", "site", "node") if sparkplug else ("org", "site", "metric")
    if entry.format == PLAIN:
        required, allowed = ("device", "metric"), ("org", "site")
    problem = template_problem(entry.topic, required, allowed)
    if problem is None and sparkplug:
        problem = _sparkplug_problem(entry.topic.split("/"))
    if problem is not None:
        return "topic", problem
    fields = TopicTemplate(entry.topic).fields
    try:
        entry.device_id.format(**dict.fromkeys(fields, "x"))
        bad = "{device}" not in entry.device_id
    except (KeyError, ValueError, IndexError, AttributeError):
        bad = True
    if bad:
        named = ", ".join(f"{{{field}}}" for field in FIELDS if field in fields)
        return "device_id", f"needs {{device}}, and may hold only what the topic has: {named}"
    try:
        make(entry.format, entry.options)
    except ValueError as error:
        known = entry.format in names()
        return "options" if known else "format", str(error)
    return None


def _sparkplug_problem(levels: list[str]) -> str | None:
    fixed = len(levels) == 5 and (levels[0], levels[2], levels[4])
    if fixed == ("spBv1.0", "{type}", "{device}"):
        return None
    return (
        "Sparkplug's namespace is spBv1.0/group/{type}/node/{device}, where group and node may be "
        "{org}, {site}, {node} or a name"
    )
