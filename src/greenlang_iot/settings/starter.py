"""The text of a first settings file, from a few answers. Pure."""

from dataclasses import dataclass
from pathlib import Path

import yaml

SINKS = ("lake", "influxdb", "kafka")


@dataclass(slots=True, frozen=True)
class Answers:
    """What a newcomer is asked. ca_file and tls: the broker's; files of secrets hold one line."""

    instance: str = "gateway"
    broker: str = "127.0.0.1"
    port: int = 8883
    tls: bool = True
    ca_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    topic: str = "greenlang/{org}/{site}/{device}/telemetry"
    sinks: tuple[str, ...] = ("lake",)
    influxdb_url: str = "http://127.0.0.1:8086"
    influxdb_org: str = "greenlang"
    influxdb_token_file: Path | None = None
    kafka_servers: str = "127.0.0.1:9092"


def starter(answers: Answers) -> str:
    """The settings file (YAML): what was answered, and how to go on."""
    lines = [
        "# greenlang-iot: settings of one gateway. Everything that is not here has its default:",
        "#   greenlang-iot config show     every value, and where it comes from",
        "#   greenlang-iot config check    every mistake at once",
        "# The environment overrides this file: GREENLANG_IOT__MQTT__BROKERS__0__HOST=broker.example",
        "# Secrets stand in the environment or in files that only the gateway can read.",
        "config_version: 1",
        "",
        f"instance: {_scalar(answers.instance)} # unique per broker, stable for ever",
        "data_dir: var # spool, lake, outbox, checkpoints and dead letters: must survive a restart",
        "",
        "mqtt:",
        f"  topic: {_scalar(answers.topic)}",
        "  brokers:",
        f"    - host: {_scalar(answers.broker)}",
        f"      port: {answers.port}",
        *_login(answers),
        *_tls(answers),
        "",
        "# A message is acknowledged to the broker when every required sink has it durably.",
        "sinks:",
        *_influxdb(answers),
        *_kafka(answers),
        "  lake: # Parquet files in data_dir; ask them with `greenlang-iot query`",
        f"    enabled: {_yes('lake' in answers.sinks)}",
        "  dead_letter: # what is rejected, with the reason; `greenlang-iot dead-letter list`",
        "    target: files",
    ]
    return "\n".join(lines) + "\n"


def _login(answers: Answers) -> list[str]:
    if answers.username is None:
        return ["      # username: gateway"]
    lines = [f"      username: {_scalar(answers.username)}"]
    if answers.password_file is not None:
        return [*lines, f"      password_file: {_scalar(str(answers.password_file))}"]
    return [*lines, "      # password: set GREENLANG_IOT__MQTT__BROKERS__0__PASSWORD"]


def _tls(answers: Answers) -> list[str]:
    if not answers.tls:
        return ["      # no tls section: plain TCP, which anybody on the way can read"]
    if answers.ca_file is None:
        return ["      tls: {} # trusts the system's certificates; ca_file names another CA"]
    return ["      tls:", f"        ca_file: {_scalar(str(answers.ca_file))}"]


def _influxdb(answers: Answers) -> list[str]:
    if "influxdb" not in answers.sinks:
        return ["  influxdb:", "    enabled: false"]
    file = answers.influxdb_token_file
    token = (
        f"    token_file: {_scalar(str(file))}"
        if file is not None
        else "    # token: set GREENLANG_IOT__SINKS__INFLUXDB__TOKEN"
    )
    return [
        "  influxdb: # `greenlang-iot setup` makes buckets and the downsampling task",
        "    enabled: true",
        f"    url: {_scalar(answers.influxdb_url)}",
        f"    org: {_scalar(answers.influxdb_org)}",
        token,
    ]


def _kafka(answers: Answers) -> list[str]:
    if "kafka" not in answers.sinks:
        return ["  kafka:", "    enabled: false"]
    return [
        "  kafka: # `greenlang-iot setup` makes the topics",
        "    enabled: true",
        f"    bootstrap_servers: {_scalar(answers.kafka_servers)}",
    ]


def _yes(flag: bool) -> str:
    return "true" if flag else "false"


def _scalar(text: str) -> str:
    """A text as YAML, quoted where it must be."""
    dumped: str = yaml.safe_dump(text, width=10_000, allow_unicode=True)
    return dumped.removesuffix("\n").removesuffix("\n...")
