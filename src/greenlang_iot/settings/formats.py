"""`mqtt.topic` and `mqtt.formats`: what is wrong with an entry, and what they mean, ready to use."""

from greenlang_iot.formats.catalog import PLAIN, SPARKPLUG, Route, make, names
from greenlang_iot.formats.topics import FIELDS, TopicTemplate, template_problem
from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.model import FormatSettings, MqttSettings


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
