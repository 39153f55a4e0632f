"""The settings as frozen models: every field has its default, its unit and its bounds.

The names here are the names in `config/iot-config.yaml`; `settings/load.py` reads the file, the
environment (`GREENLANG_IOT__SECTION__KEY`) and secret files, and reports every mistake at once.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from greenlang_iot.model.severity import Severity

# The bounds stand with each field: one that stood here would replace the field's.
Seconds = Annotated[float, Field(json_schema_extra={"unit": "seconds"})]
WholeSeconds = Annotated[int, Field(json_schema_extra={"unit": "seconds"})]
Bytes = Annotated[int, Field(json_schema_extra={"unit": "bytes"})]
Policy = Literal["required", "best_effort"]
CONFIG_VERSION = 1
"""Version of the settings file that this release reads."""


class Section(BaseModel):
    """Base of every section: unknown keys are mistakes, values never change after loading."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )


class TlsSettings(Section):
    """TLS towards a service: present is on, absent is plain TCP."""

    ca_file: Path | None = None
    """PEM file of the CA that signed the server's certificate; unset: the system's store."""
    crl_file: Path | None = None
    """PEM file: the revocation list of the CA that signs the servers; unset: nothing is looked up."""
    cert_file: Path | None = None
    """Client certificate (PEM), where the server asks for one; with key_file."""
    key_file: Path | None = None
    """Private key (PEM) of cert_file."""
    verify: bool = True
    """false: any certificate is accepted; loud, for tests only."""
    check_hostname: bool = True
    """The certificate must name the host that is connected to."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is spoken."""


class BrokerSettings(Section):
    """One MQTT broker. `mqtt.brokers` is a list; every shard connects to every broker."""

    name: str = Field("default", pattern=r"^[A-Za-z0-9_-]{1,32}$")
    """Its name in metrics, logs and commands; unique among the brokers."""
    host: str = "127.0.0.1"
    """Host name or address of the broker."""
    port: int = Field(8883, ge=1, le=65535)
    """8883 is the usual port of MQTT over TLS, 1883 without."""
    protocol: Literal["5", "3.1.1"] = "5"
    """Version of MQTT."""
    tls: TlsSettings | None = None
    """TLS towards the broker; leave the section out for plain TCP."""
    username: str | None = None
    """Login at the broker."""
    password: SecretStr | None = None
    """Its password; from the environment, or use password_file."""
    password_file: Path | None = None
    """File that holds the password on one line."""
    keep_alive: WholeSeconds = Field(30, ge=5, le=65535)
    """A silent connection is tested after this long."""
    session_expiry: WholeSeconds = Field(86_400, ge=0, le=4_294_967_294)
    """How long the broker keeps messages while the gateway is away."""
    receive_maximum: int = Field(65_535, ge=1, le=65_535)
    """Messages a connection may have unacknowledged."""
    maximum_packet_size: Bytes = Field(262_144, ge=256, le=1_048_576)
    """Largest packet that the broker may send. 3.1.1 cannot tell it: what is larger is rejected as too_large."""
    topic_alias_maximum: int = Field(1_024, ge=0, le=65_535)
    """Topic aliases that the broker may use on a connection (MQTT 5)."""
    connections_per_shard: int = Field(2, ge=1, le=64)
    """MQTT connections of one shard to this broker."""
    connect_timeout: Seconds = Field(10.0, gt=0)
    """Longest wait for a connection, TLS and CONNACK included."""


class FormatSettings(Section):
    """Topics whose payloads are not our JSON, and how they are read."""

    topic: str
    """Template like mqtt.topic; {org} and {site} may be missing, {metric} may be there. The same text as
    mqtt.topic takes the place of JSON there."""
    format: str
    """Name of a format, built in or of an installed package."""
    device_id: str = "{device}"
    """How the registered id is made of the topic's {device} and, with Sparkplug, {node}."""
    metrics: dict[str, str | None] = Field(default_factory=dict)
    """Names in the payload and the registry's metrics for them; null leaves one out."""
    missing_ts: Literal["reject", "receive_time"] | None = None
    """What becomes of readings without a time stamp; unset: as limits.missing_ts."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What the format itself wants to know."""


class MqttSettings(Section):
    """What is read from the brokers, and how the shards share it."""

    topic: str = "greenlang/{org}/{site}/{device}/telemetry"
    """Template; must hold {org}, {site} and {device} once each, as whole levels."""
    formats: list[FormatSettings] = Field(default_factory=list)
    """More topics, with payloads in other formats."""
    qos: Literal[0, 1] = 1
    """1: acknowledged when it is safe; 0: the broker keeps nothing while the gateway is away."""
    layout: Literal["sites", "shared"] = "sites"
    """sites: disjoint filters per shard; shared: one $share subscription, which does not keep a
    device on one shard."""
    share_name: str = Field("greenlang-iot", pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Name of the shared subscription, with layout: shared."""
    discovery: bool = True
    """Look for sites that are not in the registry: 10 s every 10 min, only reported."""
    brokers: list[BrokerSettings] = Field(default_factory=lambda: [BrokerSettings()], min_length=1)
    """The brokers to read from; every shard connects to each of them."""


class LimitSettings(Section):
    """What a message and a reading must keep to; what does not is rejected with its reason."""

    max_payload_bytes: Bytes = Field(65_536, ge=0)
    """Larger payloads are rejected as too_large."""
    max_readings_per_message: int = Field(1_000, ge=1, le=100_000)
    """Messages of more readings are rejected as too_many_readings."""
    max_age: Seconds = Field(7 * 86_400.0, ge=0)
    """Older time stamps are rejected as ts_too_old; 0: no limit."""
    max_future: Seconds = Field(300.0, ge=0)
    """Time stamps further ahead are rejected as ts_in_future."""
    device_rate: float = Field(
        0.0, ge=0, description="messages a second of a device; more are dead letters; 0 = no limit"
    )
    site_rate: float = Field(
        0.0, ge=0, description="messages a second of a site, in one shard; 0 = no limit"
    )
    unknown_devices: Literal["reject", "accept"] = "reject"
    """accept: devices that the registry does not have are taken as guests."""
    max_unknown_devices: int = Field(1_000, ge=0, le=100_000)
    """Guests at a time, per shard."""
    max_metrics_per_unknown_device: int = Field(16, ge=1, le=64)
    """Metrics of one guest."""
    missing_ts: Literal["reject", "receive_time"] = "reject"
    """receive_time: a reading without ts gets the gateway's time; duplicates are then not
    recognised."""


class BatchSettings(Section):
    """How much is taken from a connection at a time."""

    max_bytes: Bytes = Field(4_194_304, ge=65_536)
    """Receive buffer of a connection."""
    linger: Seconds = Field(0.004, ge=0, le=1.0)
    """Wait for more messages; up to eight times as long while few come, or a shard uses most of its core."""


class RunnerSettings(Section):
    """Bounds of one sink's queue; the runner owns them."""

    policy: Policy = "required"
    """required: a message is acknowledged only when this sink has it durably; best_effort never
    holds one back."""
    chunk_rows: int = Field(20_000, ge=1)
    """Most readings in one chunk (one request)."""
    chunk_bytes: Bytes = Field(4_194_304, ge=1_024)
    """Most bytes in one chunk."""
    queue_bytes: Bytes = Field(67_108_864, ge=1_048_576)
    """Chunks in memory, open and in flight; beyond it there is back pressure."""
    in_flight: int = Field(2, ge=1, le=16)
    """Chunks sent and not answered yet."""
    timeout: Seconds = Field(10.0, gt=0)
    """Longest wait for the answer to a chunk."""
    backoff_initial: Seconds = Field(0.1, gt=0)
    """First wait before a failed chunk is sent again; doubled up to backoff_max."""
    backoff_max: Seconds = Field(4.0, gt=0)
    """Longest wait before a failed chunk is sent again."""


class InfluxSettings(RunnerSettings):
    """InfluxDB 2.x or 1.x."""

    enabled: bool = False
    """Readings go to InfluxDB."""
    url: str = "http://127.0.0.1:8086"
    """http:// or https://, host and port."""
    version: Literal["2", "1"] = "2"
    """"1": bucket is the database, login by username and password."""
    org: str = "greenlang"
    """Organisation, 2.x only."""
    bucket: str = "iot_data"
    """Bucket of the readings and alerts (1.x: the database)."""
    retention: Seconds = Field(30 * 86_400.0, ge=0)
    """How long `setup` lets the bucket keep its data."""
    aggregated_bucket: str = "iot_aggregated"
    """Bucket of the downsampled readings (1.x: the database)."""
    aggregated_retention: Seconds = Field(365 * 86_400.0, ge=0)
    """How long `setup` lets that bucket keep its data."""
    aggregated_every: Seconds = Field(300.0, gt=0)
    """Window of the downsampling task."""
    token: SecretStr | None = None
    """2.x: a token that may write to the bucket; from the environment, or use token_file."""
    token_file: Path | None = None
    """File that holds the token on one line."""
    username: str | None = None
    """Login, 1.x only."""
    password: SecretStr | None = None
    """Its password, 1.x only; from the environment, or use password_file."""
    password_file: Path | None = None
    """File that holds the password on one line, 1.x only."""
    measurement: str = Field("telemetry", pattern=r"^[A-Za-z][^\x00-\x1f\\]{0,127}$")
    """Measurement of the readings."""
    max_refusals: int = Field(256, ge=1)
    """Refused parts of one chunk before what is undecided is dead-lettered."""
    tiebreak: Literal["none", "seq"] = "none"
    """seq: adds seq mod 1000 ns to the time stamp, so that equal ones do not overwrite."""
    gzip: bool = False
    """Compress requests; worth it only over a slow link."""
    tls: TlsSettings | None = None
    """CA and client certificate for an https:// url."""


class KafkaSettings(RunnerSettings):
    """Apache Kafka."""

    enabled: bool = False
    """Readings go to Kafka."""
    bootstrap_servers: str = "127.0.0.1:9092"
    """host:port, several with commas between them."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """SSL and SASL_SSL encrypt; SASL_* log in."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """How to log in, with a security_protocol of SASL_*."""
    username: str | None = None
    """SASL login."""
    password: SecretStr | None = None
    """Its password; from the environment, or use password_file."""
    password_file: Path | None = None
    """File that holds the password on one line."""
    tls: TlsSettings | None = None
    """CA and client certificate, with SSL or SASL_SSL."""
    readings_topic: str = "iot.readings"
    """Topic of the readings."""
    alerts_topic: str = "iot.alerts"
    """Topic of every change of an alert."""
    alerts_state_topic: str = "iot.alerts.state"
    """Compacted topic of the alerts that are not resolved."""
    deadletter_topic: str = "iot.deadletter"
    """Topic of dead letters, with sinks.dead_letter.target: kafka."""
    partitions: int = Field(12, ge=1, le=10_000)
    """Partitions that `setup` gives the readings' and alerts' topics."""
    replication_factor: int = Field(1, ge=1, le=15)
    """Replicas that `setup` gives each topic."""
    min_insync_replicas: int = Field(1, ge=1, le=15)
    """Replicas that must have a record before it counts as written."""
    retention: Seconds = Field(30 * 86_400.0, ge=0)
    """How long `setup` lets topics keep records."""
    compression: Literal["none", "gzip", "snappy", "zstd"] = "none"
    """Of record batches; zstd is about a seventh of the bytes, for time of the shard's core."""
    max_batch_bytes: Bytes = Field(524_288, ge=1_024, le=1_000_000)
    """Largest record batch; below the broker's message.max.bytes."""


class LakeSettings(RunnerSettings):
    """The embedded store: Parquet files on this machine."""

    enabled: bool = True
    """Readings go to Parquet files on this machine."""
    path: Path | None = None
    """Folder of the lake; unset: lake/ in data_dir."""
    segment_bytes: Bytes = Field(67_108_864, ge=65_536)
    """Size at which a segment is closed and made into Parquet."""
    segment_age: Seconds = Field(60.0, gt=0)
    """Age at which a segment is closed and made into Parquet."""
    fsync_every: Seconds = Field(0.01, ge=0)
    """Writes of this long share one fsync."""
    compact_every: Seconds = Field(10.0, gt=0)
    """How often closed segments are made into Parquet."""
    retention: Seconds = Field(30 * 86_400.0, ge=0)
    """Files whose newest reading is older are removed."""
    max_bytes: Bytes = Field(107_374_182_400, ge=0)
    """Beyond it the oldest files are removed, loudly."""


class DeadLetterSettings(Section):
    """Where rejected messages and refused lines are kept, and how many."""

    target: Literal["files", "kafka"] = "files"
    """files: JSON lines in path; kafka: the topic, without a spool of its own."""
    path: Path | None = None
    """Folder of the files; unset: dead-letter/ in data_dir."""
    max_bytes: Bytes = Field(1_073_741_824, ge=0)
    """Beyond it only a digest and a count are kept."""
    device_rate: float = Field(100.0, gt=0)
    """Dead letters a second and device that are kept whole; of more only a digest."""
    fsync_every: Seconds = Field(0.01, ge=0)
    """Writes of this long share one fsync."""


class SpoolSettings(Section):
    """What a sink cannot take is kept on disk, per sink and shard, and replayed."""

    path: Path | None = None
    """Folder of the spool; unset: spool/ in data_dir."""
    after: Seconds = Field(1.0, ge=0)
    """Age of the oldest unsettled message that starts spooling."""
    gather: Seconds = Field(0.1, ge=0, le=10.0)
    """Longest wait for more rows before a record is written."""
    max_bytes: Bytes = Field(10_737_418_240, ge=0)
    """Per sink and shard; a full spool is back pressure."""
    max_age: Seconds = Field(0.0, ge=0)
    """Older chunks are dropped, counted; 0: kept until delivered."""
    segment_bytes: Bytes = Field(67_108_864, ge=65_536)
    """Size of one file of the spool."""
    fsync_every: Seconds = Field(0.01, ge=0)
    """Writes of this long share one fsync."""
    replay_bytes_per_second: Bytes = Field(67_108_864, ge=1_024)
    """Pace at which a sink that is back gets what waited, per shard."""


RiverDetector = Literal[
    "HalfSpaceTrees",
    "LODA",
    "OneClassSVM",
    "GaussianScorer",
    "StandardAbsoluteDeviation",
    "ADWIN",
    "KSWIN",
    "PageHinkley",
]


class SecondStageSettings(Section):
    """Slower models that look at suspects and at a sample."""

    enabled: bool = True
    """Suspects and a sample are looked at by slower models too."""
    budget_per_1000: float = Field(2.0, ge=0, le=1000)
    """Observations per 1,000 readings."""
    models: int = Field(64, ge=1, le=1_000)
    """Device types with models in memory, per shard; the least recently used are dropped."""
    detectors: tuple[RiverDetector, ...] = Field(("HalfSpaceTrees",), min_length=1, max_length=8)
    """river's detectors, asked all of them; their mean opinion counts."""


class DetectSettings(Section):
    """How readings are scored."""

    enabled: bool = True
    """Readings are scored; false: only validated."""
    threshold: float = Field(5.0, gt=0, le=30)
    """Suspect at or above this score, as −log10 of the tail share."""
    warmup: int = Field(30, ge=2)
    """Readings of a series before it is scored."""
    silence_intervals: float = Field(3.0, ge=1)
    """Expected intervals without a reading after which a series is silent."""
    checkpoint_every: Seconds = Field(30.0, ge=0)
    """How often what was learnt is saved; a crash forgets what is newer."""
    second_stage: SecondStageSettings = SecondStageSettings()


class NotifierSettings(Section):
    """Somebody who is told of alerts: Alertmanager, a webhook, or the gateway's log."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")
    """For logs; unique."""
    kind: Literal["alertmanager", "webhook", "log"]
    """What it is."""
    url: str = ""
    """Of Alertmanager (without /api/v2) or the webhook."""
    severity: Severity = "warning"
    """The least severity that is told."""
    flapping: bool = False
    """Flapping alerts are told, too."""
    resend: Seconds = Field(60.0, ge=1)
    """How often Alertmanager gets open alerts again; it forgets them after four times that."""
    template: str | None = None
    """JSON body of a webhook with ${summary} and other members of the alert; unset: the alert itself."""
    secret: SecretStr | None = None
    """Key of a webhook's HMAC-SHA256 signature."""
    secret_file: Path | None = None
    """File that holds secret."""
    console_url: str = ""
    """Where people reach this gateway's admin endpoint, for links."""
    timeout: Seconds = Field(10.0, gt=0)
    """Longest wait for an answer."""
    tls: TlsSettings | None = None
    """For https with a CA or certificate of your own."""


class AlertSettings(Section):
    """When scores become alerts, and where these go."""

    mqtt: bool = True
    """Alerts are published as retained messages."""
    kafka: bool = True
    """Alerts go to Kafka, when sinks.kafka is enabled."""
    pending_for: Seconds = Field(0.0, ge=0)
    """Event time a condition must hold before opening."""
    open_after: int = Field(1, ge=1)
    """Suspect readings that open a spike/shift alert."""
    resolve_after: int = Field(10, ge=1)
    """Normal readings in a row that resolve."""
    resolve_spike_after: int = Field(3, ge=1)
    """Normal readings in a row that resolve an alert of single readings."""
    max_active: int = Field(10_000, ge=1)
    """Alerts not resolved at a time, per shard; more are counted, not opened."""
    cooldown: Seconds = Field(300.0, ge=0)
    """Event time before the same alert opens again."""
    outbox_max_bytes: Bytes = Field(268_435_456, ge=262_144)
    """Alerts on disk that wait for their targets; full: messages that open alerts wait."""
    rules_file: Path | None = None
    """Alert rules of your own (YAML), beside what the detectors find."""
    presence: Literal["none", "info", "warning", "critical"] = "none"
    """Severity of a device that is offline by its status topic (its last will); none: not followed."""
    notifiers: list[NotifierSettings] = Field(default_factory=list, max_length=32)
    """Who is told of alerts, beside MQTT and Kafka."""
    group_devices: int = Field(5, ge=0)
    """Devices of a site whose alerts of one kind become one incident; 0: never."""
    group_window: Seconds = Field(120.0, ge=0)
    """Event time within which they count together."""
    flap_count: int = Field(4, ge=2, le=64)
    """Openings of the same alert within flap_window that make it flapping."""
    flap_window: Seconds = Field(3_600.0, ge=0)
    """Event time within which openings are counted for flap_count."""
    history: int = Field(2_000, ge=1)
    """Resolved alerts kept at hand; the lake has all of them."""
    max_silences: int = Field(1_000, ge=1)
    """Silences that hold or will hold."""


Share = Annotated[float, Field(ge=0, le=1)]


class QualitySettings(Section):
    """How good the data is, per device, site and fleet, and what is good enough."""

    enabled: bool = True
    """Quality is counted and reported."""
    window: Seconds = Field(3_600.0, ge=6, le=604_800)
    """Length of the sliding window; it moves on by a sixth."""
    lag: Seconds = Field(3_600.0, ge=0)
    """A reading is on time when it arrives at most this long after it was measured."""
    completeness: Share = 0.95
    """Target: readings received, of those due by the registry's intervals."""
    timeliness: Share = 0.99
    """Target: readings on time, of those that arrived."""
    validity: Share = 0.97
    """Target: readings that pass validation, of all."""
    consistency: Share = 0.99
    """Target: readings of the agreed unit and type, in order and new, of all."""
    accuracy: Share = 0.98
    """Target: readings within the detectors' expected band, of those judged."""
    min_readings: int = Field(20, ge=1)
    """A figure that rests on fewer readings opens no alert."""
    alerts: Literal["devices", "sites", "none"] = "devices"
    """For whom a missed target opens an alert; devices: for sites, too."""


class AdminTlsSettings(Section):
    """The admin endpoint's own certificate."""

    cert_file: Path
    """Certificate (PEM), with the chain up to the CA that clients trust."""
    key_file: Path
    """Private key (PEM) of cert_file."""
    minimum_version: Literal["1.2", "1.3"] = "1.2"
    """Oldest version of TLS that is spoken."""


class AdminSettings(Section):
    """The HTTP endpoint: /metrics, /healthz, /readyz, /status, /-/reload."""

    host: str = "127.0.0.1"
    """Address that /metrics, /healthz, /readyz and /status listen on."""
    port: int = Field(8090, ge=0, le=65535)
    """Port of the same; 0: any free port."""
    tls: AdminTlsSettings | None = None
    """Without it other machines are told no more than whether the gateway is ready."""
    max_connections: int = Field(64, ge=1, le=10_000)
    """Connections at a time; of more, the oldest that showed no token is closed."""
    audit_max_bytes: Bytes = Field(16_777_216, ge=65_536)
    """Of data_dir/audit*.jsonl, which say who had the gateway do what."""


class LogSettings(Section):
    """What is logged, on stderr."""

    format: Literal["auto", "console", "json"] = "auto"
    """auto: console on a terminal, json elsewhere."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important events that are logged."""


class RuntimeSettings(Section):
    """The processes of the gateway."""

    shards: int = Field(2, ge=1, le=128)
    """Processes that read, decode and deliver; one core each."""
    heartbeat_timeout: Seconds = Field(10.0, ge=1)
    """A shard that does not tick for this long is restarted."""
    restart_budget: int = Field(10, ge=0)
    """Restarts of a shard within restart_window before it is given up."""
    restart_window: Seconds = Field(60.0, ge=0)
    """Window of restart_budget."""
    drain_timeout: Seconds = Field(10.0, gt=0)
    """Time a shard has to deliver what is in memory when the gateway stops."""
    memory_bound: Bytes = Field(1_073_741_824, ge=0)
    """Unsettled bytes of a shard beyond which its sockets are not read."""


class SinksSettings(Section):
    """Where readings go. A message is acknowledged when every required sink has it durably."""

    influxdb: InfluxSettings = InfluxSettings()
    kafka: KafkaSettings = KafkaSettings()
    lake: LakeSettings = LakeSettings()
    dead_letter: DeadLetterSettings = DeadLetterSettings()


class Settings(Section):
    """The whole configuration of one gateway instance."""

    config_version: Literal[1] = 1
    """Version of this file."""
    instance: str = Field("gateway", pattern=r"^[A-Za-z0-9-]{1,32}$")
    """Name of this gateway in client ids and its status topic; unique per broker, stable for ever."""
    data_dir: Path = Path("var")
    """Spool, lake, outbox, checkpoints and dead letters; must survive a restart."""
    mqtt: MqttSettings = MqttSettings()
    limits: LimitSettings = LimitSettings()
    batch: BatchSettings = BatchSettings()
    detect: DetectSettings = DetectSettings()
    alerts: AlertSettings = AlertSettings()
    quality: QualitySettings = QualitySettings()
    sinks: SinksSettings = SinksSettings()
    spool: SpoolSettings = SpoolSettings()
    runtime: RuntimeSettings = RuntimeSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()
