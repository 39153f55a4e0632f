"""The one place where a metric is named.

A metric is a fixed set of cells: one per combination of its label values (histograms: one per
bucket and one for the sum). Every process has one flat array of all cells (`counters.py`); what is
not listed here cannot be counted, and no label can grow without bound.

Two identities hold at every moment, per shard, and the names below are their words:

    messages_received = messages_decoded + messages_undecodable
    readings_decoded  = readings_rejected + readings_duplicate
                        + per sink: delivered + refused + dropped + spool_readings + queue_readings

Messages and readings are counted apart everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from greenlang_iot.model.reasons import Reason
from greenlang_iot.model.severity import SEVERITIES
from greenlang_iot.quality.figures import FIGURES

PREFIX = "greenlang_iot_"

Kind = Literal["counter", "gauge", "age", "histogram"]
"""age: the cell holds the monotonic ns of the last event; exported as a gauge, in seconds since."""

Scope = Literal["shard", "gateway", "site"]
"""shard: one value per shard, exported with the label `shard`; gateway: counted by the parent;
site: one per site of the registry, given to the exporter (no cells), with the labels `org` and `site`."""

OTHER = "other"
"""A label whose values end with this word takes every value that is not listed as this one."""

SINKS = ("influxdb", "kafka", "lake", "dead_letter")
TARGETS = ("mqtt", "kafka", "influxdb", "lake", "alertmanager", "webhook", "log")
STAGES = ("decode", "score", "alert", "encode")
STATES = ("pending", "open", "acknowledged", "resolved")
MESSAGE_REASONS = tuple(r.value for r in Reason if r.is_message)
READING_REASONS = tuple(
    r.value for r in Reason if not r.is_message and r is not Reason.SINK_REFUSED
)
SINK_REASONS = (
    "timeout",
    "refused",
    "reset",
    "tls",
    "unauthorized",
    "forbidden",
    "not_found",
    "http_429",
    "http_500",
    "http_502",
    "http_503",
    "http_504",
    "no_brokers",
    "no_leader",
    "not_enough_replicas",
    "topic_missing",
    "partition_missing",
    "broker_error",
    "disk",
    OTHER,
)
ADMIN_REASONS = (
    "unauthorized", "read_only", "insecure", "too_many_connections", "too_slow", "bad_request",
)  # fmt: skip
DISCONNECT_REASONS = (
    "timeout",
    "refused",
    "connection_lost",
    "tls",
    "tls_certificate",
    "tls_client_certificate",
    "bad_user_name_or_password",
    "not_authorized",
    "client_id_not_valid",
    "quota_exceeded",
    "server_busy",
    "server_unavailable",
    "server_shutting_down",
    "session_taken_over",
    "keep_alive_timeout",
    "subscription_refused",
    "packet_too_large",
    "malformed_packet",
    "protocol_error",
    OTHER,
)

REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
BATCH_BUCKETS = (1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0, 16_384.0)

Labels = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(slots=True, frozen=True)
class Metric:
    """One metric. `name` is without prefix and without a counter's `_total`."""

    name: str
    kind: Kind
    help: str
    unit: str = ""
    labels: Labels = ()
    buckets: tuple[float, ...] = ()
    scope: Scope = "shard"

    @property
    def exported(self) -> str:
        """The name on the wire: `greenlang_iot_messages_received_total`."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"

    @property
    def width(self) -> int:
        """Cells per combination of label values."""
        return len(self.buckets) + 2 if self.kind == "histogram" else 1

    def combinations(self) -> list[tuple[str, ...]]:
        """Every combination of label values, in cell order."""
        return list(product(*(values for _, values in self.labels)))


_SINK: Labels = (("sink", SINKS),)
_TARGET: Labels = (("target", TARGETS),)


def _counter(name: str, help: str, unit: str = "", labels: Labels = ()) -> Metric:
    return Metric(name, "counter", help, unit, labels)


def _gauge(name: str, help: str, unit: str = "", labels: Labels = ()) -> Metric:
    return Metric(name, "gauge", help, unit, labels)


CATALOG: tuple[Metric, ...] = (
    # messages in
    _counter("messages_received", "PUBLISH packets received."),
    _counter("messages_decoded", "Messages of which at least the document could be read."),
    _counter(
        "messages_undecodable",
        "Messages rejected as a whole, by reason.",
        labels=(("reason", MESSAGE_REASONS),),
    ),
    _counter("messages_fast", "Messages decoded by the kernel; the rest took the general path."),
    _counter("messages_retained", "Retained messages: delivered and counted, not learnt."),
    _counter("received_bytes", "Bytes of PUBLISH packets received.", "bytes"),
    _counter(
        "sparkplug_missing_messages", "Messages of edge nodes that are missing by their `seq`."
    ),
    _counter("sparkplug_rebirth_requests", "Edge nodes asked for a rebirth."),
    # readings
    _counter("readings_decoded", "Readings found in decoded messages, rejected ones included."),
    _counter(
        "readings_rejected",
        "Readings rejected by validation, by reason.",
        labels=(("reason", READING_REASONS),),
    ),
    _counter("readings_duplicate", "Same identity and value on this connection: not sent again."),
    _counter("readings_replayed", "Same identity and value from before: delivered, not learnt."),
    _counter("readings_ts_collision", "Same identity, another value: delivered, not learnt."),
    _counter("readings_late", "Older than the series' memory: delivered, not learnt."),
    _counter("readings_retained", "Readings of retained messages: delivered, not learnt."),
    _counter("readings_clock_suspect", "Readings accepted while the gateway's clock was suspect."),
    # batches
    _counter("batches", "Receive batches processed."),
    Metric(
        "batch_messages",
        "histogram",
        "Messages in a receive batch.",
        buckets=BATCH_BUCKETS,
    ),
    _counter("process_seconds", "Time spent from receive batch to encoded chunks.", "seconds"),
    Metric(
        "stage_seconds",
        "histogram",
        "Time a batch spent in a stage, per message; sending is in sink_request_seconds.",
        "seconds",
        (("stage", STAGES),),
        STAGE_BUCKETS,
    ),
    # sinks
    _counter("sink_delivered_readings", "Readings durable in the sink.", labels=_SINK),
    _counter("sink_refused_readings", "Readings the sink refused for good.", labels=_SINK),
    _counter(
        "sink_dropped_readings",
        "Readings a best-effort sink did not get, or that waited longer than spool.max_age.",
        labels=_SINK,
    ),
    _counter("sink_spooled_readings", "Readings that took the way over the spool.", labels=_SINK),
    _counter("sink_chunks", "Chunks delivered.", labels=_SINK),
    _counter("sink_sent_bytes", "Bytes of chunks delivered.", "bytes", labels=_SINK),
    _counter(
        "sink_retries",
        "Failed attempts that will be repeated, by reason.",
        labels=(*_SINK, ("reason", SINK_REASONS)),
    ),
    Metric(
        "sink_request_seconds",
        "histogram",
        "Time of one request, failed ones included.",
        "seconds",
        _SINK,
        REQUEST_BUCKETS,
    ),
    Metric(
        "sink_answer_seconds",
        "histogram",
        "Time from the receipt of a chunk's oldest reading to the sink's answer, per reading that "
        "did not go over the spool.",
        "seconds",
        _SINK,
        LATENCY_BUCKETS,
    ),
    _gauge("sink_up", "1 while the sink answers, 0 while it is known to be down.", labels=_SINK),
    _gauge("sink_queue_readings", "Readings in memory: open and in flight.", labels=_SINK),
    _gauge("sink_queue_bytes", "Bytes in memory: open and in flight.", "bytes", _SINK),
    _gauge("sink_in_flight_chunks", "Chunks sent and not answered yet.", labels=_SINK),
    _gauge("sink_spool_readings", "Readings in the spool now.", labels=_SINK),
    _gauge("sink_spool_records", "Chunks in the spool now.", labels=_SINK),
    _gauge("sink_spool_bytes", "Bytes of the spool on disk.", "bytes", _SINK),
    _gauge("sink_spool_full", "1 while the spool refuses more: back pressure.", labels=_SINK),
    # dead letters
    _counter(
        "dead_letters",
        "Dead letters by kind; digest: those of them past a bound, kept as count and hash.",
        labels=(("kind", ("message", "line", "digest")),),
    ),
    # acknowledgement
    _counter("acks_sent", "PUBACK packets sent."),
    _counter("acks_stale", "Settled packets of an earlier connection: nothing to send."),
    _gauge("messages_unacked", "Messages received at QoS 1 and not acknowledged yet."),
    _gauge(
        "oldest_unacked_seconds",
        "Age of the oldest message that is not settled; 0 when none waits.",
        "seconds",
    ),
    _gauge("ledger_tickets", "Open tickets of the ack ledger."),
    _gauge("ledger_bytes", "Bytes of messages the ack ledger stands for.", "bytes"),
    Metric(
        "ack_seconds",
        "histogram",
        "Time from the receipt of a message to its PUBACK, per message.",
        "seconds",
        (),
        LATENCY_BUCKETS,
    ),
    # connections
    _gauge("connections_wanted", "Connections this shard should have."),
    _gauge("connections_up", "Connections that are subscribed."),
    _gauge("connections_paused", "Connections whose socket is not read."),
    _counter("connects", "Successful connects, the first included."),
    _counter(
        "disconnects",
        "Connections lost or refused, by reason.",
        labels=(("reason", DISCONNECT_REASONS),),
    ),
    _counter("pauses", "Times a socket was paused."),
    # detection
    _counter("scores_suspect", "Readings whose score passed the threshold."),
    _counter("scores_learning", "Readings seen while their series warms up."),
    _counter("second_stage_scores", "Readings the second stage looked at."),
    _counter("second_stage_shed", "Readings due for the second stage beyond its budget."),
    Metric(
        "checkpoint_age_seconds",
        "age",
        "Time since the last state checkpoint, or the start.",
        "seconds",
    ),
    # alerts
    _counter(
        "alert_transitions",
        "Transitions written to the outbox.",
        labels=(("state", STATES), ("severity", SEVERITIES)),
    ),
    _counter("alerts_suppressed", "Openings refused because alerts.max_active are not resolved."),
    _gauge("outbox_bytes", "Bytes of the alert outbox on disk.", "bytes"),
    Metric(
        "alerts_delivered", "counter", "Transitions delivered.", labels=_TARGET, scope="gateway"
    ),
    Metric(
        "alerts_failed",
        "counter",
        "Failed attempts to deliver a transition; they are repeated.",
        labels=_TARGET,
        scope="gateway",
    ),
    Metric(
        "alerts_open",
        "gauge",
        "Alerts that are open now.",
        labels=(("severity", SEVERITIES),),
        scope="gateway",
    ),
    Metric(
        "unregistered_sites",
        "gauge",
        "Sites that publish and are not in the registry, since the start.",
        scope="gateway",
    ),
    Metric(
        "broker_dropped_messages",
        "gauge",
        "What the broker says it dropped since it started ($SYS); Mosquitto says nothing before the first.",
        scope="gateway",
    ),
    Metric(
        "admin_refused",
        "counter",
        "Requests and connections that the admin endpoint refused.",
        labels=(("reason", ADMIN_REASONS),),
        scope="gateway",
    ),
    Metric("control_up", "gauge", "1 while the control connection is up.", scope="gateway"),
    # quality: over the window of quality.window; see docs/how-to/quality.md
    Metric(
        "quality_ratio",
        "gauge",
        "A figure of the fleet's data quality, in [0, 1].",
        labels=(("figure", FIGURES),),
        scope="gateway",
    ),
    Metric(
        "site_quality_ratio",
        "gauge",
        "A figure of a site's data quality, in [0, 1].",
        labels=(("figure", FIGURES),),
        scope="site",
    ),
    Metric(
        "quality_devices_below_target",
        "gauge",
        "Devices that miss the target of a figure.",
        labels=(("figure", FIGURES),),
        scope="gateway",
    ),
    Metric(
        "quality_skew_seconds",
        "gauge",
        "Clock skew of the device that is furthest off; positive: its clock is ahead.",
        "seconds",
        scope="gateway",
    ),
    # the shard itself; the parent writes shard_up and shard_restarts
    _gauge("shard_up", "1 while the shard's process runs."),
    _counter("shard_restarts", "Restarts of this shard."),
    Metric("heartbeat_age_seconds", "age", "Time since the pipeline's last tick.", "seconds"),
    Metric(
        "last_message_age_seconds", "age", "Time since the last message, or the start.", "seconds"
    ),
    _counter("cpu_seconds", "CPU time of this shard's process.", "seconds"),
    _gauge("resident_bytes", "Resident memory of this shard's process.", "bytes"),
    _gauge("tasks", "Tasks of this shard's event loop."),
    # the registry
    _gauge("devices", "Devices in the registry."),
    _gauge("series", "Series (device × metric) in the registry."),
    _counter("registry_reloads", "Registries taken over since the start."),
    # bounds
    _gauge("receive_window_bound", "Messages the brokers may send unacknowledged."),
    _gauge("rate_bound", "Messages per second the receive window allows at today's ack time."),
    _gauge("ledger_bytes_bound", "runtime.memory_bound: beyond it sockets pause.", "bytes"),
    _gauge("sink_queue_bytes_bound", "queue_bytes of the sink.", "bytes", _SINK),
    _gauge("sink_spool_bytes_bound", "spool.max_bytes.", "bytes", _SINK),
    _gauge("outbox_bytes_bound", "alerts.outbox_max_bytes.", "bytes"),
    _gauge("dead_letter_bytes", "Bytes of dead letter files.", "bytes"),
    _gauge("dead_letter_bytes_bound", "sinks.dead_letter.max_bytes.", "bytes"),
)

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in CATALOG}


def _lay_out() -> tuple[dict[tuple[str, tuple[str, ...]], int], int]:
    """First cell of every (metric, label values), and the number of cells."""
    cells: dict[tuple[str, tuple[str, ...]], int] = {}
    size = 0
    for metric in CATALOG:
        if metric.scope == "site":
            continue
        for combination in metric.combinations():
            cells[metric.name, combination] = size
            size += metric.width
    return cells, size


_CELLS, SIZE = _lay_out()


def cell(name: str, /, **labels: str) -> int:
    """Index of a metric's (first) cell; resolve it once, at start.

    `name` is without prefix. Raises KeyError for an unknown metric, label or label value; where
    the label's values end with "other", an unknown value is counted as that.
    """
    metric = METRICS[name]
    if labels.keys() != {label for label, _ in metric.labels}:
        raise KeyError(f"{name} has the labels {[label for label, _ in metric.labels]}")
    values = tuple(
        OTHER if allowed[-1] == OTHER and labels[label] not in allowed else labels[label]
        for label, allowed in metric.labels
    )
    return _CELLS[name, values]


def render_markdown() -> str:
    """The catalogue as the body of `docs/metrics.md`."""
    lines = ["| metric | type | labels | what it says |", "|---|---|---|---|"]
    for metric in CATALOG:
        labels = {"gateway": [], "shard": ["`shard`"], "site": ["`org`", "`site`"]}[metric.scope]
        labels += [f"`{label}`: {', '.join(values)}" for label, values in metric.labels]
        kind = "gauge" if metric.kind == "age" else metric.kind
        lines.append(f"| `{metric.exported}` | {kind} | {'<br>'.join(labels)} | {metric.help} |")
    return "\n".join(lines) + "\n"
