"""Device types of the example registry and of generated ones, and registries of any size from them."""

from typing import Any

import numpy as np

Document = dict[str, Any]


def _metric(
    unit: str,
    valid: tuple[float | None, float | None],
    *,
    warn: tuple[float | None, float | None] | None = None,
    max_step: float | None = None,
    interval: float = 60,
    profile: str = "default",
) -> Document:
    metric: Document = {"unit": unit, "range": list(valid)}
    if warn is not None:
        metric["warn"] = list(warn)
    if max_step is not None:
        metric["max_step"] = max_step
    return metric | {"interval": interval, "profile": profile}


TYPES: dict[str, Document] = {
    "energy-meter": {
        "description": "Three-phase meter of a sub-distribution",
        "metrics": {
            "power": _metric("kW", (-500, 500), warn=(None, 420), max_step=100),
            "energy": _metric("kWh", (0, 1e9), profile="counter"),
            "voltage": _metric("V", (0, 500), warn=(207, 253), max_step=50),
            "current": _metric("A", (0, 1000), max_step=400),
        },
    },
    "gas-meter": {
        "description": "Diaphragm or turbine gas meter",
        "metrics": {
            "flow": _metric("m3/h", (0, 400), max_step=60),
            "volume": _metric("m3", (0, 1e8), profile="counter"),
            "pressure": _metric("kPa", (0, 1000), warn=(1.5, 600), max_step=50),
        },
    },
    "weather": {
        "description": "Roof weather station",
        "metrics": {
            "temperature": _metric("Cel", (-50, 60), max_step=0.5),
            "humidity": _metric("%RH", (0, 100), max_step=2),
            "pressure": _metric("hPa", (850, 1100), max_step=0.5, profile="smooth"),
            "wind_speed": _metric("m/s", (0, 75), warn=(None, 25), profile="spiky"),
        },
    },
    "air-quality": {
        "description": "CO2, temperature and humidity of a room",
        "metrics": {
            "co2": _metric("ppm", (0, 10000), warn=(350, 1500), max_step=100, profile="smooth"),
            "temperature": _metric("Cel", (-20, 60), warn=(15, 30), max_step=0.5),
            "humidity": _metric("%RH", (0, 100), max_step=2),
        },
    },
    "flow-meter": {
        "description": "Electromagnetic water flow meter",
        "metrics": {"flow": _metric("L/s", (0, 1000), max_step=20)},
    },
    "boiler": {
        "description": "Gas-fired hot-water boiler",
        "metrics": {
            "supply_temperature": _metric("Cel", (0, 150), warn=(None, 110), max_step=2),
            "return_temperature": _metric("Cel", (0, 150), max_step=2),
            "pressure": _metric("bar", (0, 16), warn=(0.8, 10), max_step=0.5),
            "running": _metric("1", (0, 1), profile="binary"),
        },
    },
    "cold-store": {
        "description": "Cold store with a door contact",
        "metrics": {
            "temperature": _metric("Cel", (-60, 40), warn=(-30, -12), max_step=0.3),
            "humidity": _metric("%RH", (0, 100), max_step=2),
            "door": _metric("1", (0, 1), profile="binary"),
        },
    },
    "vibration": {
        "description": "Vibration and temperature of a motor bearing",
        "metrics": {
            "velocity": _metric("mm/s", (0, 100), warn=(None, 11), interval=10, profile="spiky"),
            "temperature": _metric("Cel", (-40, 200), warn=(None, 95), max_step=1, interval=10),
        },
    },
}

EXAMPLE_SITES = (("acme", "plant-a"), ("acme", "plant-b"), ("borealis", "hq"), ("borealis", "lab"))


def make_registry(
    devices: int,
    *,
    seed: int = 0,
    sites: tuple[tuple[str, str], ...] = EXAMPLE_SITES,
    types: tuple[str, ...] = tuple(TYPES),
) -> Document:
    """A registry document of `devices` devices, the same for the same arguments.

    Types are drawn by the seed; devices go round the (org, site) pairs. Ids are `{type}-{number}`.
    """
    drawn = np.random.default_rng(seed).integers(0, len(types), devices).tolist()
    width = max(4, len(str(devices)))
    return {
        "version": 1,
        "types": {name: TYPES[name] for name in types},
        "devices": [
            {
                "id": f"{types[t]}-{i:0{width}d}",
                "org": sites[i % len(sites)][0],
                "site": sites[i % len(sites)][1],
                "type": types[t],
            }
            for i, t in enumerate(drawn)
        ],
    }
