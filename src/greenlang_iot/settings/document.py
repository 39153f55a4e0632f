"""Everything that was set, wherever it was set, as one tree that remembers the place of each value.

Three sources, the later wins: the YAML files in their order, the environment, the caller's overrides.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from greenlang_iot.settings.expect import Place, show, slot_at, unknown

PREFIX = "GREENLANG_IOT__"
_UNREADABLE: Place = ("",)
"""The place of what is wrong with a file as a whole."""
_MOST_VALUES = 10_000


class Source(NamedTuple):
    """Where a value was set. Of two sources the one with the higher rank wins."""

    rank: int
    text: str

    @property
    def order(self) -> tuple[int, str, int]:
        """Sorts what is said of a file by its lines."""
        name, _, line = self.text.rpartition(":")
        return (self.rank, name, int(line)) if line.isdecimal() else (self.rank, self.text, 0)


@dataclass(slots=True)
class Document:
    """name: what was read. data: what pydantic validates. problems: (place, message) found while
    reading."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    sources: dict[Place, Source] = field(default_factory=dict)
    problems: list[tuple[Place, str]] = field(default_factory=list)
    _values: int = 0  # read so far

    def source(self, place: Place) -> Source:
        """Where the value at `place` was set, or the innermost part around it."""
        for depth in range(len(place), 0, -1):
            if (found := self.sources.get(place[:depth])) is not None:
                return found
        return Source(0, self.name)

    @property
    def unreadable(self) -> bool:
        """Whether a file was no YAML: what else is found is judged on a part of the settings."""
        return _UNREADABLE in self.sources

    def read_yaml(self, text: str, name: str) -> None:
        """Take over a YAML document, with the line of every value, over what was read before.

        Sections are merged key by key; a value and a list (`mqtt.brokers`) replace the earlier one.
        """
        later = Document(name)
        later._parse_yaml(text)
        self._merge(self.data, later.data, (), later)
        self.sources |= later.sources
        self.problems += later.problems

    def _merge(
        self, mine: dict[str, Any], theirs: dict[str, Any], place: Place, later: "Document"
    ) -> None:
        for key, value in theirs.items():
            here = (*place, key)
            if isinstance(value, dict) and isinstance(mine.get(key), dict):
                self._merge(mine[key], value, here, later)
                continue
            self.sources = {p: s for p, s in self.sources.items() if p[: len(here)] != here}
            mine[key] = value

    def _parse_yaml(self, text: str) -> None:
        try:
            loader = yaml.SafeLoader(text)
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self._unreadable(line, f"not YAML: the character {error.character:#x} is not allowed")
            return
        try:
            node = loader.get_single_node()
            if node is None:
                return
            if not isinstance(node, yaml.MappingNode):
                self._unreadable(1, "settings are a mapping of sections, such as mqtt:")
                return
            self.data = self._plain(loader, node, (), frozenset(), 0)
        except yaml.MarkedYAMLError as error:
            # The library's own text quotes the line, which may hold a secret.
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            self._unreadable(line, f"not YAML: {error.problem or error.context}")
        except yaml.YAMLError as error:
            self._unreadable(1, f"not YAML: {type(error).__name__}")
        except RecursionError:
            self._unreadable(1, "sections are nested too deeply")
        finally:
            loader.dispose()

    def _unreadable(self, line: int, message: str) -> None:
        self.sources[_UNREADABLE] = Source(0, f"{self.name}:{line}")
        self.problems.append((_UNREADABLE, message))

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Take over `GREENLANG_IOT__SECTION__KEY`; list items by their index, sections first."""
        names = [name for name in environ if name.upper().startswith(PREFIX)]
        for name in sorted(names, key=lambda n: (n.count("__"), n)):
            steps = name[len(PREFIX) :].lower().split("__")
            place = tuple(int(s) if s.isdecimal() else s for s in steps)
            self._set(place, environ[name], Source(1, f"environment variable {name}"))

    def read_overrides(self, overrides: Mapping[str, object]) -> None:
        """Take over `{"mqtt.brokers[0].port": 1883}`; texts are read like environment values."""
        for key, value in overrides.items():
            steps = re.findall(r"[^.\[\]]+", key)
            place = tuple(int(s) if s.isdecimal() else s for s in steps)
            self._set(place, value, Source(2, f"override {key}"))

    def _set(self, place: Place, value: object, source: Source) -> None:
        for known in [p for p in self.sources if p[: len(place)] == place]:
            del self.sources[known]
        self.sources[place] = source
        if (problem := unknown(place)) is not None:
            self.problems.append((place, problem))
            return
        container: Any = self.data
        step: Any
        for depth, step in enumerate(place):
            if isinstance(container, list) and not self._room(container, step, place, depth):
                return
            if depth + 1 == len(place):
                if isinstance(value, str):
                    value = self._parse(value, place, source)
                container[step] = value
                return
            wanted = list if isinstance(place[depth + 1], int) else dict
            inner = container[step] if isinstance(container, list) else container.get(step)
            if not isinstance(inner, wanted):
                inner = container[step] = wanted()
            container = inner

    def _room(self, items: list[Any], step: Any, place: Place, depth: int) -> bool:
        """Whether the list has an item `step`; the one after its last is made."""
        if step > len(items):
            count = f"{len(items)} item{'' if len(items) == 1 else 's'}"
            problem = f"{show(place[:depth])} has {count}: use an index from 0 to {len(items)}"
            self.problems.append((place, problem))
            return False
        if step == len(items):
            items.append(None)
        return True

    def _parse(self, text: str, place: Place, source: Source) -> Any:
        """A text from outside a file: as it is where a text is expected, else a YAML value."""
        slot = slot_at(place)
        if slot is not None and slot.is_text:
            return None if slot.optional and text in ("", "null", "~") else text
        loader = None
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            return None if node is None else self._plain(loader, node, place, frozenset(), 1)
        except (yaml.YAMLError, RecursionError):
            self.problems.append((place, "the value is not a YAML value"))
            return None
        finally:
            if loader is not None:
                loader.dispose()
            self.sources[place] = source

    def _plain(
        self,
        loader: yaml.SafeLoader,
        node: yaml.Node,
        place: Place,
        above: frozenset[int],
        rank: int,
    ) -> Any:
        """Python values of a YAML node; notes the line of everything of a file (rank 0)."""
        if id(node) in above:
            raise yaml.composer.ComposerError(
                None, None, "an alias contains itself", node.start_mark
            )
        self._values += 1
        if self._values > _MOST_VALUES:  # aliases of aliases of aliases
            raise yaml.composer.ComposerError(
                None, None, f"more than {_MOST_VALUES:,} values", node.start_mark
            )
        above = above | {id(node)}
        if rank == 0:
            self.sources.setdefault(place, Source(0, f"{self.name}:{node.start_mark.line + 1}"))
        slot = slot_at(place)
        if isinstance(node, yaml.MappingNode):
            loader.flatten_mapping(node)
            result = {}
            for key, inner, line in self._pairs(loader, node, place):
                if rank == 0:
                    self.sources[(*place, key)] = Source(0, f"{self.name}:{line}")
                result[key] = self._plain(loader, inner, (*place, key), above, rank)
            return result
        if isinstance(node, yaml.SequenceNode):
            return [
                self._plain(loader, item, (*place, i), above, rank)
                for i, item in enumerate(node.value)
            ]
        value = _construct(loader, node)
        if value is None:
            # A section whose keys are all commented out is an empty section.
            return {} if slot is not None and slot.section and not slot.optional else None
        return node.value if slot is not None and slot.is_text else value

    def _pairs(
        self, loader: yaml.SafeLoader, node: yaml.MappingNode, place: Place
    ) -> Iterator[tuple[str, yaml.Node, int]]:
        """(key, value node, line of the key); a key given twice is a problem."""
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = str(_construct(loader, key_node))
            if key in seen:
                problem = f"given twice, first in line {seen[key]}"
                self.problems.append(((*place, key), problem))
            seen.setdefault(key, line)
            yield key, value_node, line


def _construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    """The value of a scalar or a key; what only looks like a date or a number is a YAML error."""
    try:
        return loader.construct_object(node, deep=True)
    except (ValueError, OverflowError, TypeError, KeyError, IndexError) as error:
        raise yaml.constructor.ConstructorError(
            None, None, "a value that is not what it looks like; put it in quotes", node.start_mark
        ) from error
