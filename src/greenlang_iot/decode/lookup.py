"""The Directory as plain Python, for the general path: metric → series, unit → conversion."""

from typing import NamedTuple

from greenlang_iot.formats.topics import Place
from greenlang_iot.model.directory import Directory

_CACHED_DEVICES = 65_536


class Target(NamedTuple):
    """The series that a metric of one device goes to."""

    series: int
    low: float
    high: float
    unit: int  # index into Directory.unit


class Lookup:
    """What the general path asks of a Directory."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._ids: dict[str, int] | None = None
        self._targets: dict[int, dict[str, Target]] = {}
        self._places: dict[int, Place] = {}
        self._load_units()

    def _load_units(self) -> None:
        directory = self._directory
        self._unit_index = {directory.unit[i]: i for i in range(len(directory.unit))}
        self._factors = {
            (int(source), int(target)): (float(factor), float(shift))
            for source, target, factor, shift in zip(
                directory.unit_from,
                directory.unit_to,
                directory.unit_factor,
                directory.unit_shift,
                strict=True,
            )
        }

    def replace(self, directory: Directory) -> None:
        """Go on with a Directory that has new guests or metrics, and is otherwise the same."""
        self._directory = directory
        self._places.clear()
        self._load_units()

    def trim(self) -> None:
        """Bound the cache; called between batches."""
        if len(self._targets) > _CACHED_DEVICES:
            self._targets.clear()

    def place(self, device: int) -> Place:
        """Where a device is registered."""
        d = self._directory
        return self._places.get(device) or Place(
            d.org[d.org_of[device]], d.site[d.site_of[device]], d.device[device]
        )

    def enabled(self, device: int) -> bool:
        return device in self._places or bool(self._directory.enabled[device])

    def find_id(self, device: str) -> int | None:
        """The device with this id under any org and site, enabled or not."""
        if self._ids is None:
            names = self._directory.device
            self._ids = {names[i]: i for i in range(len(names))}
        return self._ids.get(device)

    def add_device(self, device: int, place: Place) -> None:
        """A guest of this batch, which the Directory does not have yet."""
        assert self._ids is not None, "find_id() said that the device is new"
        self._ids[place.device] = device
        self._places[device] = place
        self._targets[device] = {}

    def add_metric(self, device: int, metric: str, unit: str, target: Target) -> None:
        """A metric learnt in this batch, which the Directory does not have yet."""
        self.targets(device)[metric] = target
        self._unit_index.setdefault(unit, target.unit)

    def targets(self, device: int) -> dict[str, Target]:
        """The enabled series of a device, by metric name."""
        found = self._targets.get(device)
        if found is None:
            d = self._directory
            found = self._targets[device] = {
                d.metric[d.series_metric[s]]: Target(
                    s, float(d.low[s]), float(d.high[s]), int(d.series_unit[s])
                )
                for s in range(int(d.series_start[device]), int(d.series_start[device + 1]))
                if d.series_enabled[s]
            }
        return found

    def conversion(self, text: str, unit: int) -> tuple[float, float] | None:
        """(factor, shift) from the unit `text` to unit index `unit`; (1, 0) if it is that unit."""
        source = self._unit_index.get(text)
        if source is None:
            return None
        return (1.0, 0.0) if source == unit else self._factors.get((source, unit))
