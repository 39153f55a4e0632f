"""`greenlang-iot doctor`: every check of a set-up, one after the other."""

from collections.abc import AsyncIterator, Sequence

from greenlang_iot.runtime.doctor.broker import broker as check_broker
from greenlang_iot.runtime.doctor.finding import Finding
from greenlang_iot.runtime.doctor.host import host
from greenlang_iot.runtime.doctor.influx import influxdb
from greenlang_iot.runtime.doctor.kafka import kafka
from greenlang_iot.settings.model import Settings


async def examine(settings: Settings, filters: Sequence[str]) -> AsyncIterator[Finding]:
    """Findings as they are made. filters: what the gateway will subscribe to."""
    for finding in host(settings):
        yield finding
    for broker in settings.mqtt.brokers:
        async for finding in check_broker(settings, broker, filters):
            yield finding
    if settings.sinks.influxdb.enabled:
        async for finding in influxdb(settings.sinks.influxdb):
            yield finding
    if settings.sinks.kafka.enabled:
        async for finding in kafka(settings.sinks.kafka):
            yield finding
