"""Which shard subscribes to what: pure, and the same answer for the same registry and settings.

Shards own disjoint topic filters, so a device stays on one shard. Sites are dealt out by weight (readings a
second that the registry expects); a site heavier than a shard's fair share is split by device filters, but
only a large one: a site that is whole also hears a device that is new to it. A client id is
`instance-shard-connection-hash`, the hash being that of its filters: the same layout gives the same ids after a restart,
and when the layout changes the old ids are retired as a whole.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from greenlang_iot.formats.topics import TopicTemplate
from greenlang_iot.model.batches import F64, I64
from greenlang_iot.model.directory import Directory
from greenlang_iot.settings.formats import templates
from greenlang_iot.settings.model import MqttSettings

MAX_DEVICE_FILTERS = 2_000
"""A site is only split by device filters where that makes no more than this many."""

SPLIT_FROM = 1_000.0
SPLIT_DEVICES = 100
"""A site is only split that is expected to send so many readings a second, or has so many devices: what they send is
seldom what the registry expects. Others a shard carries in some hundredths of a core."""


@dataclass(slots=True, frozen=True)
class ConnectionPlan:
    """One connection: broker (index into mqtt.brokers), client id, topic filters."""

    broker: int
    client_id: str
    filters: tuple[str, ...]


@dataclass(slots=True, frozen=True)
class ShardPlan:
    """One shard's connections, over all brokers."""

    index: int
    connections: tuple[ConnectionPlan, ...]


@dataclass(slots=True, frozen=True)
class _Piece:
    weight: float
    filters: tuple[str, ...]


def plan(
    directory: Directory, settings: MqttSettings, shards: int, instance: str
) -> list[ShardPlan]:
    """Deal the topic filters out to `shards` shards and their connections."""
    subscribed = templates(settings)
    if settings.layout == "shared":
        share = tuple(f"$share/{settings.share_name}/{t.filter()}" for t in subscribed)
        dealt = [[_Piece(1.0, share)] for _ in range(shards)]
    else:
        dealt = _deal(_pieces(directory, subscribed, shards), shards)
    return [
        ShardPlan(shard, tuple(_connections(settings, shard, dealt[shard], instance)))
        for shard in range(shards)
    ]


def owned(
    plan: ShardPlan, directory: Directory, settings: MqttSettings, shards: int
) -> npt.NDArray[np.bool_]:
    """Per device, bool[n_devices]: does this shard, and no other, hear all of it?

    A share among several shards gives each message to any of them: then nobody does.
    """
    filters = {f for connection in plan.connections for f in connection.filters}
    if any(f.startswith("$share/") for f in filters):
        return np.full(directory.n_devices, shards == 1)
    subscribed = templates(settings)
    width = len(directory.site)
    places, place = np.unique(
        directory.org_of.astype(np.int64) * width + directory.site_of, return_inverse=True
    )
    of_place = [
        _filters(subscribed, directory.org[org], directory.site[site])
        for org, site in (divmod(p, width) for p in places.tolist())
    ]
    mine = np.array([filters.issuperset(names) for names in of_place], np.bool_)
    result: npt.NDArray[np.bool_] = mine[place]
    if not filters.difference(*of_place):
        return result  # no filter is of a single device
    for device in np.flatnonzero(~result):
        org = directory.org[int(directory.org_of[device])]
        site = directory.site[int(directory.site_of[device])]
        names = _filters(subscribed, org, site, directory.device[int(device)])
        result[device] = filters.issuperset(names)
    return result


def _filters(
    subscribed: Sequence[TopicTemplate], org: str, site: str, device: str = "+"
) -> tuple[str, ...]:
    """The filters of a site, or of one device of it, for every format that it may use."""
    return tuple(template.filter(org, site, device) for template in subscribed)


def _connections(
    settings: MqttSettings, shard: int, pieces: list[_Piece], instance: str
) -> Iterable[ConnectionPlan]:
    for broker, broker_settings in enumerate(settings.brokers):
        wanted = broker_settings.connections_per_shard
        if settings.layout == "shared":
            groups = [pieces] * wanted
        else:
            groups = _deal(pieces, min(wanted, max(len(pieces), 1)))
        for number, group in enumerate(groups):
            filters = tuple(sorted(f for piece in group for f in piece.filters))
            if not filters:
                continue
            digest = hashlib.sha256("\n".join(filters).encode()).hexdigest()[:8]
            name = f"{instance}-{shard}-{number}-{digest}"
            if len(settings.brokers) > 1:
                name = f"{instance}-{broker_settings.name}-{shard}-{number}-{digest}"
            yield ConnectionPlan(broker, name, filters)


def _rates(directory: Directory) -> F64:
    """Readings a second that each device is expected to send (1 a minute where unknown)."""
    interval = np.where(directory.interval_ns > 0, directory.interval_ns, 60_000_000_000)
    rates = np.zeros(directory.n_devices)
    np.add.at(rates, directory.series_device, 1e9 / interval)
    return np.maximum(rates, 1e-9)


def _pieces(directory: Directory, subscribed: Sequence[TopicTemplate], shards: int) -> list[_Piece]:
    """Filters with weights: a site each, or devices where a site is too big for a shard.

    All formats of a device go together, so that its series stay on one shard. Sites that share a filter
    (a template does not name the site, or the org) are dealt as one.
    """
    if directory.n_devices == 0:
        return []
    rates = _rates(directory)
    fair = float(rates.sum()) / shards
    by_device = all(template.by_device for template in subscribed)
    pieces = []
    for filters, members in _sites(directory, subscribed):
        weight = float(rates[members].sum())
        large = weight >= SPLIT_FROM or len(members) >= SPLIT_DEVICES
        heavy = shards > 1 and weight > fair and large
        if heavy and by_device and 1 < len(members) <= MAX_DEVICE_FILTERS:
            for together in _with_references(directory, members.tolist()):
                names: tuple[str, ...] = ()
                for member in together:
                    org = directory.org[int(directory.org_of[member])]
                    site = directory.site[int(directory.site_of[member])]
                    names += _filters(subscribed, org, site, directory.device[member])
                pieces.append(_Piece(float(rates[together].sum()), names))
        else:
            pieces.append(_Piece(weight, tuple(sorted(filters))))
    return pieces


def _with_references(directory: Directory, members: list[int]) -> Iterable[list[int]]:
    """Devices of a site in groups: those that are compared with a reference sensor stay with it."""
    group_of = {member: [member] for member in members}
    compared = np.flatnonzero(directory.reference >= 0)
    for series in compared[np.isin(directory.series_device[compared], members)].tolist():
        mine = group_of[int(directory.series_device[series])]
        other = group_of[int(directory.series_device[directory.reference[series]])]
        if mine is not other:
            other += mine
            group_of |= dict.fromkeys(mine, other)
    seen: dict[int, list[int]] = {id(group): group for group in group_of.values()}
    return seen.values()


def _sites(
    directory: Directory, subscribed: Sequence[TopicTemplate]
) -> Iterable[tuple[set[str], I64]]:
    """(filters, devices) of each site, or of several sites with a filter in common."""
    place = directory.org_of.astype(np.int64) * (len(directory.site) + 1) + directory.site_of
    groups: dict[int, tuple[set[str], I64]] = {}
    group_of: dict[str, int] = {}
    order = np.argsort(place, kind="stable")
    first = np.flatnonzero(np.diff(place[order], prepend=-1))
    for number, members in enumerate(np.split(order, first[1:])):
        org = directory.org[int(directory.org_of[members[0]])]
        site = directory.site[int(directory.site_of[members[0]])]
        filters = set(_filters(subscribed, org, site))
        for other in {group_of[f] for f in filters if f in group_of}:
            more, theirs = groups.pop(other)
            filters |= more
            members = np.concatenate((theirs, members))
        groups[number] = (filters, members)
        group_of |= dict.fromkeys(filters, number)
    return groups.values()


def _deal(pieces: list[_Piece], hands: int) -> list[list[_Piece]]:
    """Longest processing time first: the heaviest piece goes to the lightest hand."""
    dealt: list[list[_Piece]] = [[] for _ in range(hands)]
    weights = [0.0] * hands
    for piece in sorted(pieces, key=lambda p: (-p.weight, p.filters)):
        hand = min(range(hands), key=lambda h: (weights[h], h))
        dealt[hand].append(piece)
        weights[hand] += piece.weight
    return dealt
