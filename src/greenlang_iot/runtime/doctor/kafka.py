"""Kafka: reachable, topics with their partitions, replication and settings."""

from collections.abc import AsyncIterator

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.runtime.doctor.finding import Finding
from greenlang_iot.settings.model import KafkaSettings
from greenlang_iot.sinks.kafka_setup import KafkaSetup, TopicPlan

_SETUP = "run `greenlang-iot setup`"


async def kafka(settings: KafkaSettings) -> AsyncIterator[Finding]:
    """What differs from the settings; changes nothing."""
    try:
        plans = await KafkaSetup(settings).plan()
    except GatewayError as error:
        yield Finding(
            "kafka",
            "failed",
            str(error),
            "start Kafka, or correct sinks.kafka: bootstrap_servers, security_protocol, login, tls",
        )
        return
    yield Finding("kafka", "ok", f"{settings.bootstrap_servers} answers")
    for plan in plans:
        for finding in _topic(plan):
            yield finding


def _topic(plan: TopicPlan) -> list[Finding]:
    subject = f"kafka: topic {plan.name}"
    if plan.create:
        return [Finding(subject, "failed", "it does not exist", _SETUP)]
    found = [Finding(subject, "warning", said) for said in plan.warnings]
    if plan.partitions:
        said = f"it has fewer partitions than the settings say ({plan.partitions})"
        found.append(Finding(subject, "failed", said, _SETUP))
    found += [
        Finding(subject, "warning", f"{key} is {now}, the settings say {wanted}", _SETUP)
        for key, (now, wanted) in plan.config.items()
    ]
    return found or [Finding(subject, "ok", "partitions, replication and settings as wanted")]
