"""From settings to runners: the one place that knows which sinks there are."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from greenlang_iot.model.directory import Directory
from greenlang_iot.model.outcomes import Refused
from greenlang_iot.model.protocols import OpenChunk, Sender
from greenlang_iot.observe.counters import Counters
from greenlang_iot.pipeline import INFLUXDB, KAFKA, LAKE, Clock
from greenlang_iot.runtime.adoption import Adoption, AdoptionMeter, Nothing, abandoned, say_left
from greenlang_iot.runtime.folders import lake_folder, spool_folder
from greenlang_iot.runtime.meters import SinkMeter
from greenlang_iot.settings.model import RunnerSettings, Settings
from greenlang_iot.sinks.deadletter import Publish
from greenlang_iot.sinks.runner import Runner
from greenlang_iot.spool.log import SegmentLog

Settle = Callable[[int, int, int], None]
Refuse = Callable[[str, list[Refused]], Awaitable[None]]


def kafka_publisher(settings: Settings) -> Publish | None:
    """Where dead letters go when their target is Kafka; None where Kafka is off."""
    if not settings.sinks.kafka.enabled or settings.sinks.dead_letter.target != "kafka":
        return None
    from greenlang_iot.sinks.kafka import KafkaSender

    sender = KafkaSender(settings.sinks.kafka, settings.sinks.kafka.deadletter_topic)

    async def publish(topic: str, key: bytes, value: bytes) -> None:
        await sender.publish(topic, key, value, time.time_ns() // 1_000_000)

    return publish


class SinkFactory:
    """Makes the runners of one shard."""

    def __init__(
        self,
        settings: Settings,
        directory: Directory,
        shard: int,
        counters: Counters,
        clock: Clock,
        settle: Settle,
        refuse: Refuse,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._shard = shard
        self._counters = counters
        self._clock = clock
        self._settle = settle
        self._refuse = refuse
        self._meters: dict[str, SinkMeter] = {}

    def runners(self) -> list[Runner]:
        """One runner per enabled sink."""
        sinks = self._settings.sinks
        found: list[Runner] = []
        if sinks.influxdb.enabled:
            found.append(self._influxdb())
        if sinks.kafka.enabled:
            found.append(self._kafka())
        if sinks.lake.enabled:
            found.append(self._lake())
        return found

    def adoptions(self) -> list[Adoption]:
        """One for each spool that a larger layout left behind; call it after `runners`.

        What waits in the spool of a sink that is not enabled any more is said.
        """
        sinks = self._settings.sinks
        spool = spool_folder(self._settings)
        found = []
        for folder in sorted((spool / f"shard-{self._shard}").glob("*/")):
            if folder.name not in self._meters:
                say_left(folder)
        for folder in abandoned(spool, self._shard, self._settings.runtime.shards):
            if folder.name == "influxdb" and sinks.influxdb.enabled:
                found.append(Adoption(folder, partial(self._adopted_influxdb, folder)))
            elif folder.name == "kafka" and sinks.kafka.enabled:
                found.append(Adoption(folder, partial(self._adopted_kafka, folder)))
            else:
                say_left(folder)
        return found

    def _influxdb(self) -> Runner:
        from greenlang_iot.encode.lines import LineEncoder
        from greenlang_iot.sinks.influx import InfluxSender

        settings = self._settings.sinks.influxdb
        encoder = LineEncoder(self._directory, settings)
        return self._runner("influxdb", INFLUXDB, encoder, InfluxSender(settings), settings)

    def _adopted_influxdb(self, folder: Path) -> Runner:
        from greenlang_iot.sinks.influx import InfluxSender

        settings = self._settings.sinks.influxdb
        sender = InfluxSender(settings)
        return self._runner("influxdb", INFLUXDB, Nothing(), sender, settings, adopted=folder)

    def _adopted_kafka(self, folder: Path) -> Runner:
        from greenlang_iot.sinks.kafka import KafkaSender

        settings = self._settings.sinks.kafka
        sender = KafkaSender(settings, settings.readings_topic)
        return self._runner("kafka", KAFKA, Nothing(), sender, settings, adopted=folder)

    def _kafka(self) -> Runner:
        from greenlang_iot.encode.records import RecordEncoder
        from greenlang_iot.sinks.kafka import KafkaSender

        settings = self._settings.sinks.kafka
        encoder = RecordEncoder(
            self._directory, settings.partitions, settings.compression, settings.max_batch_bytes
        )
        sender = KafkaSender(settings, settings.readings_topic)
        return self._runner("kafka", KAFKA, encoder, sender, settings)

    def _lake(self) -> Runner:
        from greenlang_iot.encode.arrow import ArrowEncoder
        from greenlang_iot.sinks.lake import LakeSender

        settings = self._settings.sinks.lake
        sender = LakeSender(settings, lake_folder(self._settings) / f"shard-{self._shard}")
        # The lake is a log on the disk that a spool would be on: it needs none.
        return self._runner(
            "lake", LAKE, ArrowEncoder(self._directory), sender, settings, spooled=False
        )

    def _runner(
        self,
        name: str,
        bit: int,
        encoder: OpenChunk,
        sender: Sender,
        settings: RunnerSettings,
        *,
        spooled: bool = True,
        adopted: Path | None = None,
    ) -> Runner:
        spool = None
        if spooled:
            own = spool_folder(self._settings) / f"shard-{self._shard}" / name
            spool = self._log(adopted or own)
        if adopted is None:
            meter = self._meters[name] = SinkMeter(self._counters, name)
        else:
            meter = AdoptionMeter(self._meters[name])
        return Runner(
            name,
            bit,
            encoder,
            sender,
            settings,
            spool=spool,
            spool_settings=self._settings.spool,
            settle=self._settle,
            refuse=self._refuse,
            meter=meter,
            clock=self._clock.monotonic,
        )

    def _log(self, folder: Path) -> SegmentLog:
        spool = self._settings.spool
        return SegmentLog(
            folder,
            segment_bytes=spool.segment_bytes,
            max_bytes=spool.max_bytes,
            fsync_every=spool.fsync_every,
            max_age=spool.max_age,
        )
