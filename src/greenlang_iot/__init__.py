"""greenlang-iot: MQTT over TLS in, scored readings in InfluxDB and Kafka, alerts out."""

__version__ = "0.2.0"
