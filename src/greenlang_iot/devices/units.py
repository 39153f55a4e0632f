"""Known units and the linear conversions between units of one dimension.

Codes follow UCUM where it has a short one (`Cel`, `kPa`, `m3/h`), else SenML's registry (`/`, `kvarh`), with the
spellings that devices really send (`°C`, `m³/h`, both of Unicode's µ) as units of their own. A unit that is not in the table may be used in a
registry; it only has no conversions.
"""

from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit in terms of its dimension's base unit: base = value × scale + shift."""

    dimension: str
    scale: Fraction
    shift: Fraction


def _table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}

    def add(dimension: str, scale: Fraction | int | str, *names: str, shift: str = "0") -> None:
        for name in names:
            units[name] = Unit(dimension, Fraction(scale), Fraction(shift))

    add("temperature", 1, "K")
    add("temperature", 1, "Cel", "°C", "degC", shift="273.15")
    # exactly (F + 459.67) × 5/9
    for name in ("degF", "°F"):
        units[name] = Unit("temperature", Fraction(5, 9), Fraction("459.67") * Fraction(5, 9))
    add("percent", 1, "%", "%RH", "/100")
    add("percent", 100, "/")
    add("percent", Fraction(1, 10), "/1000")
    for name, scale in (("Pa", 1), ("hPa", 100), ("mbar", 100), ("kPa", 1_000), ("bar", 100_000)):
        add("pressure", scale, name)
    add("pressure", 1_000_000, "MPa")
    add("pressure", "6894.757293168", "psi")
    for name, scale in (("W", 1), ("kW", 1_000), ("MW", 1_000_000)):
        add("power", scale, name)
    add("apparent power", 1, "VA")
    add("apparent power", 1_000, "kVA")
    for dimension, name in (
        ("apparent energy", "VAh"),
        ("reactive power", "var"),
        ("reactive energy", "varh"),
    ):
        add(dimension, 1, name)
        add(dimension, 1_000, "k" + name)
    for name, scale in (("Wh", 3_600), ("kWh", 3_600_000), ("MWh", 3_600_000_000)):
        add("energy", scale, name)
    for name, scale in (("J", 1), ("kJ", 1_000), ("MJ", 1_000_000), ("GJ", 1_000_000_000)):
        add("energy", scale, name)
    add("volume", 1, "m3", "m³")
    add("volume", Fraction(1, 1_000), "L", "l")
    add("volume flow", 1, "m3/s", "m³/s")
    add("volume flow", Fraction(1, 3_600), "m3/h", "m³/h")
    add("volume flow", Fraction(1, 1_000), "L/s", "l/s")
    add("volume flow", Fraction(1, 60_000), "L/min", "l/min")
    add("volume fraction", 1, "ppm")
    add("volume fraction", Fraction(1, 1_000), "ppb")
    add(
        "mass concentration",
        1,
        "ug/m3",
        *(f"{micro}g/{m3}" for micro in "µ\u03bc" for m3 in ("m3", "m³")),
    )
    add("mass concentration", 1_000, "mg/m3", "mg/m³")
    for dimension, name in (("voltage", "V"), ("current", "A")):
        add(dimension, 1, name)
        add(dimension, Fraction(1, 1_000), "m" + name)
        add(dimension, 1_000, "k" + name)
    add("charge", 3_600, "Ah")
    add("charge", Fraction(18, 5), "mAh")
    add("resistance", 1, "Ohm", "\u03a9", "\u2126")  # the letter and the sign
    add("resistance", 1_000, "kOhm")
    add("conductivity", 1, "S/m")
    add("conductivity", Fraction(1, 10), "mS/cm")
    add("conductivity", Fraction(1, 10_000), "uS/cm", "µS/cm", "\u03bcS/cm")
    add("frequency", 1, "Hz")
    add("frequency", 1_000, "kHz")
    add("frequency", 1_000_000, "MHz")
    add("frequency", Fraction(1, 60), "rpm")
    add("speed", 1, "m/s")
    add("speed", Fraction(1, 1_000), "mm/s")
    add("speed", Fraction(5, 18), "km/h")
    add("speed", Fraction(1, 3_600), "m/h")
    add("speed", Fraction(1, 3_600_000), "mm/h")
    add("acceleration", 1, "m/s2", "m/s²")
    add("acceleration", "9.80665", "g0")
    add("length", 1, "m")
    add("length", 1_000, "km")
    add("length", Fraction(1, 100), "cm")
    add("length", Fraction(1, 1_000), "mm")
    add("time", 1, "s")
    add("time", Fraction(1, 1_000), "ms")
    add("time", 60, "min")
    add("time", 3_600, "h")
    add("time", 86_400, "d")
    add("mass", 1, "kg")
    add("mass", Fraction(1, 1_000), "g")
    add("mass", 1_000, "t")
    add("emissions", 1, "kgCO2e")
    add("emissions", Fraction(1, 1_000), "gCO2e")
    add("emissions", 1_000, "tCO2e")
    add("irradiance", 1, "W/m2", "W/m²")
    add("illuminance", 1, "lx")
    add("sound level", 1, "dB")
    add("angle", 1, "deg", "°")
    add("dimensionless", 1, "1", "count")
    return units


UNITS = _table()

_SIGNS = {"1": "", "Cel": "°C", "degF": "°F", "%RH": "% RH", "m3": "m³", "m3/h": "m³/h"}


def sign(unit: str) -> str:
    """The unit as a person writes it behind a value; "" for a plain number. The console's format.js does so, too."""
    return _SIGNS.get(unit, unit)


_FOLDED = {name.casefold(): name for name in reversed(UNITS)}
_SPOKEN = {
    "c": "Cel",
    "celsius": "Cel",
    "f": "degF",
    "fahrenheit": "degF",
    "kelvin": "K",
    "percent": "%",
    "rh": "%RH",
    "cbm": "m3",
    "cbm/h": "m3/h",
}


def intended(unit: str) -> str | None:
    """The known unit that an unknown one is most likely a spelling of (`kwh` → `kWh`), or None."""
    if unit in UNITS:
        return None
    folded = unit.casefold()
    return _FOLDED.get(folded) or _SPOKEN.get(folded)


def siblings(unit: str) -> list[str]:
    """All other known units of the unit's dimension; empty for an unknown unit."""
    known = UNITS.get(unit)
    if known is None:
        return []
    return [name for name, u in UNITS.items() if u.dimension == known.dimension and name != unit]


def conversion(source: str, target: str) -> tuple[float, float]:
    """(factor, shift) with value in target = value in source × factor + shift, correctly rounded.

    Raises KeyError for an unknown unit and ValueError for units of different dimensions.
    """
    a, b = UNITS[source], UNITS[target]
    if a.dimension != b.dimension:
        raise ValueError(f"{source} is a {a.dimension}, {target} a {b.dimension}")
    return float(a.scale / b.scale), float((a.shift - b.shift) / b.scale)
