"""The settings as frozen models: every field has its default, its unit and its bounds.

The names here are the names in `config/iot-config.yaml`; `settings/load.py` reads the file, the
environment (`GREENLANG_IOT__SECTION__KEY`) and secret files, and reports every mistake at once.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

Seconds = Annotated[float, Field(ge=0, description="seconds")]
Bytes = Annotated[int, Field(ge=0, description="bytes")]
Policy = Literal["required", "best_effort"]
CONFIG_VERSION = 1
"""Version of the settings file that this release reads."""


class Section(BaseModel):
    """Base of every section: unknown keys are mistakes, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TlsSettings(Section):
    """TLS towards a service. Present = on; absent = plain TCP."""

    ca_file: Path | None = Field(None, description="PEM file of the CA; unset: the system's store")
    cert_file: Path | None = Field(None, description="client certificate (PEM), with key_file")
    key_file: Path | None = None
    verify: bool = Field(True, description="false accepts any certificate: loud, for tests only")
    check_hostname: bool = True
    minimum_version: Literal["1.2", "1.3"] = "1.2"


class BrokerSettings(Section):
    """One MQTT broker. `mqtt.brokers` is a list; every shard connects to every broker."""

    name: str = Field("default", pattern=r"^[A-Za-z0-9_-]{1,32}$")
    host: str = "127.0.0.1"
    port: int = Field(8883, ge=1, le=65535)
    protocol: Literal["5", "3.1.1"] = "5"
    tls: TlsSettings | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    keep_alive: int = Field(30, ge=5, le=65535, description="seconds")
    session_expiry: int = Field(86_400, ge=0, le=4_294_967_294, description="seconds")
    receive_maximum: int = Field(
        65_535, ge=1, le=65_535, description="messages a connection may have unacknowledged"
    )
    maximum_packet_size: int = Field(262_144, ge=256, le=1_048_576, description="bytes")
    topic_alias_maximum: int = Field(1_024, ge=0, le=65_535)
    connections_per_shard: int = Field(2, ge=1, le=64)
    connect_timeout: Seconds = 10.0


class MqttSettings(Section):
    topic: str = Field(
        "greenlang/{org}/{site}/{device}/telemetry",
        description="template; must hold {org}, {site} and {device} once each, as whole levels",
    )
    qos: Literal[0, 1] = 1
    layout: Literal["sites", "shared"] = Field(
        "sites",
        description="sites: disjoint filters per shard; shared: one $share subscription, which "
        "does not keep a device on one shard",
    )
    share_name: str = Field("greenlang-iot", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    discovery: bool = Field(True, description="10 s every 10 min look for unregistered sites")
    brokers: list[BrokerSettings] = Field(default_factory=lambda: [BrokerSettings()], min_length=1)


class LimitSettings(Section):
    max_payload_bytes: Bytes = 65_536
    max_readings_per_message: int = Field(1_000, ge=1, le=100_000)
    max_age: Seconds = Field(
        7 * 86_400.0, description="older time stamps are rejected; 0 = no limit"
    )
    max_future: Seconds = Field(300.0, description="time stamps further ahead are rejected")
    unknown_devices: Literal["reject", "accept"] = "reject"
    max_unknown_devices: int = Field(1_000, ge=0, le=100_000)
    max_metrics_per_unknown_device: int = Field(16, ge=1, le=64)
    missing_ts: Literal["reject", "receive_time"] = "reject"


class BatchSettings(Section):
    max_bytes: Bytes = Field(1_048_576, ge=65_536, description="receive buffer of a connection")
    linger: Seconds = Field(0.005, le=1.0, description="longest wait for more messages")


class RunnerSettings(Section):
    """Bounds of one sink's queue; the runner owns them."""

    policy: Policy = "required"
    chunk_rows: int = Field(20_000, ge=1)
    chunk_bytes: Bytes = Field(4_194_304, ge=1_024)
    queue_bytes: Bytes = Field(67_108_864, ge=1_048_576, description="open + in flight, in memory")
    in_flight: int = Field(2, ge=1, le=16, description="chunks sent and not answered yet")
    timeout: Seconds = Field(10.0, gt=0)
    backoff_initial: Seconds = Field(0.1, gt=0)
    backoff_max: Seconds = Field(4.0, gt=0)


class InfluxSettings(RunnerSettings):
    enabled: bool = False
    url: str = "http://127.0.0.1:8086"
    version: Literal["2", "1"] = "2"
    org: str = "greenlang"
    bucket: str = Field("iot_data", description="1.x: the database")
    retention: Seconds = 30 * 86_400.0
    aggregated_bucket: str = "iot_aggregated"
    aggregated_retention: Seconds = 365 * 86_400.0
    aggregated_every: Seconds = Field(300.0, gt=0)
    token: SecretStr | None = None
    token_file: Path | None = None
    username: str | None = Field(None, description="1.x only")
    password: SecretStr | None = None
    password_file: Path | None = None
    measurement: str = Field("telemetry", pattern=r"^[A-Za-z][^\x00-\x1f\\]{0,127}$")
    max_refusals: int = Field(
        256,
        ge=1,
        description="refused parts of one chunk before what is undecided is dead-lettered",
    )
    tiebreak: Literal["none", "seq"] = "none"
    gzip: bool = False
    tls: TlsSettings | None = None


class KafkaSettings(RunnerSettings):
    enabled: bool = False
    bootstrap_servers: str = "127.0.0.1:9092"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: SecretStr | None = None
    password_file: Path | None = None
    tls: TlsSettings | None = None
    readings_topic: str = "iot.readings"
    alerts_topic: str = "iot.alerts"
    alerts_state_topic: str = "iot.alerts.state"
    deadletter_topic: str = "iot.deadletter"
    partitions: int = Field(12, ge=1, le=10_000)
    replication_factor: int = Field(1, ge=1, le=15)
    min_insync_replicas: int = Field(1, ge=1, le=15)
    retention: Seconds = 30 * 86_400.0
    compression: Literal["none", "gzip", "snappy", "zstd"] = "none"
    max_batch_bytes: Bytes = Field(524_288, ge=1_024, le=1_000_000, description="one record batch")


class LakeSettings(RunnerSettings):
    enabled: bool = True
    path: Path | None = Field(None, description="default: lake/ in data_dir")
    segment_bytes: Bytes = Field(67_108_864, ge=65_536)
    segment_age: Seconds = Field(60.0, gt=0)
    fsync_every: Seconds = Field(0.01, ge=0)
    compact_every: Seconds = Field(10.0, gt=0)
    retention: Seconds = 30 * 86_400.0
    max_bytes: Bytes = 107_374_182_400


class DeadLetterSettings(Section):
    target: Literal["files", "kafka"] = "files"
    path: Path | None = Field(None, description="default: dead-letter/ in data_dir")
    max_bytes: Bytes = Field(1_073_741_824, description="then a digest and a count are kept")
    device_rate: float = Field(
        100.0, gt=0, description="dead letters a second and device, kept whole"
    )
    fsync_every: Seconds = 0.01


class SpoolSettings(Section):
    path: Path | None = Field(None, description="default: spool/ in data_dir")
    after: Seconds = Field(
        1.0, description="age of the oldest unsettled entry that starts spooling"
    )
    gather: Seconds = Field(
        0.1, le=10.0, description="longest wait for more rows before a record is written"
    )
    max_bytes: Bytes = Field(10_737_418_240, description="per sink and shard; full = back pressure")
    max_age: Seconds = Field(0.0, description="0 = kept until delivered")
    segment_bytes: Bytes = Field(67_108_864, ge=65_536)
    fsync_every: Seconds = 0.01
    replay_bytes_per_second: Bytes = Field(67_108_864, ge=1_024)


class SecondStageSettings(Section):
    enabled: bool = True
    budget_per_1000: float = Field(
        2.0, ge=0, le=1000, description="observations per 1,000 readings"
    )
    models: int = Field(64, ge=1, le=10_000, description="least recently used are dropped")


class DetectSettings(Section):
    enabled: bool = True
    threshold: float = Field(
        5.0, gt=0, le=30, description="suspect at or above this score, as −log10 of the tail share"
    )
    warmup: int = Field(30, ge=2, description="readings of a series before it is scored")
    silence_intervals: float = Field(
        3.0, ge=1, description="expected intervals without a reading after which a series is silent"
    )
    checkpoint_every: Seconds = 30.0
    second_stage: SecondStageSettings = SecondStageSettings()


class AlertSettings(Section):
    mqtt: bool = True
    kafka: bool = Field(True, description="when sinks.kafka is enabled")
    pending_for: Seconds = Field(0.0, description="event time a condition must hold before opening")
    open_after: int = Field(1, ge=1, description="suspect readings that open a spike/shift alert")
    resolve_after: int = Field(10, ge=1, description="normal readings in a row that resolve")
    resolve_spike_after: int = Field(
        3, ge=1, description="the same for an alert of single readings"
    )
    max_active: int = Field(
        10_000,
        ge=1,
        description="alerts not resolved at a time, per shard; more are counted, not opened",
    )
    cooldown: Seconds = Field(300.0, description="event time before the same alert opens again")
    outbox_max_bytes: Bytes = 268_435_456
    group_devices: int = Field(
        5,
        ge=0,
        description="devices of a site whose alerts of one kind become one incident; 0 = off",
    )
    group_window: Seconds = Field(120.0, description="event time within which they count together")
    flap_count: int = Field(
        4,
        ge=2,
        le=64,
        description="openings of the same alert within flap_window that make it flapping",
    )
    flap_window: Seconds = 3_600.0
    history: int = Field(
        2_000, ge=1, description="resolved alerts kept at hand; the lake has all of them"
    )
    max_silences: int = Field(1_000, ge=1)


class AdminSettings(Section):
    host: str = "127.0.0.1"
    port: int = Field(8090, ge=0, le=65535, description="0 = any free port")


class LogSettings(Section):
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal"
    )
    level: Literal["debug", "info", "warning", "error"] = "info"


class RuntimeSettings(Section):
    shards: int = Field(2, ge=1, le=128)
    heartbeat_timeout: Seconds = Field(10.0, gt=0)
    restart_budget: int = Field(10, ge=0, description="restarts of a shard within restart_window")
    restart_window: Seconds = 60.0
    drain_timeout: Seconds = Field(10.0, gt=0)
    memory_bound: Bytes = Field(
        1_073_741_824, description="unsettled bytes of a shard: sockets pause"
    )


class SinksSettings(Section):
    influxdb: InfluxSettings = InfluxSettings()
    kafka: KafkaSettings = KafkaSettings()
    lake: LakeSettings = LakeSettings()
    dead_letter: DeadLetterSettings = DeadLetterSettings()


class Settings(Section):
    """The whole configuration of one gateway instance."""

    config_version: Literal[1] = 1
    instance: str = Field("gateway", pattern=r"^[A-Za-z0-9-]{1,32}$")
    data_dir: Path = Field(
        Path("var"), description="spool, lake, outbox, checkpoints, dead letters"
    )
    mqtt: MqttSettings = MqttSettings()
    limits: LimitSettings = LimitSettings()
    batch: BatchSettings = BatchSettings()
    detect: DetectSettings = DetectSettings()
    alerts: AlertSettings = AlertSettings()
    sinks: SinksSettings = SinksSettings()
    spool: SpoolSettings = SpoolSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
