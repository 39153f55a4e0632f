"""Topic templates: which device (and metric) a topic names, and the filters that subscribe to it."""

import re
from typing import NamedTuple

NAMESPACE = "spBv1.0/"
"""How every topic of Sparkplug B begins."""
FIELDS = ("org", "site", "device", "metric", "node", "type")
"""What a template may hold in braces, each as a whole level and once."""

_FIELD = re.compile(r"\{(\w+)\}")
_LEVEL = {"type": "[ND](?:BIRTH|DATA|DEATH|CMD)"}
"""What a field's level may be, other than any text."""


class Place(NamedTuple):
    """The names that a topic holds; "" for what its template does not name."""

    org: str
    site: str
    device: str
    metric: str = ""


class TopicTemplate:
    """A template such as `greenlang/{org}/{site}/{device}/telemetry`.

    With {type} it is Sparkplug's: topics of an edge node itself, whose {type} begins with N, lack the last
    level, {device}.
    device_id: how the registered id is made of the template's fields.
    """

    def __init__(self, template: str, device_id: str = "{device}") -> None:
        self.template = template
        self.fields = _FIELD.findall(template)
        self._levels = template.split("/")
        self._device_id = None if device_id == "{device}" else device_id
        self.sparkplug = "type" in self.fields
        patterns = [
            f"(?P<{field[1]}>{_LEVEL.get(field[1], '[^/]+')})"
            if (field := _FIELD.fullmatch(level))
            else re.escape(level)
            for level in self._levels
        ]
        last = f"(?:/{patterns.pop()})?" if self.sparkplug else ""
        self._pattern = re.compile("/".join(patterns) + last)

    def topic(self, org: bytes, site: bytes, device: bytes) -> bytes:
        """The topic on which a device publishes; the template has no other fields."""
        names = {"{org}": org, "{site}": site, "{device}": device}
        return b"/".join(
            names[level] if level in names else level.encode() for level in self._levels
        )

    def parse(self, topic: bytes) -> Place | None:
        """The names in it, or None where the topic does not follow the template."""
        try:
            match = self._pattern.fullmatch(topic.decode())
        except UnicodeDecodeError:
            return None
        if match is None:
            return None
        names = match.groupdict(default="")
        device = names["device"]
        if self.sparkplug and (names["type"][0] == "D") != bool(device):
            return None
        if not device:
            device = match[0].rpartition("/")[2]  # an edge node itself
        elif self._device_id is not None:
            device = self._device_id.format(**names)
        return Place(names.get("org", ""), names.get("site", ""), device, names.get("metric", ""))

    @property
    def by_device(self) -> bool:
        """Whether there is a filter for a single device."""
        return not self.sparkplug and self._device_id is None

    def filter(self, org: str = "+", site: str = "+", device: str = "+") -> str:
        """The topic filter of a device, or of all devices of a site, or of everything."""
        names = {"{org}": org, "{site}": site, "{device}": device}
        levels = [
            names.get(level, "+") if _FIELD.fullmatch(level) else level for level in self._levels
        ]
        if self.sparkplug:
            levels[-1] = "#"  # the level above is included
        return "/".join(levels)

    def overlaps(self, other: "TopicTemplate") -> bool:
        """Whether one topic may follow both."""
        lengths = [{len(t._levels), len(t._levels) - t.sparkplug} for t in (self, other)]
        if not lengths[0] & lengths[1]:
            return False
        return all(
            a == b or _FIELD.fullmatch(a) or _FIELD.fullmatch(b)
            for a, b in zip(self._levels, other._levels, strict=False)
        )


def template_problem(
    template: str, required: tuple[str, ...], allowed: tuple[str, ...] = ()
) -> str | None:
    """What is wrong with a template, as the end of a sentence that begins with its place; or None."""
    levels = template.split("/")
    for field in required:
        name = f"{{{field}}}"
        if levels.count(name) != 1 or template.count(name) != 1:
            return f"must hold {name} once, as a whole level (between slashes)"
    known = {f"{{{field}}}" for field in (*required, *allowed)}
    for level in levels:
        if level in known:
            if levels.count(level) > 1:
                return f"must hold {level} once"
        elif re.search(r"[+#{}\x00]", level):
            names = ", ".join(f"{{{field}}}" for field in (*required, *allowed))
            return f"level {level!r}: no wildcards and no braces but {names}"
    return "must not begin with $, which is the broker's own" if template.startswith("$") else None
