"""Topic filters of the embedded broker: validation, matching, shared groups. No I/O.

`Subscriptions.route(topic)` says who gets a message; the answer is kept until a subscription
changes, so that a message costs one dictionary look-up.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)

SHARE = "$share/"
_ROUTES_KEPT = 200_000


@dataclass(slots=True, frozen=True)
class Options:
    """How one subscription wants its messages."""

    qos: int
    no_local: bool = False
    retain_as_published: bool = False


class Group(Generic[S]):
    """The subscribers of one `$share/{name}/{filter}`: each message goes to one of them."""

    def __init__(self) -> None:
        self._members: list[tuple[S, Options]] = []
        self._turn = 0

    def add(self, session: S, options: Options) -> bool:
        """Add or change a member; True if it is new."""
        new = not self.remove(session)
        self._members.append((session, options))
        return new

    def remove(self, session: S) -> bool:
        """Take a member out; False if it was none."""
        before = len(self._members)
        self._members = [member for member in self._members if member[0] != session]
        return len(self._members) < before

    def __len__(self) -> int:
        return len(self._members)

    def pick(self, present: Callable[[S], bool]) -> tuple[S, Options]:
        """The next member that is present, round robin; if none is, the next one."""
        for _ in self._members:
            self._turn = (self._turn + 1) % len(self._members)
            if present(self._members[self._turn][0]):
                break
        return self._members[self._turn]


@dataclass(slots=True)
class Route(Generic[S]):
    """Who gets messages of one topic: every session once, and one member of every group."""

    sessions: list[tuple[S, Options]]
    groups: list[Group[S]]


@dataclass(slots=True)
class _Node(Generic[S]):
    children: dict[str, "_Node[S]"] = field(default_factory=dict)
    sessions: dict[S, Options] = field(default_factory=dict)
    groups: dict[str, Group[S]] = field(default_factory=dict)


class Subscriptions(Generic[S]):
    """All subscriptions of all sessions, as a tree of topic levels."""

    def __init__(self) -> None:
        self._root: _Node[S] = _Node()
        self._routes: dict[bytes, Route[S]] = {}

    def add(self, pattern: str, session: S, options: Options) -> bool:
        """Subscribe; False if the session had this very subscription. ValueError: bad filter."""
        group, filter_ = split_share(pattern)
        node = self._root
        for level in filter_.split("/"):
            node = node.children.setdefault(level, _Node())
        self._routes.clear()
        if group is not None:
            return node.groups.setdefault(group, Group()).add(session, options)
        new = session not in node.sessions
        node.sessions[session] = options
        return new

    def remove(self, pattern: str, session: S) -> bool:
        """Unsubscribe; False if there was no such subscription."""
        group, filter_ = split_share(pattern)
        path = [self._root]
        for level in (levels := filter_.split("/")):
            child = path[-1].children.get(level)
            if child is None:
                return False
            path.append(child)
        leaf = path[-1]
        if group is None:
            found = leaf.sessions.pop(session, None) is not None
        else:
            found = group in leaf.groups and leaf.groups[group].remove(session)
            if found and not leaf.groups[group]:
                del leaf.groups[group]
        for parent, level in zip(reversed(path[:-1]), reversed(levels), strict=True):
            node = parent.children[level]
            if node.children or node.sessions or node.groups:
                break
            del parent.children[level]
        self._routes.clear()
        return found

    def route(self, topic: bytes) -> Route[S]:
        """Who gets messages of `topic`. ValueError where it is no valid topic name."""
        route = self._routes.get(topic)
        if route is None:
            route = self._find(valid_topic(topic))
            if len(self._routes) >= _ROUTES_KEPT:
                self._routes.clear()
            self._routes[topic] = route
        return route

    def _find(self, topic: str) -> Route[S]:
        sessions: dict[S, Options] = {}
        groups: list[Group[S]] = []
        for node in _matching(self._root, topic.split("/")):
            groups += node.groups.values()
            for session, options in node.sessions.items():
                best = sessions.get(session)
                # overlapping subscriptions of one session: one copy, at the highest QoS
                if best is None or options.qos > best.qos:
                    sessions[session] = options
        return Route(list(sessions.items()), groups)


def _matching(root: _Node[S], levels: list[str]) -> Iterator[_Node[S]]:
    """Nodes whose filter matches; a wildcard in first place does not match `$…` topics."""
    frontier = [root]
    for depth, level in enumerate(levels):
        wild = depth > 0 or not level.startswith("$")
        following: list[_Node[S]] = []
        for node in frontier:
            if level in node.children:
                following.append(node.children[level])
            if wild and "+" in node.children:
                following.append(node.children["+"])
            if wild and "#" in node.children:
                yield node.children["#"]
        frontier = following
    for node in frontier:
        yield node
        if "#" in node.children:  # "a/#" matches "a" too
            yield node.children["#"]


def matches(pattern: str, topic: str) -> bool:
    """True if the filter (without `$share`) matches the topic name."""
    if topic.startswith("$") and pattern[:1] in ("+", "#"):
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    for i, level in enumerate(wanted):
        if level == "#":
            return True
        if i >= len(levels) or level not in ("+", levels[i]):
            return False
    return len(wanted) == len(levels)


def valid_topic(topic: bytes) -> str:
    """The topic name as text; ValueError with the reason where it is none."""
    text = topic.decode()  # UnicodeDecodeError is a ValueError
    if not text:
        raise ValueError("a topic name has at least one character")
    if "+" in text or "#" in text or "\0" in text:
        raise ValueError("a topic name holds no wildcard and no NUL")
    return text


def split_share(pattern: str) -> tuple[str | None, str]:
    """(group or None, filter) of a subscription; ValueError with the reason where it is invalid."""
    group: str | None = None
    filter_ = pattern
    if pattern.startswith(SHARE):
        group, separator, filter_ = pattern[len(SHARE) :].partition("/")
        if not group or not separator or "+" in group or "#" in group:
            raise ValueError("a shared subscription is $share/{group}/{filter}")
    if not filter_ or "\0" in filter_:
        raise ValueError("a topic filter has at least one character and no NUL")
    levels = filter_.split("/")
    for i, level in enumerate(levels):
        if "#" in level and (level != "#" or i != len(levels) - 1):
            raise ValueError("# stands alone, as the last level")
        if "+" in level and level != "+":
            raise ValueError("+ stands alone on its level")
    return group, filter_
