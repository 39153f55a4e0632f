"""Which format a topic has: `mqtt.topic` is our JSON, the entries of `mqtt.formats` are theirs."""

from collections.abc import Sequence

from greenlang_iot.formats.catalog import Route
from greenlang_iot.formats.topics import Place, TopicTemplate

_CACHED_TOPICS = 65_536


class Routes:
    """Topic → (route, or None for our JSON; the names in it); remembers the topics it has seen."""

    def __init__(self, default: TopicTemplate, routes: Sequence[Route]) -> None:
        self._default = default
        self._routes = list(routes)
        self._found: dict[bytes, tuple[Route | None, Place] | None] = {}
        self.default_is_json = all(r.template.template != default.template for r in routes)

    def find(self, topic: bytes) -> tuple[Route | None, Place] | None:
        """None where the topic follows no template."""
        try:
            return self._found[topic]
        except KeyError:
            if len(self._found) >= _CACHED_TOPICS:
                self._found.clear()
            found = self._found[topic] = self._look(topic)
            return found

    def _look(self, topic: bytes) -> tuple[Route | None, Place] | None:
        for route in self._routes:
            if (place := route.template.parse(topic)) is not None:
                return route, place
        place = self._default.parse(topic)
        return None if place is None else (None, place)
