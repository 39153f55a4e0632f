"""`greenlang-iot setup` for InfluxDB: the setup that fits the server's version."""

from greenlang_iot.settings.model import InfluxSettings
from greenlang_iot.sinks.influx_change import InfluxSetup
from greenlang_iot.sinks.influx_setup1 import InfluxSetup1
from greenlang_iot.sinks.influx_setup2 import InfluxSetup2


def influx_setup(settings: InfluxSettings) -> InfluxSetup:
    """What makes organisation, buckets (1.x: databases), retention and downsampling."""
    return InfluxSetup2(settings) if settings.version == "2" else InfluxSetup1(settings)
