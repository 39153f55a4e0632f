"""The gateway's topics, made or brought into line; safe to run again.

Readings carry the device's time. The topics therefore keep it (CreateTime) and do not bound it: the
gateway already did (limits.max_age, limits.max_future), and a broker that refuses one time stamp
refuses its whole batch (since Kafka 4.0 one hour ahead is the default bound).
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, NoError, for_code

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks.kafka_client import client_options, sink_error, why_unreachable

_UNBOUNDED = str(2**63 - 1)
_DYNAMIC_TOPIC_CONFIG = 1  # DescribeConfigs: set on the topic itself


@dataclass(slots=True, frozen=True)
class TopicPlan:
    """What has to change for one topic; nothing where every field is empty."""

    name: str
    create: bool = False
    partitions: int = 0  # wanted number, where it is larger than what is there; 0 = leave
    config: Mapping[str, tuple[str | None, str]] = field(default_factory=dict)  # (is, should be)
    warnings: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return self.create or self.partitions > 0 or bool(self.config)

    def lines(self) -> list[str]:
        """The difference, one line each, for people."""
        said = []
        if self.create:
            said.append(f"+ topic {self.name} with {self.partitions} partitions")
        elif self.partitions:
            said.append(f"~ topic {self.name}: {self.partitions} partitions")
        for key, (now, wanted) in self.config.items():
            said.append(f"~ topic {self.name}: {key} {now} → {wanted}")
        return said + [f"! topic {self.name}: {warning}" for warning in self.warnings]


@dataclass(slots=True, frozen=True)
class _Topic:
    name: str
    partitions: int
    config: dict[str, str]


class KafkaSetup:
    """Compare the cluster with the settings (`plan`), or make it so (`apply`)."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    async def plan(self) -> list[TopicPlan]:
        """One entry per topic. Raises GatewayError where Kafka cannot be asked."""
        async with self._admin() as admin:
            return await self._plan(admin)

    async def apply(self) -> list[TopicPlan]:
        """Make and alter what `plan` says; returns what was done. Raises GatewayError."""
        async with self._admin() as admin:
            plans = await self._plan(admin)
            for plan in plans:
                if plan.create:
                    await self._create(admin, plan.name)
                    continue
                if plan.partitions:
                    await admin.create_partitions({plan.name: NewPartitions(plan.partitions)})
                if plan.config:
                    await self._alter(admin, plan)
            await self._seen(admin)
            return plans

    def _wanted(self) -> list[_Topic]:
        settings = self._settings
        common = {
            "min.insync.replicas": str(settings.min_insync_replicas),
            "message.timestamp.type": "CreateTime",
            "message.timestamp.before.max.ms": _UNBOUNDED,
            "message.timestamp.after.max.ms": _UNBOUNDED,
        }
        kept = common | {
            "cleanup.policy": "delete",
            "retention.ms": str(int(settings.retention * 1000)),
        }
        return [
            _Topic(settings.readings_topic, settings.partitions, kept),
            _Topic(settings.alerts_topic, settings.partitions, kept),
            _Topic(settings.alerts_state_topic, 1, common | {"cleanup.policy": "compact"}),
            _Topic(settings.deadletter_topic, 1, kept),
        ]

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(**client_options(self._settings))
        try:
            await admin.start()
        except (KafkaError, OSError) as error:
            await admin.close()
            cause = await why_unreachable(self._settings) or error
            raise self._failure(cause) from cause
        try:
            yield admin
        except (KafkaError, OSError) as error:  # TimeoutError is an OSError
            raise self._failure(error) from error
        finally:
            await admin.close()

    def _failure(self, error: BaseException) -> GatewayError:
        return GatewayError(str(sink_error(error, f"Kafka at {self._settings.bootstrap_servers}")))

    async def _plan(self, admin: AIOKafkaAdminClient) -> list[TopicPlan]:
        described = {t["topic"]: t for t in await admin.describe_topics()}
        return [
            await self._compare(admin, topic, described[topic.name])
            if topic.name in described
            else TopicPlan(topic.name, create=True, partitions=topic.partitions)
            for topic in self._wanted()
        ]

    async def _compare(
        self, admin: AIOKafkaAdminClient, topic: _Topic, described: dict[str, Any]
    ) -> TopicPlan:
        there = described["partitions"]
        warnings = []
        if len(there) > topic.partitions:
            warnings.append(
                f"has {len(there)} partitions, the settings say {topic.partitions}: "
                "set sinks.kafka.partitions to the topic's number (partitions cannot be removed)"
            )
        if there and len(there[0]["replicas"]) != self._settings.replication_factor:
            warnings.append(
                f"has replication factor {len(there[0]['replicas'])}, the settings say "
                f"{self._settings.replication_factor}: reassign its partitions to change that"
            )
        now = {key: value for key, (value, _) in (await _config(admin, topic.name)).items()}
        return TopicPlan(
            topic.name,
            partitions=topic.partitions if len(there) < topic.partitions else 0,
            config={
                key: (now.get(key), value)
                for key, value in topic.config.items()
                if now.get(key) != value
            },
            warnings=tuple(warnings),
        )

    async def _create(self, admin: AIOKafkaAdminClient, name: str) -> None:
        (topic,) = (topic for topic in self._wanted() if topic.name == name)
        new = NewTopic(
            topic.name,
            topic.partitions,
            self._settings.replication_factor,
            topic_configs=topic.config,
        )
        response = await admin.create_topics([new])
        for created, code, message in response.topic_errors:
            _check(code, f"create topic {created}", message)

    async def _seen(self, admin: AIOKafkaAdminClient) -> None:
        """Wait until the broker itself knows what the controller made (a moment later)."""
        wanted = {topic.name for topic in self._wanted()}
        async with asyncio.timeout(self._settings.timeout):
            known: set[str] = set()
            while not wanted <= known:
                known = set(await admin.list_topics())
                await asyncio.sleep(0.05)

    async def _alter(self, admin: AIOKafkaAdminClient, plan: TopicPlan) -> None:
        # AlterConfigs replaces all that is set on the topic, so what others set goes along.
        kept = {
            key: value
            for key, (value, source) in (await _config(admin, plan.name)).items()
            if source == _DYNAMIC_TOPIC_CONFIG
        }
        wanted = kept | {key: value for key, (_, value) in plan.config.items()}
        resource = ConfigResource(ConfigResourceType.TOPIC, plan.name, wanted)
        for response in await admin.alter_configs([resource]):
            for code, message, *_ in response.resources:
                _check(code, f"alter topic {plan.name}", message)


async def _config(admin: AIOKafkaAdminClient, topic: str) -> dict[str, tuple[str, int]]:
    """The topic's configuration: key → (value, source)."""
    found: dict[str, tuple[str, int]] = {}
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    for response in await admin.describe_configs([resource]):
        for code, message, _kind, _name, entries in response.resources:
            _check(code, f"describe topic {topic}", message)
            for key, value, _read_only, source, *_ in entries:
                found[key] = (value, source)
    return found


def _check(code: int, what: str, message: str | None) -> None:
    error = for_code(code)
    if error is not NoError:
        raise GatewayError(f"Kafka does not let us {what}: {message or error.message}")
